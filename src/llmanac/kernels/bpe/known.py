"""The words whose ids are known, in numba: a hash table keyed by the words' own bytes, of bounded size.

A row (`kernels/split/keys.py`) holds the word's ids in its last two columns:

    first key | second key | first two ids | third id, number of ids in the upper half

so a word of up to 15 bytes with up to three ids is one comparison and two stores, without a branch on either number. A
row with `ELSEWHERE` set in its second key has its ids in the arena, from an index on that is in the third column; there
a longer word's bytes come first. The number of ids takes 8 bits; the 24 above it are notes of the caller's on the word.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.split.keys import ELSEWHERE, EXACT, ROW_SHIFT, ZERO, row_keys, same_words, slot_of
from llmanac.kernels.text import EIGHT, ONE, SIXTEEN, inner, load_word, store_half, store_word

LONGEST = np.uint64(120)  # bytes of words that are kept
IDS, COUNT = SIXTEEN, np.uint64(24)  # where a row's two values are
HALF, TWO, OCTET = np.uint64(32), np.uint64(2), np.uint64(0xFF)
# What `counters` holds: words in the table, 4-byte places taken in the arena.
WORDS, PLACES = 0, 1


@inner(forceinline=True)
def _bytes_before(length):
    """How many bytes of the arena a word's own bytes take."""
    return (length + np.uint64(7)) & ~np.uint64(7) if length > EXACT else ZERO


@inner(inline="never")
def find(place, length, table, mask, shift, arena, out):
    """Write the ids of a word to an address. Returns `(ids, 0)`, or `(0, address of its free row)` if it is not known.

    The number of ids has the word's notes above its lowest 8 bits. A word longer than `LONGEST` has neither.
    """
    if length > LONGEST:
        return ZERO, ZERO
    first, second = row_keys(place, length)
    slot = slot_of(first, second, shift)
    while True:
        row = table + (slot << ROW_SHIFT)
        held = load_word(row + EIGHT)
        if held == ZERO:
            return ZERO, row
        if load_word(row) == first and held == second:
            if length <= EXACT:
                count = load_word(row + COUNT)
                store_word(out, load_word(row + IDS))
                store_half(out + EIGHT, count)
                return count >> HALF, ZERO
        elif load_word(row) != first or held != second | ELSEWHERE:
            slot = (slot + ONE) & mask
            continue
        ids = arena + (load_word(row + IDS) << TWO)
        if length <= EXACT or same_words(ids, place, length):
            ids += _bytes_before(length)
            count = load_word(row + COUNT) >> HALF
            for i in range(ZERO, (count & OCTET) << TWO, EIGHT):  # two at a time, so up to one too many
                store_word(out + i, load_word(ids + i))
            return count, ZERO
        slot = (slot + ONE) & mask


@inner(inline="never")
def remember(place, length, row, cache, shift, arena, counters, ids, count, notes=0):
    """Keep the ids of a word in the free row that `find` gave. Where table or arena is full, both start over."""
    noted = (np.uint64(count) | np.uint64(notes) << EIGHT) << HALF
    outside = length > EXACT or count > 3
    needed = np.int64(_bytes_before(length) >> TWO) + count if outside else 0
    if needed + 2 > arena.shape[0]:
        return
    first, second = row_keys(place, length)
    if counters[WORDS] * 2 >= cache.shape[0] or counters[PLACES] + needed + 2 > arena.shape[0]:
        cache[:, 1] = ZERO
        counters[WORDS], counters[PLACES] = 0, 0
        row = np.uint64(cache.ctypes.data) + (slot_of(first, second, shift) << ROW_SHIFT)
    counters[WORDS] += 1
    store_word(row, first)
    store_word(row + EIGHT, second | ELSEWHERE if outside else second)
    if not outside:
        two = np.uint64(ids[0]) | (np.uint64(ids[1]) << HALF if count > 1 else ZERO)
        store_word(row + IDS, two)
        store_word(row + COUNT, (np.uint64(ids[2]) if count > 2 else ZERO) | noted)
        return
    store_word(row + IDS, np.uint64(counters[PLACES]))
    store_word(row + COUNT, noted)
    start = np.uint64(arena.ctypes.data) + np.uint64(4 * counters[PLACES])
    for i in range(ZERO, _bytes_before(length), EIGHT):
        store_word(start + i, load_word(place + i))
    start += _bytes_before(length)
    for i in range(count):
        store_half(start + np.uint64(4 * i), np.uint64(ids[i]))
    counters[PLACES] += needed
