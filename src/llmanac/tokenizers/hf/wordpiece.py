"""WordPiece (BERT): the longest piece that the rest of a word begins with, again and again; read from files.

A piece that does not begin its word is written with a prefix (`##`). A word of more than `longest` characters, and
one with a rest that no piece begins, is the unknown token as a whole. Ids equal those of Hugging Face `tokenizers`.
Schuster & Nakajima 2012; Wu et al. 2016 for the name; Devlin et al. 2019 for the greedy search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers._normal import replace_surrogates
from llmanac.tokenizers._normal_tokens import Normalised
from llmanac.tokenizers.hf import fields
from llmanac.tokenizers.hf.bert import BertNormalizer, words
from llmanac.tokenizers.hf.unigram import UnigramJson

SPARE_IDS = 1024  # ids without an entry that a vocabulary may have, so that a huge one cannot fill the memory
MOST_WORDS, LONG = 1 << 17, 64  # words whose ids are remembered, and characters of the longest of them
MOST_CHARACTERS = 1_000  # of a word, since the search takes the square of it


class WordPiece(UnigramJson):
    """A WordPiece model as `tokenizers` runs it.

    Args:
        entries: the vocabulary, id of each entry.
        unknown: the id of what is unknown.
        prefix: what pieces inside a word are written with.
        longest: characters of the longest word that is cut.
        **parts: document, added tokens and roles, as `UnigramJson` takes them.
    """

    _guarded_tables = ("_starts", "_rests", "_known")

    def __init__(self, entries: Mapping[str, int], unknown: int, *, prefix: str, longest: int, **parts: Any) -> None:
        vocab = [("", 0.0)] * (1 + max(entries.values()))
        for text, id in entries.items():
            vocab[id] = (text, 0.0)
        super().__init__(vocab, unknown, False, **parts)
        self.entries, self.prefix, self.longest, self.unknown_id = dict(entries), prefix, longest, unknown
        before = fields.steps_of(self.document.get("normalizer"), "normalizer", "normalizers")
        cuts = fields.steps_of(self.document.get("pre_tokenizer"), "pre_tokenizer", "pretokenizers")
        usual = [step.get("type") for step in (*before, *cuts)] == ["BertNormalizer", "BertPreTokenizer"]
        self._bert = BertNormalizer(before[0], "normalizer") if usual else None

    def _vocabulary(self) -> list[bytes | None]:
        table = super()._vocabulary()
        added = {token.id for token in self.added.tokens}
        return [None if data == b"" and id not in added else data for id, data in enumerate(table)]

    @cached_property
    def _starts(self) -> dict[str, int]:
        """The entries that plain text may become: control tokens are not among them."""
        return {text: id for text, id in self.entries.items() if id not in self._guarded_ids}

    @cached_property
    def _rests(self) -> dict[str, int]:
        """What may continue a word, without the prefix."""
        cut = len(self.prefix)
        return {text[cut:]: id for text, id in self._starts.items() if text.startswith(self.prefix)}

    @cached_property
    def _most(self) -> int:
        return max(map(len, self.entries))

    @cached_property
    def _known(self) -> _Known:
        return _Known(self)

    def forget_words(self) -> None:
        """Empty the word cache."""
        self.__dict__.pop("_known", None)

    def pieces(self, word: str) -> list[tuple[int, int, int]]:
        """`(id, first character, last + 1)` of each piece of a word."""
        size, start, table = len(word), 0, self._starts
        whole = [(self.unknown_id or 0, 0, size)]
        if size > self.longest:
            return whole
        found: list[tuple[int, int, int]] = []
        while start < size:
            for stop in range(min(size, start + self._most), start, -1):
                id = table.get(word[start:stop])
                if id is not None:
                    break
            else:
                return whole
            found.append((id, start, stop))
            start, table = stop, self._rests
        return found

    # -------------------------------------------------------------------------------- encoding
    def _words(self, text: str, first: bool) -> list[str]:
        if self._bert is None or isinstance(text, Normalised):
            return super()._words(text, first)
        return words(self._bert.bare(replace_surrogates(text)[0]), bool(self._bert.chinese))

    def _encode_words(self, words: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
        known = self._known
        found = [list(chain.from_iterable([known[word] for word in group])) for group in words]
        ends = np.cumsum([len(ids) for ids in found], dtype=np.int64)
        return np.array(list(chain.from_iterable(found)), np.int32), ends

    def _placed(self, text: str, first: bool) -> tuple[np.ndarray, list[tuple[int, int]]]:
        clean, places = self._normal_form(text)
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for word, where in self._split_words(clean, first):
            for id, start, stop in self.pieces(word):
                ids.append(id)
                spans.append((int(where[start]), int(where[stop])))
        if places is not None:
            # a stretch that is decomposed is placed as one
            spans = [(int(places[a]), max(int(places[a]) + 1, int(places[b]))) for a, b in spans]
        return np.array(ids, np.int32), spans

    def sample(self, text: str, *, seed: int, **choices: Any) -> list[int]:
        """Raises TokenizerError: there is one segmentation."""
        return Tokenizer.sample(self, text, seed=seed, **choices)

    # -------------------------------------------------------------------------------- identity
    def _identity(self) -> Any:
        around = [self.document.get(part) for part in ("normalizer", "pre_tokenizer")]
        return ["wordpiece", sorted(self.entries.items()), self.unknown_id, self.prefix, self.longest, around]


class _Known(dict[str, tuple[int, ...]]):
    """Word -> ids of its pieces, remembered for the short ones."""

    def __init__(self, tokenizer: WordPiece) -> None:
        super().__init__()
        self._pieces = tokenizer.pieces

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(id for id, _, _ in self._pieces(word))
        if len(word) <= LONG:
            if len(self) >= MOST_WORDS:
                self.clear()
            self[word] = ids
        return ids


def from_model(document: Mapping[str, Any], added: Sequence[AddedToken], **roles: Any) -> WordPiece:
    """The tokenizer of a parsed `tokenizer.json`.

    Raises:
        TokenizerError: what is broken in it, or what it asks for and this package cannot do.
    """
    model = document["model"]
    vocab, _ = fields.vocabulary_entries(model, added, lambda text: text.encode("utf-8", "replace"))
    for text in vocab:
        fields.require_text(text, f"model.vocab: {text[:40]!r}")
    if max(vocab.values()) >= len(vocab) + 2 * len(added) + SPARE_IDS:
        raise TokenizerError(f"model.vocab: {len(vocab)} entries, but ids up to {max(vocab.values())}; leave no gaps")
    unknown, prefix = model.get("unk_token", "[UNK]"), model.get("continuing_subword_prefix", "##")
    longest = model.get("max_input_chars_per_word", 100)
    if not isinstance(unknown, str) or unknown not in vocab:
        raise TokenizerError(f"model.unk_token: {str(unknown)[:40]!r} is not in the vocabulary")
    if not isinstance(prefix, str):
        raise TokenizerError(f"model.continuing_subword_prefix: expected text, got {repr(prefix)[:40]}")
    if type(longest) is not int or not 0 <= longest <= MOST_CHARACTERS:
        raise TokenizerError(
            f"model.max_input_chars_per_word: expected a number up to {MOST_CHARACTERS:,}, got {repr(longest)[:40]}"
        )
    parts = {part: document.get(part) for part in fields.PARTS}
    return WordPiece(vocab, vocab[unknown], prefix=prefix, longest=longest, document=parts, added=added, **roles)
