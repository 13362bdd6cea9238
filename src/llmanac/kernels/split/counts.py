"""Counting the distinct pieces of texts, in numba."""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
from __future__ import annotations

from functools import partial

import numpy as np
from numba import njit

from llmanac.kernels.split.blocks import AT, PLACES, SCAN, next_pieces
from llmanac.kernels.split.words import NO_ENDS, TEXT_END
from llmanac.kernels.text import (
    EIGHT,
    EXACT_KEY_BYTES,
    ONE,
    PADDING,
    SIXTEEN,
    THREE,
    add_one,
    cached,
    grown,
    hash_of,
    load_byte,
    load_word,
    prefetch,
    same_bytes,
    store_word,
    word_key,
)  # fmt: skip

BLOCK, WAITING = np.uint64(64), np.uint64(32)  # pieces whose rows are fetched together; bytes of what is held of each
ROW_SHIFT, TIMES = np.uint64(5), np.uint64(24)  # a row of the table has 32 bytes; its count is in the last 8
# The bits of a word of n bytes in its first and in its second eight.
KEPT_BITS = np.array([[(1 << 8 * min(n, 8)) - 1, (1 << 8 * max(n - 8, 0)) - 1] for n in range(17)], np.uint64)
HALF, LOW_HALF = np.uint64(32), np.uint64(0xFFFFFFFF)


@njit(forceinline=True)
def _key(place, length):
    """`word_key` without a branch on whether a word has 8 bytes; reads 16 bytes."""
    if length > SIXTEEN:
        return word_key(place, length)
    return load_word(place) & KEPT_BITS[length, 0], load_word(place + EIGHT) & KEPT_BITS[length, 1]


@njit
def _rehash(table):
    larger = np.zeros((table.shape[0] * 2, 4), np.uint64)
    mask = np.uint64(larger.shape[0] - 1)
    for i in range(table.shape[0]):
        if table[i, 2]:
            slot = hash_of(table[i, 0], table[i, 1], table[i, 2] & np.uint64(0xFFFFFFFF)) & mask
            while larger[slot, 2]:
                slot = (slot + ONE) & mask
            for column in range(4):
                larger[slot, column] = table[i, column]
    return larger


@njit(forceinline=True)
def _row_of(rows, mask, mixed, first, second, length, place, word_bytes, word_starts):
    """`(address of the row that holds a word or would, whether it is there)`. By addresses: the loop's hot part."""
    slot = mixed & mask
    while True:
        row = rows + (slot << ROW_SHIFT)
        known = load_word(row + SIXTEEN)
        if known == 0:
            return row, False
        if load_word(row) == first and load_word(row + EIGHT) == second and (known & LOW_HALF) == length:
            if length <= SIXTEEN:
                return row, True
            held = word_bytes + load_word(word_starts + (((known >> HALF) - ONE) << THREE))
            if same_bytes(held, place, np.int64(length)):
                return row, True
        slot = (slot + ONE) & mask


@njit(inline="never")
def _add_word(table, words, offsets, unique, row, first, second, length, place, times):
    """Write a new word into the table's free row. Returns the arrays, larger where they had to grow."""
    start = offsets[unique]
    if start + np.int64(length) > words.shape[0]:
        words = grown(words, start + np.int64(length))
    if unique + 2 > offsets.shape[0]:
        offsets = grown(offsets, unique + 2)
    for i in range(np.int64(length)):
        words[start + i] = load_byte(place + np.uint64(i))
    offsets[unique + 1] = start + np.int64(length)
    slot = np.int64((row - np.uint64(table.ctypes.data)) >> ROW_SHIFT)
    table[slot, 0], table[slot, 1] = first, second
    table[slot, 2], table[slot, 3] = length | (np.uint64(unique + 1) << HALF), times
    if (unique + 1) * 2 > table.shape[0]:
        table = _rehash(table)
    return table, words, offsets


