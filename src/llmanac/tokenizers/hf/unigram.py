"""A `tokenizer.json` of the Unigram kind, read strictly: ids equal to those of Hugging Face `tokenizers`.

It differs from a `.model` in ways that show in ids: scores are 64-bit floats summed up anew for each word, every piece
of the vocabulary can match, and a compiled map of rules is applied to grapheme clusters, then to characters, taking the
shortest rule instead of the longest.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from llmanac.core.errors import TokenizerError
from llmanac.core.threads import Spares
from llmanac.kernels.sentencepiece import cut as unigram_cut
from llmanac.kernels.sentencepiece import trie as unigram_trie
from llmanac.kernels.text import pack
from llmanac.tokenizers._added import AddedToken, TextPart
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers._checks import id_list
from llmanac.tokenizers._normal import Placed, compose, replace_surrogates
from llmanac.tokenizers._normal_tokens import Normalised, NormalTokens
from llmanac.tokenizers._pieces import byte_of
from llmanac.tokenizers._unigram import SampleCache, refuse_others, sampled
from llmanac.tokenizers._unigram_tables import NO_IDS, UNKNOWN_PENALTY, Tables, joins_of
from llmanac.tokenizers._word_cache import WordCache
from llmanac.tokenizers.hf import steps
from llmanac.tokenizers.hf.decoders import decoder
from llmanac.tokenizers.hf.fields import PARTS, byte_fallback_of, require_text

LARGEST = float(np.finfo(np.float32).max)


class UnigramJson(Tokenizer):
    """A Unigram model as `tokenizers` runs it.

    Args:
        vocab: `(piece, score)` by id. unknown: the id of what is unknown; None makes such a text an error.
        byte_fallback: whether unknown characters become the pieces `<0x00>` to `<0xFF>`.
        document: the parts of the file around the model, which `save` keeps.
        **roles: added tokens, bos, eos, pad, adds_bos, chat_template, as `Tokenizer` takes them.
    """

    _guarded_tables: tuple[str, ...] = ("tables", "_words_known", "_draws")
    unknown_is_fused = True  # one run of unknown characters, whose bytes all have its place
    lossless = False  # what its normaliser and its marks for spaces leave is the text's normal form

    def __init__(
        self,
        vocab: Sequence[tuple[str, float]],
        unknown: int | None,
        byte_fallback: bool,
        document: Mapping[str, Any],
        **roles: Any,
    ) -> None:
        super().__init__(**roles)
        self.vocab, self.unknown = list(vocab), unknown
        self.byte_fallback, self.document = byte_fallback, dict(document)
        self._normalize = steps.Normalizer(document.get("normalizer"))
        self.added = NormalTokens(self.added.tokens, self._normalize.text)
        self._split = steps.pre_tokenizer(document.get("pre_tokenizer"))
        steps.check_first(document.get("normalizer"), document.get("pre_tokenizer"))
        self._join = decoder(document.get("decoder"))
        self.vocab_size = self.added.vocab_size(len(self.vocab))

    @cached_property
    def _words_known(self) -> Spares[WordCache]:
        return Spares(WordCache)

    @cached_property
    def _draws(self) -> SampleCache:
        return SampleCache()

    @cached_property
    def _guards(self) -> bool:
        return any(id < len(self.vocab) and self.vocab[id][0] for id in self.special_tokens.values())

    @cached_property
    def tables(self) -> Tables:
        """What the kernels need."""
        ids = [id for id, (text, _) in enumerate(self.vocab) if text and id not in self._guarded_ids]
        keys = [self.vocab[id][0].encode("utf-8") for id in ids]
        scores = np.array([score for _, score in self.vocab], np.float64)
        lowest = float(scores.min())
        if self.unknown in ids and self.byte_fallback:  # written out, it is distinguished from unknown text
            ids[ids.index(self.unknown)] = len(self.vocab)
            scores = np.append(scores, self.vocab[self.unknown][1])
        missing = len(self.vocab) if self.unknown is None else self.unknown
        byte_ids = NO_IDS
        if self.byte_fallback:
            byte_ids = np.full(256, -1, np.int32)
            for id, (text, _) in enumerate(self.vocab):
                if byte_of(text) >= 0:
                    byte_ids[byte_of(text)] = id
        return Tables(
            kind=unigram_cut.UNIGRAM, joins=joins_of(keys),
            nodes=unigram_trie.walkable(unigram_trie.trie_of(keys or [b"\xfe"], ids or [0])),
            scores=scores, node_scores=scores.astype(np.float32), unknown=missing,
            unknown_score=lowest - float(UNKNOWN_PENALTY), byte_ids=byte_ids,
        )  # fmt: skip

    def forget_words(self) -> None:
        """Empty the word cache."""
        for cache in self._words_known.idle:
            cache.forget()

    def _vocabulary(self) -> list[bytes | None]:
        table: list[bytes | None] = [None] * self.vocab_size
        for id, (text, _) in enumerate(self.vocab):
            byte = byte_of(text) if self.byte_fallback else -1
            table[id] = bytes([byte]) if byte >= 0 else text.replace(steps.SPACE, " ").encode("utf-8")
        for token in self.added.tokens:
            table[token.id] = token.text.encode("utf-8")
        return table

    # -------------------------------------------------------------------------------- encoding
    def _normal_form(self, text: str) -> Placed:
        if isinstance(text, Normalised):
            return text, None
        clean = replace_surrogates(text)
        return compose(clean, self._normalize(clean[0]))

    def _normal_text(self, text: str) -> str:
        return text if isinstance(text, Normalised) else self._normalize.text(replace_surrogates(text)[0])

    def _encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return self._encode_words([self._words(text, True) for text in texts])

    def _encode_parts(self, parts: Sequence[TextPart]) -> list[np.ndarray]:
        ids, ends = self._encode_words([self._words(part.text, part.start == 0) for part in parts])
        return np.split(ids, ends[:-1]) if parts else []

    def _encode_words(self, words: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
        """`(ids, where those of each text end)` of the pre-tokens of texts."""
        ids, ends, _ = self._cut([word for group in words for word in group], False)
        return ids, np.append(0, ends)[np.cumsum([len(group) for group in words], dtype=np.int64)]

    def _words(self, text: str, first: bool) -> list[str]:
        """The pre-tokens of a text."""
        return [word for word, _ in self._split_words(self._normal_text(text), first)]

    def _split_words(self, text: str, first: bool) -> list[tuple[str, np.ndarray]]:
        """The pre-tokens of a normalised text, and where the characters of each start in it."""
        return self._split(text, first)

    def _cut(self, words: Sequence[str], placed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        buffer, used = pack([word.encode("utf-8") for word in words])
        if not words:
            used = 0
        ends = np.zeros(max(len(words), 1), np.int64)
        if placed:
            ids, spans = self.tables.cut_placed(buffer, used, ends)
        else:
            ids, spans = self.tables.cut(buffer, used, self._words_known, ends), np.empty((0, 2), np.int64)
        if self.unknown is None and len(ids) and (ids == len(self.vocab)).any():
            raise TokenizerError(
                "the text holds a character that has no piece, and the vocabulary has no unknown token"
            )
        written = ids == len(self.vocab)
        if written.any():  # only where the unknown token is written out, and there are bytes
            if not placed:
                ids, ends, spans = self._cut(words, True)
                return ids, ends, np.empty((0, 2), np.int64)
            ids, ends, spans = self._unknown_written(ids, ends, spans, written)
        return ids, ends[: len(words)], spans

    def _unknown_written(
        self, ids: np.ndarray, ends: np.ndarray, spans: np.ndarray, written: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The unknown token's name as the token, or as bytes where something unknown is next to it."""
        unknown = written | (np.isin(ids, self.tables.byte_ids) & (spans[:, 1] - spans[:, 0] < len("<0x00>")))
        touches = spans[1:, 0] <= spans[:-1, 1]
        joined = np.zeros(len(ids), np.bool_)
        joined[1:] |= unknown[:-1] & touches
        joined[:-1] |= unknown[1:] & touches
        name = self.tables.byte_ids[list(self.vocab[self.unknown or 0][0].encode("utf-8"))]
        parts = [
            [id] if not named else name.tolist() if touched else [self.unknown]
            for id, named, touched in zip(ids.tolist(), written.tolist(), joined.tolist(), strict=True)
        ]
        sizes = np.array([len(part) for part in parts], np.int64)
        new = np.array([id for part in parts for id in part], np.int32)
        return new, np.concatenate([[0], np.cumsum(sizes)])[ends], np.repeat(spans, sizes, axis=0)

    def _encode_placed(self, part: TextPart) -> tuple[np.ndarray, list[tuple[int, int]]]:
        return self._placed(part.text, part.start == 0)

    def _spans(self, ids: np.ndarray, text: str) -> list[tuple[int, int]]:
        return self._placed(text, True)[1]

    def _placed(self, text: str, first: bool) -> tuple[np.ndarray, list[tuple[int, int]]]:
        clean, places = self._normal_form(text)
        words = self._split_words(clean, first)
        ids, _, spans = self._cut([word for word, _ in words], True)
        starts: list[np.ndarray] = []  # of each byte of the packed words, and of the 0xFF behind: a character of clean
        for word, where in words:
            raw = np.frombuffer(word.encode("utf-8"), np.uint8)
            starts += [where[np.cumsum((raw & 0xC0) != 0x80) - 1], where[-1:]]
        byte_place = np.concatenate(starts) if starts else np.zeros(1, np.int64)
        found = byte_place[self._whole_unknown(ids, spans) if self.byte_fallback and self.unknown_is_fused else spans]
        if places is not None:
            found = places[found]
        return ids, [(a, b) for a, b in found.tolist()]

    def _whole_unknown(self, ids: np.ndarray, spans: np.ndarray) -> np.ndarray:
        """The spans where each byte of a run of unknown characters has the run's."""
        fallback = np.isin(ids, self.tables.byte_ids) & (spans[:, 1] - spans[:, 0] < len("<0x00>"))
        joins = fallback[1:] & fallback[:-1] & (spans[1:, 0] <= spans[:-1, 1])
        runs = np.concatenate([[0], np.cumsum(~joins)]) if len(ids) else np.zeros(0, np.int64)
        firsts = np.flatnonzero(np.diff(runs, prepend=-1))
        lasts = np.append(firsts[1:], len(ids)) - 1
        return np.stack([spans[firsts[runs], 0], spans[lasts[runs], 1]], 1) if len(ids) else spans

    def sample(self, text: str, *, seed: int, alpha: float = 0.1, nbest: int = -1, **choices: Any) -> list[int]:
        """One segmentation of a text, drawn by its probability; see `SentencePiece.sample`."""
        refuse_others(choices)
        if not isinstance(text, str):
            return self.encode(text)
        words = self._words(text, True)
        buffer, used = pack([word.encode("utf-8") for word in words])
        return sampled(self.tables, self._draws, buffer, used if words else 0, seed, alpha, nbest)

    def _extended(self, texts: Iterable[str], extra: int) -> Tokenizer:
        raise TokenizerError(
            "extend: this kind of tokenizer.json learns no further pieces; extend the .model it was made from"
        )

    # -------------------------------------------------------------------------------- decoding
    def decode(self, ids: Any, *, skip_special: bool = False) -> str:
        """The text of the ids as the file's decoder makes it. Raises TokenizerError for an unknown id."""
        numbers = id_list(ids)
        added = {token.id: self.added.written(token) for token in self.added.tokens}
        tokens: list[str] = []
        for id in numbers:
            self.token_bytes(id)
            if skip_special and id in self._skipped_ids:
                continue
            tokens.append(added[id] if id in added else self.vocab[id][0])
        return self._join(tokens)

    # -------------------------------------------------------------------------------- identity
    def _identity(self) -> Any:
        digest = hashlib.sha256(json.dumps([self.vocab, self.unknown, self.byte_fallback]).encode())
        return [digest.hexdigest(), [self.document.get(part) for part in ("normalizer", "pre_tokenizer")]]


