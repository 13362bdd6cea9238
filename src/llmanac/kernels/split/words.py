"""Splitting UTF-8 text into the pieces that BPE works in, and counting the distinct ones, in numba.

A kernel equals a split pattern of GPT-2, GPT-4 (cl100k), Llama-3 or Qwen; `tokenizers/patterns/splitter.py` has their
text, and the tests compare the two. Most pieces are ASCII words: their end is found eight bytes at a time (a byte is
a letter if `(b | 0x20) - 'a' < 26`, evaluated in all lanes of a 64-bit word at once). Everything else goes the slow
way, one character after the other with its class from `unicode.split_classes`.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
from __future__ import annotations

import numpy as np
from numba import njit

from llmanac.kernels.text import (
    EIGHT,
    EXACT_KEY_BYTES,
    ONE,
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
    trailing_zeros,
    word_key,
)  # fmt: skip
from llmanac.kernels.unicode import END, LETTER, MULTIBYTE, NUMBER, OTHER, SPACE

# How pieces are found. GIVEN takes their ends from an array: the way in for patterns that have no kernel.
GPT2, GPT4, LLAMA3, QWEN, GIVEN = 0, 1, 2, 3, 4

HIGH_BITS, LOW_BITS = np.uint64(0x8080808080808080), np.uint64(0x7F7F7F7F7F7F7F7F)
LOWER_CASE = np.uint64(0x2020202020202020)
FROM_A, ABOVE_Z = np.uint64(0x1F1F1F1F1F1F1F1F), np.uint64(0x0505050505050505)
TWO = np.uint64(2)
OTHERS, LETTERS = np.uint8(OTHER), np.uint8(LETTER)
NO_ENDS = np.empty(0, np.int64)
BLOCK = 64  # pieces whose places in the table are fetched together
ROW_SHIFT, TIMES = np.uint64(5), np.uint64(24)  # a row of the table has 32 bytes; its count is in the last 8
HALF, LOW_HALF = np.uint64(32), np.uint64(0xFFFFFFFF)
NEWLINE, RETURN, BLANK, APOSTROPHE, TEXT_END = 10, 13, 32, 39, 255


@njit(forceinline=True)
def _not_letters(eight):
    """The high bit of each byte that is no ASCII letter."""
    lower = (eight & LOW_BITS) | LOWER_CASE
    letters = (lower + FROM_A) & ~(lower + ABOVE_Z) & ~eight & HIGH_BITS
    return letters ^ HIGH_BITS


@njit
def _decode(at, first):
    """`(code point, bytes)` of the character at an address whose first byte is `first` >= 0x80."""
    second = np.int64(load_byte(at + ONE)) & 0x3F
    if first < 0xE0:
        return ((np.int64(first) & 0x1F) << 6) | second, TWO
    third = np.int64(load_byte(at + TWO)) & 0x3F
    if first < 0xF0:
        return ((np.int64(first) & 0x0F) << 12) | (second << 6) | third, THREE
    fourth = np.int64(load_byte(at + THREE)) & 0x3F
    return ((np.int64(first) & 7) << 18) | (second << 12) | (third << 6) | fourth, np.uint64(4)


@njit
def _class_at(at, by_byte, by_code_point):
    """`(class, bytes)` of the character at an address."""
    first = load_byte(at)
    kind = load_byte(by_byte + np.uint64(first))
    if kind != MULTIBYTE:
        return kind, ONE
    code_point, length = _decode(at, first)
    return load_byte(by_code_point + np.uint64(code_point)), length


@njit
def _run_end(at, by_byte, by_code_point, wanted):
    """Where the run of characters of one class that starts at an address ends."""
    while True:
        kind, length = _class_at(at, by_byte, by_code_point)
        if kind != wanted:
            return at
        at += length


@njit
def _space_end(at, by_byte, by_code_point, mode):
    """Where the piece that starts with white space ends: the last newline's end, or one short of the next word."""
    start, last, after_newline = at, at, np.uint64(0)
    while True:
        kind, length = _class_at(at, by_byte, by_code_point)
        if kind != SPACE:
            break
        byte = load_byte(at)
        if byte in (NEWLINE, RETURN):
            after_newline = at + ONE
        last = at
        at += length
    if mode == GPT4 and kind == END:  # its pattern takes white space at the very end whole
        return at
    if mode != GPT2 and after_newline > np.uint64(0):
        return after_newline
    if kind == END or last == start:
        return at
    return last


@njit
def _contraction(at, mode):
    """Bytes of the match of 's 't 'd 'm 'll 've 're at an apostrophe, or 0."""
    second, third = load_byte(at + ONE), load_byte(at + TWO)
    if mode != GPT2:  # GPT-2 knows them in lower case only
        if second == 0xC5 and third == 0xBF:  # U+017F, the long s, folds to s
            return THREE
        if 65 <= second <= 90:
            second |= np.uint8(32)
        if 65 <= third <= 90:
            third |= np.uint8(32)
    if second == 115 or second == 116 or second == 100 or second == 109:
        return TWO
    if (second == 108 and third == 108) or ((second == 118 or second == 114) and third == 101):
        return THREE
    return np.uint64(0)


@njit
def _letters_end(at, eight, by_byte, by_code_point):
    """Where a run of letters ends whose first eight bytes are `eight`, the first of them an ASCII letter."""
    stops = _not_letters(eight)
    if stops == 0:
        return _run_end(at + EIGHT, by_byte, by_code_point, LETTERS)
    at += trailing_zeros(stops) >> THREE
    if load_byte(at) < 0x80:
        return at
    return _run_end(at, by_byte, by_code_point, LETTERS)


