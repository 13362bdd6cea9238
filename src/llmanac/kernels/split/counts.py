"""Counting the distinct pieces of texts, in numba."""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
from __future__ import annotations

from functools import partial

import numpy as np

from llmanac.kernels.split.blocks import AT, PLACES, SCAN, next_pieces
from llmanac.kernels.split.keys import (
    BLOCK,
    EXACT,
    ROW_SHIFT,
    WAITING,
    ZERO,
    row_keys,
    same_words,
    shift_of,
    slot_of,
    stage,
)  # fmt: skip
from llmanac.kernels.split.words import NO_ENDS, TEXT_END
from llmanac.kernels.text import (
    EIGHT,
    ONE,
    PADDING,
    SIXTEEN,
    THREE,
    add_one,
    cached,
    grown,
    inner,
    load_byte,
    load_word,
    store_word,
)  # fmt: skip

# The columns of a row (`keys.py`): two keys, the number of the word, how often it occurs.
SECOND, NUMBER, COUNT = 1, 2, 3
TIMES = np.uint64(24)  # bytes before a row's count


@inner
def _rehash(table):
    larger = np.zeros((table.shape[0] * 2, 4), np.uint64)
    mask, shift = larger.shape[0] - 1, shift_of(larger.shape[0])
    for i in range(table.shape[0]):
        if table[i, SECOND]:
            slot = np.int64(slot_of(table[i, 0], table[i, SECOND], shift))
            while larger[slot, SECOND]:
                slot = (slot + 1) & mask
            for column in range(4):
                larger[slot, column] = table[i, column]
    return larger


@inner(inline="never")
def _row_of(rows, shift, place, length, word_bytes, word_starts):
    """`(address of the row that holds a word or would, whether it is there)`."""
    first, second = row_keys(place, length)
    mask = (ONE << (np.uint64(64) - shift)) - ONE
    slot = slot_of(first, second, shift)
    while True:
        row = rows + (slot << ROW_SHIFT)
        held = load_word(row + EIGHT)
        if held == ZERO:
            return row, False
        if load_word(row) == first and held == second:
            start = word_starts + (load_word(row + SIXTEEN) << THREE)
            at = load_word(start)
            if length <= EXACT or (
                load_word(start + EIGHT) - at == length and same_words(word_bytes + at, place, length)
            ):
                return row, True
        slot = (slot + ONE) & mask


@inner(inline="never")
def _count_known(wait, waited, until, base, rows, shift, word_bytes, word_starts):
    """Count staged pieces up to one that is not in the table, or that ends a text; returns where it is held.

    It has addresses only: a loop that replaces arrays counts references to them at every turn, which takes most of
    its time.
    """
    while wait < waited:
        row = load_word(wait + SIXTEEN)
        if load_word(row) ^ load_word(wait) | load_word(row + EIGHT) ^ load_word(wait + EIGHT):
            piece = until - (waited - wait) // THREE
            start, length = load_word(piece), load_word(piece + EIGHT) - load_word(piece)
            row, known = _row_of(rows, shift, base + start, length, word_bytes, word_starts)
            if not known:
                break
        add_one(row + TIMES)
        wait += WAITING
    return wait


@inner(inline="never")
def _add_word(table, words, offsets, unique, row, length, place, times):
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
    table[slot, 0], table[slot, SECOND] = row_keys(place, length)
    table[slot, NUMBER], table[slot, COUNT] = np.uint64(unique), times
    if (unique + 1) * 2 > table.shape[0]:
        table = _rehash(table)
    return table, words, offsets


@partial(cached, nogil=True)
def count_words(buffer, used, byte_classes, classes, mode, ends, table, words, offsets, unique):
    """Count the pieces of one packed buffer into a table that grows with the distinct words, never with the text.

    Args:
        ends: (pieces,) end of every piece, as `piece_ends` gives it; read only where `mode` is GIVEN.
        table: (2^k, 4) uint64 rows `first key, second key, number of the word, count`.
        words: bytes of the distinct words, in order of first occurrence.
        offsets: where each word starts in `words`; `offsets[unique]` is where the next one will.

    Returns:
        `(table, words, offsets, unique, pieces)`, the arrays replaced by larger ones where they had to grow.
    """
    base = np.uint64(buffer.ctypes.data)
    by_byte, by_code_point = np.uint64(byte_classes.ctypes.data), np.uint64(classes.ctypes.data)
    rows, shift = np.uint64(table.ctypes.data), shift_of(table.shape[0])
    word_bytes, word_starts = np.uint64(words.ctypes.data), np.uint64(offsets.ctypes.data)
    places, masks, scan = np.zeros(PLACES, np.uint64), np.zeros((2, 9), np.uint64), np.zeros(SCAN, np.uint64)
    waiting = np.empty(np.int64(3 * BLOCK), np.uint64)
    pieces, stop, scan[AT] = 0, base + np.uint64(used), base
    while scan[AT] < stop:
        found = next_pieces(base, used, mode, ends, places, masks, scan, by_byte, by_code_point)
        pieces += found
        piece = np.uint64(places.ctypes.data)
        last = piece + (np.uint64(found) << THREE)
        while piece < last:
            until, wait = min(piece + (BLOCK << THREE), last), np.uint64(waiting.ctypes.data)
            waited = stage(piece, until, base, rows, shift, wait)
            while True:
                wait = _count_known(wait, waited, until, base, rows, shift, word_bytes, word_starts)
                if wait == waited:
                    break
                piece = until - (waited - wait) // THREE
                wait += WAITING
                place, length = base + load_word(piece), load_word(piece + EIGHT) - load_word(piece)
                if length == ONE and load_byte(place) == TEXT_END:
                    pieces -= 1
                    continue
                row, _ = _row_of(rows, shift, place, length, word_bytes, word_starts)
                table, words, offsets = _add_word(table, words, offsets, unique, row, length, place, ONE)
                unique += 1
                word_bytes, word_starts = np.uint64(words.ctypes.data), np.uint64(offsets.ctypes.data)
                if rows != np.uint64(table.ctypes.data):  # the table has grown, and the rows are elsewhere
                    rows, shift = np.uint64(table.ctypes.data), shift_of(table.shape[0])
                    stage(piece + EIGHT, until, base, rows, shift, wait)
            piece = until
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
        row, known = _row_of(
            np.uint64(table.ctypes.data), shift_of(table.shape[0]), place, length, np.uint64(words.ctypes.data),
            np.uint64(offsets.ctypes.data),
        )  # fmt: skip
        times = np.uint64(counts[word])
        if known:
            store_word(row + TIMES, load_word(row + TIMES) + times)
            continue
        table, words, offsets = _add_word(table, words, offsets, unique, row, length, place, times)
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
        taken = self._table[self._table[:, SECOND] != 0]
        counts = np.empty(self.unique, np.int64)
        counts[taken[:, NUMBER].astype(np.int64)] = taken[:, COUNT].astype(np.int64)
        offsets = self._offsets[: self.unique + 1]
        return self._words[: offsets[-1]], offsets, counts