def from_document(document: Mapping[str, Any], added: Sequence[AddedToken], **roles: Any) -> UnigramJson:
    """The tokenizer that a parsed file describes.

    Raises:
        TokenizerError: what the file asks for and this package cannot do, by its name; a vocabulary that is broken.
    """
    model = document["model"]
    listed = model.get("vocab")
    if not isinstance(listed, list) or not listed:
        raise TokenizerError("model.vocab: expected a list of pieces with scores")
    vocab: list[tuple[str, float]] = []
    ids: dict[str, int] = {}
    for i, item in enumerate(listed):
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], str):
            raise TokenizerError(f"model.vocab[{i}]: expected a piece and its score, got {str(item)[:60]!r}")
        text, score = item
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not abs(score) <= LARGEST:  # NaN too
            raise TokenizerError(
                f"model.vocab[{i}] ({text[:40]!r}): its score is {repr(score)[:40]}, no finite number of 32 bits"
            )
        if text in ids:
            raise TokenizerError(f"model.vocab: the entries {ids[text]} and {i} are both {text[:40]!r}")
        require_text(text, f"model.vocab[{i}]")
        if "\0" in text:
            raise TokenizerError(f"model.vocab[{i}]: {text[:40]!r} holds a NUL character, which is not supported")
        ids[text] = i
        vocab.append((text, float(score)))
    unknown = model.get("unk_id")
    if unknown is not None and (type(unknown) is not int or not 0 <= unknown < len(vocab)):
        raise TokenizerError(f"model.unk_id: {unknown!r} is no id of the vocabulary of {len(vocab)}")
    byte_fallback = byte_fallback_of(model, ids)
    for token in added:
        if token.id < len(vocab) and vocab[token.id][0] != token.text:
            raise TokenizerError(
                f"added token {token.text!r}: its id {token.id} is {vocab[token.id][0]!r} in model.vocab"
            )
    parts = {part: document.get(part) for part in PARTS}
    return UnigramJson(vocab, unknown, byte_fallback, parts, added=added, **roles)
