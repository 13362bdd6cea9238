"""Texts as ranges of one array of token ids: what the kernels of ROUGE, BLEU and chrF read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmanac.kernels.metrics.tokens import CLASSES, MOST_GROWTH, read_tokens, separate
from llmanac.kernels.text import pack, slots_for


@dataclass(frozen=True, eq=False)
class Ids:
    """Attributes:
    ids: (T,) int32 of all texts; vocabulary: the number of distinct ids.
    breaks: (L,) where lines end in `ids`; texts: (N,) where texts end in `breaks`.
    """

    ids: np.ndarray
    vocabulary: int
    breaks: np.ndarray
    texts: np.ndarray

    @property
    def ranges(self) -> np.ndarray:
        """(N, 2) the ids of each text."""
        return spans(self.breaks[self.texts - 1])

    @property
    def lines(self) -> np.ndarray:
        """(N, 2) the lines of each text."""
        return spans(self.texts)


def spans(ends: np.ndarray) -> np.ndarray:
    """(N,) ends of consecutive ranges -> (N, 2) ranges."""
    return np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype(np.int64)


def utf8(text: str) -> bytes:
    """The text in UTF-8; a lone surrogate as three bytes of its own."""
    return text.encode("utf-8", "surrogatepass")


def separated(texts: Sequence[bytes]) -> tuple[np.ndarray, int]:
    """Packed texts whose tokens by mteval-v13a have spaces around them."""
    buffer, end = pack(texts)
    most = MOST_GROWTH * max(map(len, texts)) + 16
    out = np.empty(MOST_GROWTH * end + 64, np.uint8)
    written = separate(buffer, end, CLASSES, np.empty(most, np.uint8), np.empty(most, np.uint8), out)
    return out, written


def words(buffer: np.ndarray, end: int, texts: int, keep: np.ndarray) -> tuple[Ids, np.ndarray]:
    """The ids of packed texts, and where each distinct word is: (V, 2) ranges of the buffer."""
    used = buffer[:end]
    inside = keep[used]
    most = int(np.count_nonzero(inside[1:] & ~inside[:-1])) + 1
    lines = int(np.count_nonzero(used == 10)) + texts
    table = np.zeros((slots_for(most), 4), np.uint64)
    starts, lengths = np.empty(most + 1, np.int64), np.empty(most + 1, np.int64)
    ids, breaks, ends = np.empty(most, np.int32), np.empty(lines, np.int64), np.empty(texts, np.int64)
    count, filled, lines = read_tokens(buffer, end, keep, table, starts, lengths, ids, breaks, ends)
    places = np.stack([starts[:count], starts[:count] + lengths[:count]], axis=1)
    return Ids(ids[:filled], count, breaks[:lines], ends), places
