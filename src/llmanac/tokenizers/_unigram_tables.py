"""The arrays that the kernels need to cut text by a SentencePiece model: tries, scores, merges, where words may end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from llmanac.core.threads import Spares
from llmanac.kernels.sentencepiece import cut as unigram_cut
from llmanac.kernels.sentencepiece import encode as unigram_encode
from llmanac.kernels.sentencepiece import encode_bpe as unigram_encode_bpe
from llmanac.kernels.sentencepiece import merge as unigram_merge
from llmanac.kernels.sentencepiece import trie as unigram_trie
from llmanac.tokenizers import _pieces as spm
from llmanac.tokenizers._word_cache import WordCache

# by kind (numba checks their arguments, mypy cannot)
_ENCODE: dict[int, Any] = {unigram_cut.UNIGRAM: unigram_encode.encode, unigram_cut.BPE: unigram_encode_bpe.encode_bpe}
_PLACED: Any = unigram_cut.encode_placed
UNKNOWN_PENALTY = np.float32(10.0)  # how much worse than the worst piece an unknown character is
LARGEST = np.float32(3.4028234663852886e38)
NO_UNITS, NO_IDS = np.empty(0, np.uint32), np.empty(0, np.int32)
NO_PAIRS, NO_HALVES = np.full((1, 2), (1 << 64) - 1, np.uint64), np.empty((0, 2), np.int32)


@dataclass(frozen=True)
class Tables:
    """What decides how a packed, normalised buffer is cut.

    `node_scores` (ids,) float32 are the scores of a lattice's nodes, which for user-defined symbols count characters
    where `scores` count bytes, as the library does.
    """

    kind: int
    joins: np.ndarray
    nodes: np.ndarray
    scores: np.ndarray
    node_scores: np.ndarray
    unknown: int
    unknown_score: float = 0.0
    single: bool = False
    byte_ids: np.ndarray = field(default_factory=lambda: NO_IDS)
    escape: bool = False
    kept: np.ndarray = field(default_factory=lambda: NO_UNITS)
    pairs: np.ndarray = field(default_factory=lambda: NO_PAIRS)
    halves: np.ndarray = field(default_factory=lambda: NO_HALVES)

    @cached_property
    def _model(self) -> unigram_cut.Model:
        spent = self.scores.copy()  # the score of an unknown character is that of its first byte's piece
        for byte, id in enumerate(self.byte_ids.tolist()):
            if 0 <= id < len(spent):
                spent[id] = 0.0 if 0x80 <= byte < 0xC0 else self.unknown_score
        with np.errstate(over="ignore"):  # only where sums are not of 32-bit floats
            rounded = spent.astype(np.float32)
        return unigram_cut.Model(
            self.kind, self.nodes, self.scores, self.unknown, self.unknown_score, self.single, self.kept, self.pairs,
            self.halves, spent, rounded, self.byte_ids, self.escape,
        )  # fmt: skip

    def cut(self, buffer: np.ndarray, used: int, words: Spares[WordCache], text_ends: np.ndarray) -> np.ndarray:
        """(n,) int32 ids of the texts of a buffer; fills `text_ends`."""
        most = used * (3 if self.escape and len(self.byte_ids) else 1)
        with words.one() as known:
            out = known.room(most + 8)
            held = (known.rows, known.arena, known.counters)
            return out[: _ENCODE[self.kind](buffer, used, self._model, self.joins, *held, text_ends, out)].copy()

    def cut_placed(self, buffer: np.ndarray, used: int, text_ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `cut`, and (n, 2) int64: the bytes of the buffer that each id covers."""
        return _PLACED(buffer, used, self._model, self.joins, text_ends)

    @classmethod
    def of(cls, model: spm.Model) -> Tables:
        """The tables of a `.model` file."""
        escape, pieces = model.rules.escape_whitespaces, model.pieces
        is_bpe = model.setting("model_type") == spm.BPE
        types = np.array([piece.type for piece in pieces])
        scores = np.array([piece.score for piece in pieces], np.float32)
        normal = scores[types == spm.NORMAL]
        lowest = min(LARGEST, normal.min(initial=LARGEST))
        exact, node_scores = scores.astype(np.float64), scores.copy()
        for id in np.flatnonzero(types == spm.USER_DEFINED).tolist():
            text = pieces[id].text
            exact[id] = np.float32(0.1 * (len(text.encode()) - 1))
            node_scores[id] = np.float32(0.1 * (len(text) - 1))
        used = {spm.NORMAL, spm.USER_DEFINED} | ({spm.UNUSED} if is_bpe else set())
        ids = [id for id, piece in enumerate(pieces) if piece.type in used]
        keys = [inner(pieces[id].text, escape) for id in ids]
        taken = [i for i, key in enumerate(keys) if key]  # a piece with a plain space never matches escaped text
        ids, keys = [ids[i] for i in taken], [keys[i] for i in taken]
        kept = [inner(piece.text, escape) for piece in pieces if piece.type == spm.USER_DEFINED]
        byte_ids = NO_IDS
        if model.setting("byte_fallback"):
            byte_ids = np.empty(256, np.int32)
            for id in np.flatnonzero(types == spm.BYTE).tolist():
                byte_ids[spm.byte_of(pieces[id].text)] = id
        pairs, halves = NO_PAIRS, NO_HALVES
        joins, whole, values = joins_of(keys), keys, ids
        if is_bpe:
            whole, values = _with_characters(keys, ids, len(pieces))
            if (types == spm.UNUSED).any():
                halves = np.full((max(values, default=0) + 1, 2), unigram_merge.NOT_UNUSED, np.int32)
                halves[np.flatnonzero(types == spm.UNUSED), 0] = unigram_merge.NOT_JOINED
                joins[:] = True  # how such a piece comes apart depends on the whole text
                joins.reshape(256, 256)[:, 0xFF] = joins.reshape(256, 256)[0xFF] = False
        nodes = unigram_trie.walkable(unigram_trie.trie_of(whole or [b"\xfe"], values or [0]))
        if is_bpe and keys:
            pairs = _pairs(keys, ids, scores[ids], nodes)
        return cls(
            kind=unigram_cut.BPE if is_bpe else unigram_cut.UNIGRAM,
            joins=joins,
            nodes=nodes,
            scores=exact,
            node_scores=node_scores,
            unknown=int(np.flatnonzero(types == spm.UNKNOWN)[0]),
            unknown_score=float(np.float32(lowest - UNKNOWN_PENALTY)),
            single=True,
            byte_ids=byte_ids,
            escape=escape,
            kept=unigram_trie.trie_of([k for k in kept if k], [0] * len(kept)) if any(kept) else NO_UNITS,
            pairs=pairs,
            halves=halves,
        )


