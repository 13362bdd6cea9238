"""A tokenizer's tokens as tries of bytes, from which the tokens that may follow a text are read.

Tokens without quotes, backslashes and control characters are plain; most tokens are. Where any so many plain characters
may follow (inside of a string), plain tokens up to that length are allowed at once, and only the others are walked.
"""

from __future__ import annotations

import bisect
import re
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmanac.core.errors import RequestError
from llmanac.kernels.constrain import networks
from llmanac.kernels.constrain.items import LONGEST_TOKEN
from llmanac.kernels.constrain.networks import LONGEST_RUN

if TYPE_CHECKING:
    from llmanac.tokenizers import Tokenizer

RUNS = (LONGEST_RUN, 8)  # the lengths of plain tokens that are allowed at once
PLAIN_BYTES = re.compile(rb'[^\x00-\x1f"\\\x7f]+').fullmatch
_KNOWN: weakref.WeakKeyDictionary[Tokenizer, dict[frozenset[int], MaskVocabulary]] = weakref.WeakKeyDictionary()


class TokenSlice(NamedTuple):
    """Plain tokens of at most `run` characters as a mask, and the trie of all other tokens (`networks.trie`)."""

    run: int
    plain: np.ndarray
    nodes: np.ndarray
    same: np.ndarray


class MaskVocabulary:
    """The tokens of a tokenizer as bytes; the unknown one, ids without bytes and special tokens but those that are
    `shown` are never allowed.

    Attributes:
        size: one more than the highest id; words: (size / 32,) uint32 hold a mask.
        token: the bytes of each id, empty where it is never allowed; lengths: (32 words,) of those that may be.
        slices: from the longest run to 0, the last of all tokens.
    """

    def __init__(self, tokenizer: Tokenizer, shown: frozenset[int] = frozenset()) -> None:
        if tokenizer.separator:
            raise RequestError("constraint: this tokenizer puts text between its tokens; use one that is byte-level")
        special = {*tokenizer.special_tokens.values(), tokenizer.unknown_id} - shown
        self.size = tokenizer.vocab_size
        self.words = (self.size + 31) // 32
        self.token = [b"" if i in special else _bytes(tokenizer, i) for i in range(self.size)]
        ids = [i for i, data in enumerate(self.token) if 0 < len(data) <= LONGEST_TOKEN]
        ids.sort(key=lambda i: (self.token[i], -i))
        lengths = np.array([_plain_length(self.token[i]) for i in ids], np.int64)
        order = np.array(ids, np.int64)
        self.lengths = np.zeros(self.words * 32, np.int32)
        self.lengths[order] = [len(self.token[i]) for i in ids]
        self.sorted = [self.token[i] for i in ids]
        self.slices = [self._slice(order, lengths, run) for run in (*RUNS, 0)]

    def _slice(self, ids: np.ndarray, lengths: np.ndarray, run: int) -> TokenSlice:
        chosen = (lengths > 0) & (lengths <= run)
        bits = np.zeros(self.words * 32, np.uint8)
        bits[ids[chosen]] = 1
        plain = np.packbits(bits, bitorder="little").view(np.uint32)
        rest = ids[~chosen]
        parts = [self.token[i] for i in rest.tolist()]
        offsets = np.cumsum([0, *map(len, parts)])
        same = np.full(self.size, -1, np.int32)
        nodes = networks.trie(np.frombuffer(b"".join(parts) or b"\0", np.uint8), offsets, rest, same)
        return TokenSlice(run, plain, nodes, same)

    def longer(self, data: bytes) -> Iterator[int]:
        """The places from which on `data` is the beginning of a longer token, the first one first."""
        for at in range(max(0, len(data) - LONGEST_TOKEN), len(data)):
            rest = data[at:]
            place = bisect.bisect_right(self.sorted, rest)
            if place < len(self.sorted) and self.sorted[place].startswith(rest):
                yield at


def _bytes(tokenizer: Tokenizer, token: int) -> bytes:
    try:
        return tokenizer.token_bytes(token)
    except (ValueError, LookupError, StopIteration):  # an id that is not used
        return b""


def _plain_length(data: bytes) -> int:
    """Characters of a plain token; 0 for others."""
    if not PLAIN_BYTES(data):
        return 0
    try:
        return len(data.decode())
    except UnicodeDecodeError:
        return 0


def vocabulary_of(tokenizer: Tokenizer, shown: frozenset[int] = frozenset()) -> MaskVocabulary:
    """The tries of a tokenizer, made once; `shown` are special tokens that may be written."""
    known = _KNOWN.setdefault(tokenizer, {})
    if shown not in known:
        known[shown] = MaskVocabulary(tokenizer, shown)
    return known[shown]
