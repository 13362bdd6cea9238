"""Words by their own bytes, in numba: keys, rows of a hash table, and the pieces of a block looked up ahead of time.

A table of words has rows of 32 bytes, half a cache line, of which the first two columns are the word's keys:

    bytes 0 to 7 | bytes 8 to 14, length in the top byte | two columns of the table's own

so a word of up to 15 bytes is compared by two words of 64 bits. The keys of a longer one are hashes with `ELSEWHERE`
set in the second, and its bytes must be compared where they are kept. A row whose second key is 0 is free.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.text import (
    EIGHT,
    MIX_A,
    MIX_B,
    SIXTEEN,
    inner,
    load_word,
    prefetch,
    store_word,
    trailing_zeros,
    word_key,
)  # fmt: skip

EXACT = np.uint64(15)  # bytes of the words that are their keys
ROW_SHIFT = np.uint64(5)  # a row's bytes (2^5)
BLOCK, WAITING = np.uint64(64), np.uint64(24)  # pieces looked up together; bytes of what is held of each
ELSEWHERE = np.uint64(1 << 63)
TOP, ZERO = np.uint64(56), np.uint64(0)
THIRTY_TWO, MOST_LENGTH, BITS = np.uint64(32), np.uint64(127), np.uint64(64)
KEPT_BITS = np.array([[(1 << 8 * min(n, 8)) - 1, (1 << 8 * min(max(n - 8, 0), 7)) - 1] for n in range(128)], np.uint64)


@inner(forceinline=True)
def keys_of(place, length):
    """The two keys of a word of up to 15 bytes; those of a longer one are in no row."""
    kept = min(length, MOST_LENGTH)
    first = load_word(place) & KEPT_BITS[kept, 0]
    return first, load_word(place + EIGHT) & KEPT_BITS[kept, 1] | kept << TOP


@inner(forceinline=True)
def row_keys(place, length):
    """The two keys of a word's row, whatever its length."""
    if length <= EXACT:
        return keys_of(place, length)
    if length > THIRTY_TWO:
        first, second = word_key(place, length)
    else:
        end = place + length - SIXTEEN
        first = (load_word(place) ^ load_word(end + EIGHT) * MIX_B) * MIX_A
        second = (load_word(place + EIGHT) ^ load_word(end) * MIX_B) * MIX_A
    return first, second >> EIGHT | min(length, MOST_LENGTH) << TOP | ELSEWHERE


@inner(forceinline=True)
def shift_of(rows):
    """What `slot_of` takes for a table of so many rows, a power of two."""
    return BITS - trailing_zeros(np.uint64(rows))


@inner(forceinline=True)
def slot_of(first, second, shift):
    """The row in which to begin to look, of 2^(64 - shift)."""
    return (first ^ second * MIX_B) * MIX_A >> shift


@inner(forceinline=True)
def same_words(left, right, length):
    """Whether 16 or more bytes at two addresses are the same."""
    end = length - SIXTEEN
    different = load_word(left) ^ load_word(right) | load_word(left + EIGHT) ^ load_word(right + EIGHT)
    different |= load_word(left + end) ^ load_word(right + end)
    different |= load_word(left + end + EIGHT) ^ load_word(right + end + EIGHT)
    at = SIXTEEN
    while at < end:  # of more than 32 bytes
        different |= load_word(left + at) ^ load_word(right + at)
        at += EIGHT
    return different == ZERO


@inner(forceinline=True)
def stage(piece, until, base, table, shift, wait):
    """Write the first key, the second key and the address of the row of each piece from an address on; returns it.

    The rows are asked for, since a table of many words does not fit the processor's fast caches.

    Args:
        piece, until: addresses of where the pieces start, as offsets from `base`; the one at `until` ends the last.
    """
    begins = load_word(piece)
    while piece < until:
        piece += EIGHT
        ends = load_word(piece)
        first, second = keys_of(base + begins, ends - begins)
        row = table + (slot_of(first, second, shift) << ROW_SHIFT)
        prefetch(row)
        store_word(wait, first)
        store_word(wait + EIGHT, second)
        store_word(wait + SIXTEEN, row)
        wait += WAITING
        begins = ends
    return wait