@njit
def _gpt2_slow(start, at, by_byte, by_code_point, mode):
    if at == start and load_byte(at) == APOSTROPHE:
        length = _contraction(at, mode)
        if length:
            return at + length
    kind, length = _class_at(at, by_byte, by_code_point)
    if kind == SPACE:
        return _space_end(start, by_byte, by_code_point, mode)
    if kind == END:  # an isolated digit, or the end of the text after a last blank
        return at + length if at == start else at
    return _run_end(at + length, by_byte, by_code_point, kind)


@njit
def _gpt4_slow(at, by_byte, by_code_point, mode):
    first = load_byte(at)
    if first == APOSTROPHE:
        length = _contraction(at, mode)
        if length:
            return at + length
    kind, length = _class_at(at, by_byte, by_code_point)
    if kind == LETTER:
        return _run_end(at + length, by_byte, by_code_point, LETTERS)
    if kind == NUMBER:
        at += length
        for _ in range(0 if mode == QWEN else 2):
            kind, length = _class_at(at, by_byte, by_code_point)
            if kind != NUMBER:
                break
            at += length
        return at
    next_kind, next_length = _class_at(at + length, by_byte, by_code_point)
    if next_kind == LETTER and first != NEWLINE and first != RETURN:
        return _run_end(at + length + next_length, by_byte, by_code_point, LETTERS)
    if first == BLANK and next_kind == OTHER:
        at += length
        kind, length = next_kind, next_length
    if kind != OTHER:
        return _space_end(at, by_byte, by_code_point, mode)
    at = _run_end(at + length, by_byte, by_code_point, OTHERS)
    while load_byte(at) == NEWLINE or load_byte(at) == RETURN:
        at += ONE
    return at


@njit(forceinline=True)
def piece_end(start, by_byte, by_code_point, mode):
    """Where the piece that starts at an address ends, by the pattern of `mode`."""
    eight, at = load_word(start), start
    if mode == GPT2:
        if eight & np.uint64(255) == BLANK:
            at = start + ONE
            eight = load_word(at)
    elif _not_letters(eight) & np.uint64(0x80):
        first = np.uint8(eight & np.uint64(255))
        kind = load_byte(by_byte + np.uint64(first))
        if kind in (OTHER, SPACE) and first != NEWLINE and first != RETURN and first != APOSTROPHE:
            at = start + ONE
            eight = load_word(at)
    if _not_letters(eight) & np.uint64(0x80) == 0:
        return _letters_end(at, eight, by_byte, by_code_point)
    if mode == GPT2:
        return _gpt2_slow(start, at, by_byte, by_code_point, mode)
    return _gpt4_slow(start, by_byte, by_code_point, mode)


@cached
def piece_ends(buffer, used, byte_classes, classes, mode):
    """(pieces,) end of every piece of a packed buffer, as offsets into it."""
    base = np.uint64(buffer.ctypes.data)
    by_byte, by_code_point = np.uint64(byte_classes.ctypes.data), np.uint64(classes.ctypes.data)
    ends = np.empty(used, np.int64)
    pieces, at, stop = 0, base, base + np.uint64(used)
    while at < stop:
        if load_byte(at) == TEXT_END:
            at += ONE
            continue
        at = piece_end(at, by_byte, by_code_point, mode)
        ends[pieces] = np.int64(at - base)
        pieces += 1
    return ends[:pieces]


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
def _add_word(table, words, offsets, unique, row, first, second, length, place):
    """Write a new word, seen once, into the table's free row. Returns the arrays, larger where they had to grow."""
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
    table[slot, 2], table[slot, 3] = length | (np.uint64(unique + 1) << HALF), ONE
    if (unique + 1) * 2 > table.shape[0]:
        table = _rehash(table)
    return table, words, offsets


@cached
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
    block = np.empty((BLOCK, 5), np.uint64)  # address, length, first key, second key, hash
    pieces, at, stop = 0, base, base + np.uint64(used)
    while at < stop:
        filled = 0
        while filled < BLOCK and at < stop:
            if load_byte(at) == TEXT_END:
                at += ONE
                continue
            if mode == GIVEN:
                end = base + np.uint64(ends[pieces])
            else:
                end = piece_end(at, by_byte, by_code_point, mode)
            pieces += 1
            length = end - at
            first, second = word_key(at, length)
            mixed = hash_of(first, second, length)
            prefetch(rows + ((mixed & mask) << ROW_SHIFT))
            block[filled, 0], block[filled, 1], block[filled, 2] = at, length, first
            block[filled, 3], block[filled, 4] = second, mixed
            filled += 1
            at = end
        for i in range(filled):
            place, length, first, second = block[i, 0], block[i, 1], block[i, 2], block[i, 3]
            row, known = _row_of(rows, mask, block[i, 4], first, second, length, place, word_bytes, word_starts)
            if known:
                add_one(row + TIMES)
                continue
            table, words, offsets = _add_word(table, words, offsets, unique, row, first, second, length, place)
            unique += 1
            rows, mask = np.uint64(table.ctypes.data), np.uint64(table.shape[0] - 1)
            word_bytes, word_starts = np.uint64(words.ctypes.data), np.uint64(offsets.ctypes.data)
    return table, words, offsets, unique, pieces


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

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`(words, offsets (unique + 1,), counts (unique,) int64)`."""
        taken = self._table[self._table[:, 2] != 0]
        counts = np.empty(self.unique, np.int64)
        counts[(taken[:, 2] >> np.uint64(32)).astype(np.int64) - 1] = taken[:, 3].astype(np.int64)
        offsets = self._offsets[: self.unique + 1]
        return self._words[: offsets[-1]], offsets, counts


assert int(SIXTEEN) == EXACT_KEY_BYTES
