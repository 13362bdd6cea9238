"""Splitting UTF-8 text into the pieces that BPE works in, one after the other, in numba.

A kernel equals a split pattern of GPT-2, GPT-4 (cl100k), Llama-3 or Qwen; `tokenizers/patterns/splitter.py` has their
text, and the tests compare the two. Most pieces are ASCII words: their end is found eight bytes at a time (a byte is
a letter if `(b | 0x20) - 'a' < 26`, evaluated in all lanes of a 64-bit word at once). Everything else goes the slow
way, one character after the other with its class from `unicode.split_classes`.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.text import (
    EIGHT,
    ONE,
    THREE,
    cached,
    inner,
    load_byte,
    load_word,
    trailing_zeros,
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
NEWLINE, RETURN, BLANK, APOSTROPHE, TEXT_END = 10, 13, 32, 39, 255


@inner(forceinline=True)
def _not_letters(eight):
    """The high bit of each byte that is no ASCII letter."""
    lower = (eight & LOW_BITS) | LOWER_CASE
    letters = (lower + FROM_A) & ~(lower + ABOVE_Z) & ~eight & HIGH_BITS
    return letters ^ HIGH_BITS


@inner
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


@inner
def _class_at(at, by_byte, by_code_point):
    """`(class, bytes)` of the character at an address."""
    first = load_byte(at)
    kind = load_byte(by_byte + np.uint64(first))
    if kind != MULTIBYTE:
        return kind, ONE
    code_point, length = _decode(at, first)
    return load_byte(by_code_point + np.uint64(code_point)), length


@inner
def _run_end(at, by_byte, by_code_point, wanted):
    """Where the run of characters of one class that starts at an address ends."""
    while True:
        kind, length = _class_at(at, by_byte, by_code_point)
        if kind != wanted:
            return at
        at += length


@inner
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


@inner
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


@inner
def _letters_end(at, eight, by_byte, by_code_point):
    """Where a run of letters ends whose first eight bytes are `eight`, the first of them an ASCII letter."""
    stops = _not_letters(eight)
    if stops == 0:
        return _run_end(at + EIGHT, by_byte, by_code_point, LETTERS)
    at += trailing_zeros(stops) >> THREE
    if load_byte(at) < 0x80:
        return at
    return _run_end(at, by_byte, by_code_point, LETTERS)


@inner
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


@inner
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


@inner(forceinline=True)
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