@partial(cached, nogil=True)
def count_words(buffer, used, byte_classes, classes, mode, ends, table, words, offsets, unique):
    """Count the pieces of one packed buffer into a table that grows with the distinct words, never with the text.

    Pieces are found a block at a time and their places in the table asked for before any is looked at, since the table
    of a large corpus does not fit the processor's fast caches.

    Args:
        ends: (pieces,) end of every piece, as `piece_ends` gives it; read only where `mode` is GIVEN.
        table: (2^k, 4) uint64 rows `first key, second key, length | (word + 1) << 32, count`.
        words: bytes of the distinct words, in order of first occurrence.
        offsets: where each word starts in `words`; `offsets[unique]` is where the next one will.

    Returns:
        `(table, words, offsets, unique, pieces)`, the arrays replaced by larger ones where they had to grow.
    """
    base = np.uint64(buffer.ctypes.data)
    by_byte, by_code_point = np.uint64(byte_classes.ctypes.data), np.uint64(classes.ctypes.data)
    rows, mask = np.uint64(table.ctypes.data), np.uint64(table.shape[0] - 1)
    word_bytes, word_starts = np.uint64(words.ctypes.data), np.uint64(offsets.ctypes.data)
    places, masks, scan = np.zeros(PLACES, np.uint64), np.zeros((2, 9), np.uint64), np.zeros(SCAN, np.uint64)
    waiting = np.empty(np.int64(4 * BLOCK), np.uint64)  # address, length, first key, second key, of each of a block
    pieces, stop, scan[AT] = 0, base + np.uint64(used), base
    while scan[AT] < stop:
        found = next_pieces(base, used, mode, ends, places, masks, scan, by_byte, by_code_point)
        piece = np.uint64(places.ctypes.data)
        last = piece + (np.uint64(found) << THREE)
        while piece < last:
            until, wait = min(piece + (BLOCK << THREE), last), np.uint64(waiting.ctypes.data)
            while piece < until:
                place = base + load_word(piece)
                piece += EIGHT
                length = base + load_word(piece) - place
                if length == ONE and load_byte(place) == TEXT_END:
                    continue
                first, second = _key(place, length)
                prefetch(rows + ((hash_of(first, second, length) & mask) << ROW_SHIFT))
                store_word(wait, place)
                store_word(wait + EIGHT, length)
                store_word(wait + SIXTEEN, first)
                store_word(wait + TIMES, second)
                wait += WAITING
            waited, wait = wait, np.uint64(waiting.ctypes.data)
            while wait < waited:
                place, length = load_word(wait), load_word(wait + EIGHT)
                first, second = load_word(wait + SIXTEEN), load_word(wait + TIMES)
                wait += WAITING
                pieces += 1
                mixed = hash_of(first, second, length)
                row, known = _row_of(rows, mask, mixed, first, second, length, place, word_bytes, word_starts)
                if known:
                    add_one(row + TIMES)
                    continue
                table, words, offsets = _add_word(table, words, offsets, unique, row, first, second, length, place, ONE)
                unique += 1
                rows, mask = np.uint64(table.ctypes.data), np.uint64(table.shape[0] - 1)
                word_bytes, word_starts = np.uint64(words.ctypes.data), np.uint64(offsets.ctypes.data)
        places[0] = places[found]
        waiting[0] = 0  # (what is used by its address only must be used once more to be kept)
    return table, words, offsets, unique, pieces


@partial(cached, nogil=True)
def add_counts(letters, starts, counts, table, words, offsets, unique):
    """Add the words of another table to one; arguments and what is returned as for `count_words`.

    Args:
        letters, starts, counts: bytes of the other's words (and some more), where each starts, how often it occurs.
    """
    base = np.uint64(letters.ctypes.data)
    for word in range(counts.shape[0]):
        place, length = base + np.uint64(starts[word]), np.uint64(starts[word + 1] - starts[word])
        first, second = word_key(place, length)
        row, known = _row_of(
            np.uint64(table.ctypes.data), np.uint64(table.shape[0] - 1), hash_of(first, second, length), first, second,
            length, place, np.uint64(words.ctypes.data), np.uint64(offsets.ctypes.data),
        )  # fmt: skip
        times = np.uint64(counts[word])
        if known:
            store_word(row + TIMES, load_word(row + TIMES) + times)
            continue
        table, words, offsets = _add_word(table, words, offsets, unique, row, first, second, length, place, times)
        unique += 1
    return table, words, offsets, unique


class WordCounts:
    """The distinct words of a corpus and how often each occurs (64-bit), fed one packed buffer at a time."""

    def __init__(self, byte_classes: np.ndarray, classes: np.ndarray, mode: int) -> None:
        self._classes, self._mode = (byte_classes, classes), mode
        self._table = np.zeros((1 << 12, 4), np.uint64)
        self._words, self._offsets = np.empty(1 << 12, np.uint8), np.zeros(1 << 10, np.int64)
        self.unique, self.pieces = 0, 0

    def add(self, buffer: np.ndarray, used: int, ends: np.ndarray = NO_ENDS) -> None:
        """Count every piece of a packed buffer; `ends` says where they end if the mode is GIVEN."""
        self._table, self._words, self._offsets, self.unique, pieces = count_words(
            buffer, used, *self._classes, self._mode, ends, self._table, self._words, self._offsets, self.unique
        )
        self.pieces += pieces

    def absorb(self, other: WordCounts) -> None:
        """Add what another one, of other texts, has counted."""
        letters, starts, counts = other.arrays()
        padded = np.concatenate([letters, np.zeros(PADDING, np.uint8)])
        self._table, self._words, self._offsets, self.unique = add_counts(
            padded, starts, counts, self._table, self._words, self._offsets, self.unique
        )
        self.pieces += other.pieces

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`(words, offsets (unique + 1,), counts (unique,) int64)`."""
        taken = self._table[self._table[:, 2] != 0]
        counts = np.empty(self.unique, np.int64)
        counts[(taken[:, 2] >> np.uint64(32)).astype(np.int64) - 1] = taken[:, 3].astype(np.int64)
        offsets = self._offsets[: self.unique + 1]
        return self._words[: offsets[-1]], offsets, counts


assert int(SIXTEEN) == EXACT_KEY_BYTES
