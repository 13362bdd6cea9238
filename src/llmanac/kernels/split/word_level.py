"""Words by runs of one character class, and their ids by one look-up, in numba.

A run of word characters, of white space or of anything else ends where the class changes; white space is a run like
the others, so that runs are contiguous and can be counted like pieces, and is dropped afterwards.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import functools

import numpy as np

from llmanac.kernels import unicode
from llmanac.kernels.split.words import TEXT_END, _class_at
from llmanac.kernels.text import ONE, cached, hash_of, inner, load_byte, same_bytes, word_key
from llmanac.kernels.unicode import END, MULTIBYTE, SPACE

WORD, OTHER = 1, 0
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
DROPPED, MISSING = -1, -2  # the ids of a run of white space and of an unknown word
# Letters by the Unicode property Alphabetic that are symbols by category, and the two joiners: \w has them.
_SYMBOLS_IN_WORDS = ((0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189), (0x200C, 0x200D))


@functools.cache
def run_classes(words_apart: bool) -> tuple[np.ndarray, np.ndarray]:
    r"""`(by_byte (256,), by_code_point (0x110000,))` uint8 classes: white space, and the rest.

    With `words_apart` the rest is two classes, `\w` (word characters of Unicode 16, as Rust's regex has them) and not.
    """
    classes = np.full(unicode.CODE_POINTS, OTHER, np.uint8)
    if words_apart:
        for category in ("L", "M", "Nd", "Nl", "Pc"):
            classes[unicode.in_categories(category)] = WORD
        for first, last in _SYMBOLS_IN_WORDS:
            classes[first : last + 1] = WORD
    classes[(unicode.table() & unicode.SPACE_FLAG) != 0] = SPACE
    by_byte = np.full(256, MULTIBYTE, np.uint8)
    by_byte[:128] = classes[:128]
    by_byte[255] = END
    return by_byte, classes


@inner(forceinline=True)
def _class_and_length(at, by_byte, by_code_point):
    kind = load_byte(by_byte + np.uint64(load_byte(at)))
    if kind != MULTIBYTE:
        return kind, ONE
    return _class_at(at, by_byte, by_code_point)


@cached
def run_ends(buffer, used, byte_classes, classes):
    """(runs,) int64 end of every run of a packed buffer, as offsets into it."""
    base = np.uint64(buffer.ctypes.data)
    by_byte, by_code_point = np.uint64(byte_classes.ctypes.data), np.uint64(classes.ctypes.data)
    ends = np.empty(used, np.int64)
    runs, at, stop = 0, base, base + np.uint64(used)
    while at < stop:
        if load_byte(at) == TEXT_END:
            at += ONE
            continue
        wanted, length = _class_and_length(at, by_byte, by_code_point)
        while True:
            at += length
            kind, length = _class_and_length(at, by_byte, by_code_point)
            if kind != wanted:
                break
        ends[runs] = np.int64(at - base)
        runs += 1
    return ends[:runs]


@cached
def word_ids(buffer, used, ends, byte_classes, classes, drop_space, table, letters, text_ends):
    """(words,) int32 id of every piece; `text_ends[i]` is where those of text i end.

    Args:
        ends: (pieces,) end of every piece of the buffer.
        drop_space: whether pieces that begin with white space (1) are left out.
        table, letters: the vocabulary as `bpe_encode.whole_table` lays it out; a piece outside it is MISSING.
    """
    base, held = np.uint64(buffer.ctypes.data), np.uint64(letters.ctypes.data)
    by_byte, by_code_point = np.uint64(byte_classes.ctypes.data), np.uint64(classes.ctypes.data)
    mask = np.uint64(table.shape[0] - 1)
    out, filled, texts = np.empty(ends.shape[0], np.int32), 0, 0
    at, piece, stop = base, 0, base + np.uint64(used)
    while at < stop:
        if load_byte(at) == TEXT_END:
            text_ends[texts] = filled
            texts += 1
            at += ONE
            continue
        end = base + np.uint64(ends[piece])
        piece += 1
        if drop_space and _class_and_length(at, by_byte, by_code_point)[0] == SPACE:
            at = end
            continue
        length = end - at
        first, second = word_key(at, length)
        slot = hash_of(first, second, length) & mask
        found = np.int32(MISSING)
        while table[slot, 2]:
            entry = table[slot, 2]
            if (
                table[slot, 0] == first
                and table[slot, 1] == second
                and entry & LOW == length
                and (length <= 16 or same_bytes(held + table[slot, 3], at, np.int64(length)))
            ):
                found = np.int32(entry >> HALF) - np.int32(1)
                break
            slot = (slot + ONE) & mask
        out[filled] = found
        filled += 1
        at = end
    return out[:filled]
