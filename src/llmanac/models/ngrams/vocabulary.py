"""Words as bytes and their ids: an append-only list with a hash table for the kernels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from llmanac.core.errors import DataError
from llmanac.kernels.ngrams import text as ngram_text
from llmanac.kernels.text import PADDING

MARKS = (b"<unk>", b"<s>", b"</s>")
SPACES = (b"\n", b" ", b"\t", b"\r", b"\0")
MAX_WORDS = 2**31 - 1


class NgramVocabulary:
    """Words 0, 1, ... in the order in which they were added.

    Attributes:
        count: how many there are.
        blob, offsets: their bytes one after the other (with spare room at the end), and where each begins.
        table: see `kernels/ngrams/text.py`.
    """

    def __init__(self, words: Iterable[bytes] = MARKS) -> None:
        self.count = 0
        self.blob, self.offsets = np.zeros(1 << 12, np.uint8), np.zeros(1 << 10, np.int64)
        self.table = np.zeros((1 << 11, 4), np.uint64)
        for word in words:
            self.add(word)

    @classmethod
    def of(cls, blob: np.ndarray, offsets: np.ndarray) -> NgramVocabulary:
        """The vocabulary whose words are `blob[offsets[i]:offsets[i + 1]]`.

        Raises:
            DataError: the offsets do not fit, or a word appears twice.
        """
        made = cls(())
        sizes = np.diff(offsets)
        if not len(offsets) or offsets[0] != 0 or bool((sizes < 0).any()) or int(offsets[-1]) != len(blob):
            raise DataError("the words' offsets do not fit their bytes")
        made.count = len(sizes)
        made.blob = np.concatenate([blob, np.zeros(PADDING, np.uint8)])
        made.offsets = np.ascontiguousarray(offsets, np.int64)
        made._rehash(2 * max(512, made.count + 2))
        return made

    def _rehash(self, slots: int) -> None:
        self.table = np.zeros((1 << (slots - 1).bit_length(), 4), np.uint64)
        twice = ngram_text.index_words(self.table, self.blob, self.offsets, self.count)
        if twice >= 0:
            raise DataError(f"word {int(twice)} ({self[int(twice)]!r}) appears twice")

    def make_room(self, text: bytes, at: int) -> None:
        """Make room for the word that begins at `text[at]`, and for more words."""
        self.grow()
        stop = min((i for i in (text.find(mark, at) for mark in SPACES) if i >= 0), default=len(text))
        self.room_for(stop - at)

    def grow(self) -> None:
        """Make room for more words where there is little."""
        if self.count >= MAX_WORDS:
            raise DataError(f"there are more than {MAX_WORDS:,} different words")
        if 2 * (self.count + 2) > len(self.table):
            self._rehash(2 * len(self.table))
        if self.count + 3 > len(self.offsets):
            self.offsets = np.concatenate([self.offsets, np.zeros(len(self.offsets), np.int64)])

    def room_for(self, size: int) -> None:
        """Make room for one word of `size` bytes."""
        while int(self.offsets[self.count]) + size + 2 * PADDING > len(self.blob):
            self.blob = np.concatenate([self.blob, np.zeros(len(self.blob) + size + 2 * PADDING, np.uint8)])

    def add(self, word: bytes) -> int:
        """The id of a word, which is added if it is new."""
        known = self.get(word)
        if known is not None:
            return known
        self.grow()
        self.room_for(len(word))
        data = np.frombuffer(word + bytes(PADDING), np.uint8)
        address = np.uint64(data.ctypes.data)
        _, slot = ngram_text.find_word(self.table, self.blob, self.offsets, address, len(word))
        ngram_text.add_word(self.table, self.blob, self.offsets, self.count, slot, address, len(word))
        self.count += 1
        return self.count - 1

    def get(self, word: bytes) -> int | None:
        """The id of a word, or None."""
        data = np.frombuffer(word + bytes(PADDING), np.uint8)
        found, _ = ngram_text.find_word(self.table, self.blob, self.offsets, np.uint64(data.ctypes.data), len(word))
        return None if found < 0 else int(found)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, word: int) -> bytes:
        if not 0 <= word < self.count:
            raise IndexError(word)
        return self.blob[self.offsets[word] : self.offsets[word + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return (self[i] for i in range(self.count))

    @property
    def longest(self) -> int:
        """Bytes of the longest word."""
        return int(np.diff(self.offsets[: self.count + 1]).max(initial=0))

    def packed(self) -> tuple[np.ndarray, np.ndarray]:
        """`(blob, offsets)` without the spare room."""
        offsets = self.offsets[: self.count + 1]
        return self.blob[: int(offsets[-1])], offsets
