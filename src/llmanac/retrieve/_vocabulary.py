"""Numbers of words: the first word is 0, the next new one 1, ...; a compiled hash table over the words' bytes."""

import functools
import secrets
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from llmanac.core.errors import DataError
from llmanac.kernels.text import cached

TOGETHER = 64  # texts whose words are numbered by one call
_PRIME, _MIX = np.uint64(0x100000001B3), np.uint64(0xBF58476D1CE4E5B9)
_HIGH, _LOW, _HALF = np.uint64(0xFFFFFFFF00000000), np.uint64(0xFFFFFFFF), np.uint64(32)


@functools.partial(cached, nogil=True)
def number_words(
    data: np.ndarray,
    table: np.ndarray,
    pool: np.ndarray,
    ends: np.ndarray,
    size: int,
    ids: np.ndarray,
    first: np.uint64,
) -> tuple[int, int]:
    """Number the words of `data` (B,), bytes in which a 0 ends each word (FNV-1a, linear probing).

    Args:
        table: (2^n,) uint64: the upper half of a word's hash and its number + 1, 0 where empty; at most half full.
        pool: bytes of the known words, 0 after each, with room for those of `data`; ends: where each of them ends.
        size: how many are known; ids: room for the number of every word, or (0,).
        first: what a hash begins with.

    Returns:
        how many words `data` has, and how many are known.
    """
    mask, count, begin, value = np.uint64(len(table) - 1), 0, 0, first
    for i in range(len(data)):
        if data[i] != 0:
            value = (value ^ np.uint64(data[i])) * _PRIME
            continue
        value = (value ^ (value >> _HALF)) * _MIX
        tag, at, length, number = value & _HIGH, (value >> _HALF) & mask, i - begin, -1
        while number < 0:
            entry = table[at]
            if entry == 0:
                start = ends[size - 1] + 1 if size else 0
                for j in range(length + 1):
                    pool[start + j] = data[begin + j]
                ends[size] = start + length
                number, size = size, size + 1
                table[at] = tag | np.uint64(size)
            elif entry & _HIGH == tag:
                known = int(entry & _LOW) - 1
                start, j = ends[known] - length, 0
                if start == (ends[known - 1] + 1 if known else 0):
                    while j < length and pool[start + j] == data[begin + j]:
                        j += 1
                    number = known if j == length else -1
            at = (at + np.uint64(1)) & mask
        if count < len(ids):
            ids[count] = number
        count, begin, value = count + 1, i + 1, first
    return count, size


class Vocabulary:
    """Words in the order in which they first occurred, and their numbers."""

    def __init__(self) -> None:
        self.size, self._table = 0, np.zeros(1 << 12, np.uint64)
        self._first = np.uint64(secrets.randbits(64))  # nobody can write a text whose words collide
        self._pool, self._ends = np.empty(1 << 12, np.uint8), np.empty(1 << 11, np.int64)

    def read(self, texts: Iterable[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of all words, int32, one text after the other, and the number of words of each text, int64.

        Raises:
            DataError: a word holds the character U+0000, which ends words here.
        """
        parts, left = [np.empty(0, np.int32)], iter(texts)
        lengths: list[int] = []
        while some := list(islice(left, TOGETHER)):
            counts = list(map(len, some))
            lengths += counts
            words = "".join(["\0".join(text) + "\0" for text in some if text])
            data = np.frombuffer(words.encode("utf-8", "surrogatepass"), np.uint8)
            ids = np.empty(sum(counts), np.int32)
            self._make_room(len(ids), len(data))
            count, self.size = number_words(data, self._table, self._pool, self._ends, self.size, ids, self._first)
            if count != len(ids):
                raise DataError("texts: a word holds the character U+0000; leave it out before indexing")
            parts.append(ids)
        return np.concatenate(parts), np.array(lengths, np.int64)

    def words(self) -> list[str]:
        """Every word, by number."""
        held = self._pool[: self._held()].tobytes().decode("utf-8", "surrogatepass")
        return held.split("\0")[:-1]

    def _held(self) -> int:
        return int(self._ends[self.size - 1]) + 1 if self.size else 0

    def _make_room(self, words: int, data: int) -> None:
        """So that many more words, and bytes, may come: a larger table is filled from the words that are known."""
        held = self._held()
        if held + data > len(self._pool):
            self._pool = np.concatenate([self._pool[:held], np.empty(held + 2 * data, np.uint8)])
        if 2 * (self.size + words) > len(self._table):
            self._table = np.zeros(1 << (4 * (self.size + words)).bit_length() - 1, np.uint64)
            self._ends = np.empty(len(self._table) // 2, np.int64)
            pool = self._pool[:held].copy()
            number_words(pool, self._table, self._pool, self._ends, 0, np.empty(0, np.int32), self._first)