def inner(text: str, escape: bool) -> bytes:
    """A piece as normalised text holds it: one byte for a space. Empty where no normalised text can hold it."""
    if escape:
        return b"" if " " in text else text.replace(spm.SPACE, " ").encode("utf-8")
    return text.encode("utf-8")


def joins_of(keys: Iterable[bytes]) -> np.ndarray:
    """(65536,) bool by `first | second << 8`: whether two bytes are neighbours in some piece or in a character."""
    joins = np.zeros(65536, np.bool_)
    joins.reshape(256, 256)[0x80:0xC0] = True
    letters = np.frombuffer(b"\xff".join(keys) + b"\xff", np.uint8).astype(np.int64)
    joins[letters[:-1] | letters[1:] << 8] = True
    joins.reshape(256, 256)[:, 0xFF] = joins.reshape(256, 256)[0xFF] = False
    return joins


def _with_characters(keys: list[bytes], ids: list[int], vocabulary: int) -> tuple[list[bytes], list[int]]:
    """The keys and every character of theirs, with their ids; characters that are no piece get new ones."""
    missing = {c.encode("utf-8") for c in {c for key in keys for c in key.decode("utf-8")}}.difference(keys)
    return [*keys, *sorted(missing)], [*ids, *range(vocabulary, vocabulary + len(missing))]


def _pairs(keys: list[bytes], ids: list[int], scores: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """The table of what is merged, of pieces with these scores."""
    # floats in the order of their bits, where 0.0 is above -0.0 as in the library; the best is first
    bits = scores.view(np.int32).astype(np.int64)
    ranks = np.unique(-np.where(bits < 0, -(bits & 0x7FFFFFFF) - 1, bits), return_inverse=True)[1]
    offsets = np.cumsum([0, *map(len, keys)])
    letters = np.frombuffer(b"".join(keys), np.uint8)
    found: np.ndarray = unigram_merge.halves_of(letters, offsets, np.array(ids, np.int64), ranks, nodes)
    return found
