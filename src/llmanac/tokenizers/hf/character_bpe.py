"""A `tokenizer.json` of the BPE kind over characters (Llama-2, Mistral, Gemma): ids equal to Hugging Face `tokenizers`.

A word starts as its characters; a character that is no entry becomes the entries of its UTF-8 bytes, `<0x00>` to
`<0xFF>` (byte fallback), else the unknown token (a run of them one where `fuse_unk` is on), else nothing. Then the
pairs of the merge list are merged, the first of the list first, leftmost first. Only what the list has is merged: a
`.model` merges whatever spells a piece. The parts around the model are read as for the Unigram kind.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from llmanac.core.errors import TokenizerError
from llmanac.kernels.sentencepiece import cut as unigram_cut
from llmanac.kernels.sentencepiece import merge as unigram_merge
from llmanac.kernels.sentencepiece import trie as unigram_trie
from llmanac.kernels.text import pack
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers._bpe import _last_of_each
from llmanac.tokenizers._pieces import byte_of
from llmanac.tokenizers._unigram_tables import NO_IDS, NO_PAIRS, Tables, joins_of
from llmanac.tokenizers.hf.fields import PARTS, byte_fallback_of, require_text, switch_of
from llmanac.tokenizers.hf.unigram import UnigramJson


class _Shortened(str):
    """A word without the characters that have no entry: it is not an entry, whatever it spells now."""

    __slots__ = ()


class CharacterBPE(UnigramJson):
    """A BPE model over characters as `tokenizers` runs it.

    Args:
        entries: the vocabulary, id of each entry; ids may have gaps.
        merges: (3, n) int32 ids `left, right, merged` in rank order.
        unknown: the id of what is unknown; None leaves such characters out.
        fuse_unknown: whether a run of unknown characters is one token.
        whole_words: whether a word that is itself an entry is not merged (`ignore_merges`).
        **parts: byte_fallback, document, added tokens and roles, as `UnigramJson` takes them.
    """

    _guarded_tables = (*UnigramJson._guarded_tables, "_plain")
    unknown_is_fused = False

    def __init__(
        self,
        entries: Mapping[str, int],
        merges: np.ndarray,
        unknown: int | None,
        *,
        fuse_unknown: bool,
        whole_words: bool,
        **parts: Any,
    ) -> None:
        vocab = [("", 0.0)] * (1 + max(entries.values()))
        for text, id in entries.items():
            vocab[id] = (text, 0.0)
        super().__init__(vocab, unknown, **parts)
        self.entries, self.merges = dict(entries), _last_of_each(merges)
        self.fuse_unknown, self.whole_words = fuse_unknown, whole_words
        self.unknown_id = None if self.byte_fallback else unknown

    def _vocabulary(self) -> list[bytes | None]:
        table = super()._vocabulary()
        added = {token.id for token in self.added.tokens}
        for id, (text, _) in enumerate(self.vocab):
            if not text and id not in added:
                table[id] = None
        return table

    @cached_property
    def _plain(self) -> dict[str, int]:
        """The entries that plain text may become: control tokens are not among them."""
        return {text: id for text, id in self.entries.items() if id not in self._guarded_ids}

    @cached_property
    def tables(self) -> Tables:
        """What the kernels need."""
        allowed = set(self._plain.values())
        left, right, merged = self.merges.astype(np.int64)
        ranks = np.arange(len(merged))
        kept = np.array([id in allowed for id in merged.tolist()], np.bool_)
        pairs = NO_PAIRS
        if kept.any():
            pairs = unigram_merge.ranked_pairs(left[kept], right[kept], merged[kept], ranks[kept])
        single = {text.encode("utf-8"): id for text, id in self._plain.items() if len(text) == 1}
        byte_ids = NO_IDS
        if self.byte_fallback:
            byte_ids = np.array([self.entries[f"<0x{byte:02X}>"] for byte in range(256)], np.int32)
        return Tables(
            kind=unigram_cut.BPE,
            joins=joins_of([self.vocab[id][0].encode("utf-8") for id in set(merged[kept].tolist())]),
            nodes=unigram_trie.walkable(unigram_trie.trie_of(list(single) or [b"\xfe"], list(single.values()) or [0])),
            scores=np.zeros(len(self.vocab), np.float64), node_scores=np.zeros(len(self.vocab), np.float32),
            unknown=len(self.vocab) if self.unknown is None else self.unknown, byte_ids=byte_ids, pairs=pairs,
        )  # fmt: skip

    def _split_words(self, text: str, first: bool) -> list[tuple[str, np.ndarray]]:
        words = super()._split_words(text, first)
        if self.byte_fallback or self.unknown is not None:
            return words
        out = []
        for word, where in words:  # what has no entry leaves no trace, and its neighbours may be merged
            if self.whole_words and word in self._plain:
                out.append((word, where))
                continue
            kept = [i for i, character in enumerate(word) if character in self._plain]
            if kept:
                short = "".join(word[i] for i in kept)
                out.append((word if len(short) == len(word) else _Shortened(short), where[[*kept, len(word)]]))
        return out

    def _cut(self, words: Sequence[str], placed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        apart = self.unknown is not None and not self.byte_fallback and not self.fuse_unknown
        if not apart and not self.whole_words:
            return super()._cut(words, placed)
        ids, ends, spans = super()._cut(words, True)
        buffer, _ = pack([word.encode("utf-8") for word in words])
        if apart and len(ids):
            ids, ends, spans = self._taken_apart(ids, ends, spans, buffer)
        if self.whole_words and words:
            ids, ends, spans = self._left_whole(words, ids, ends, spans)
        return ids, ends, spans if placed else np.empty((0, 2), np.int64)

    def _taken_apart(
        self, ids: np.ndarray, ends: np.ndarray, spans: np.ndarray, buffer: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One unknown token a character, where a run of them was made one."""
        starts = np.flatnonzero((buffer & 0xC0) != 0x80)
        firsts = np.searchsorted(starts, spans[:, 0])
        times = np.where(ids == self.unknown, np.searchsorted(starts, spans[:, 1]) - firsts, 1)
        within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        places = np.repeat(firsts, times) + within
        many = np.repeat(times > 1, times)
        spread = np.repeat(spans, times, axis=0)
        spread[many, 0], spread[many, 1] = starts[places[many]], starts[places[many] + 1]
        return np.repeat(ids, times), np.concatenate([[0], np.cumsum(times)])[ends], spread

    def _left_whole(
        self, words: Sequence[str], ids: np.ndarray, ends: np.ndarray, spans: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Words that are an entry as one token each."""
        sizes = np.array([len(word.encode("utf-8")) for word in words], np.int64)
        starts = np.cumsum(sizes + 1) - sizes - 1
        out, places, stops, before = [], [], [], 0
        for word, start, size, stop in zip(words, starts.tolist(), sizes.tolist(), ends.tolist(), strict=True):
            whole = None if isinstance(word, _Shortened) else self._plain.get(word)
            out.append(ids[before:stop] if whole is None else np.array([whole], np.int32))
            places.append(spans[before:stop] if whole is None else np.array([[start, start + size]], np.int64))
            before = stop
            stops.append(len(out[-1]))
        return np.concatenate(out), np.cumsum(stops), np.concatenate(places)

    def sample(self, text: str, *, seed: int, alpha: float = 0.1, nbest: int = -1, **choices: Any) -> list[int]:
        """One segmentation of a text, each merge left out with probability `alpha`; see `SentencePiece.sample`."""
        if not self.byte_fallback or self.whole_words:
            return Tokenizer.sample(self, text, seed=seed)
        return super().sample(text, seed=seed, alpha=alpha, nbest=nbest, **choices)

    def _identity(self) -> Any:
        rules = [self.unknown, self.byte_fallback, self.fuse_unknown, self.whole_words]
        digest = hashlib.sha256(json.dumps([sorted(self.entries.items()), rules]).encode())
        digest.update(self.merges.tobytes())
        return [digest.hexdigest(), [self.document.get(part) for part in ("normalizer", "pre_tokenizer")]]


def from_model(
    document: Mapping[str, Any],
    entries: Mapping[str, int],
    merges: np.ndarray,
    unknown: int | None,
    added: Sequence[AddedToken],
    **roles: Any,
) -> CharacterBPE:
    """The tokenizer that a parsed file describes; `entries`, `merges` and `unknown` are those of its model, checked.

    Raises:
        TokenizerError: what the file asks for and this package cannot do, by its name; a vocabulary that is broken.
    """
    model = document["model"]
    byte_fallback = byte_fallback_of(model, entries)
    given = {token.id for token in added}
    for text, id in entries.items():
        require_text(text, f"model.vocab (id {id})")
        if "\0" in text and id not in given:
            raise TokenizerError(f"model.vocab: {text[:40]!r} (id {id}) holds a NUL character, which is not supported")
    highest, room = max(entries.values()), len(entries) + len(given)
    if highest >= 2 * room + 1024:
        raise TokenizerError(f"model.vocab: {len(entries)} entries, but ids up to {highest}; too many have no entry")
    text_of = {id: text for text, id in entries.items()}
    for rank, (left, right, merged) in enumerate(merges.T.tolist()):
        if merged == unknown or unknown in (left, right):
            raise TokenizerError(f"model.merges[{rank}]: merges or makes the unknown token, which is not supported")
        part = next((text_of[id] for id in (left, right) if byte_of(text_of[id]) >= 0), None)
        if byte_fallback and part is not None:
            raise TokenizerError(f"model.merges[{rank}]: merges {part!r}, which stands for a byte; not supported")
    return CharacterBPE(
        entries, merges, unknown, fuse_unknown=switch_of(model, "fuse_unk", "model"),
        whole_words=switch_of(model, "ignore_merges", "model"), byte_fallback=byte_fallback,
        document={part: document.get(part) for part in PARTS}, added=added, **roles,
    )  # fmt: skip
