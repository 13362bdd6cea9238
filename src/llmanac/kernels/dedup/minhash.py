"""MinHash at native speed: words, rolling shingle hashes and minima over affine permutations, in numba.

A shingle of `width` units (words or characters) is hashed as a polynomial of its units' hashes, modulo 2^64, which
rolls from one shingle to the next at two products whatever the width. A signature keeps, for each permutation
`v -> a v + b mod 2^32` (`a` odd, so it is one), the smallest value over a document's shingles. The permutations and the
mixing before them are those of datasketch's "affine32" scheme, so equal shingle hashes give equal signatures there.

`data/stages/minhash.py` has the plain form of all of it.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.text import (
    ALL_ONES,
    EIGHT,
    ONE,
    cached,
    character_length,
    code_point,
    inner,
    load_byte,
    load_word,
    trailing_zeros,
)

# What a character is to the splitter.
APART, JOINED, ALONE = 0, 1, 2  # between units; part of a longer unit; a unit by itself
LONGER = 3  # only in byte tables: the first byte of a character of several bytes

LANES = 64  # units found at a time, at most
BLOCK = 2048  # shingles signed at a time; small enough to stay in the first-level cache
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
UNIT_SEED = np.uint64(0x243F6A8885A308D3)
UNIT_A, UNIT_B = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xFF51AFD7ED558CCD)
SUM, SEEN, RING = 0, 1, 2  # places in the state: the polynomial, units read, then the last `width` units' hashes
U32 = np.uint32


@inner(forceinline=True)
def _absorb(value, eight):
    value = (value ^ eight) * UNIT_A
    return value ^ (value >> np.uint64(32))


@inner(forceinline=True)
def _scatter(value):
    """A bijection of 64-bit words that spreads every bit over all of them."""
    value ^= value >> np.uint64(33)
    value *= UNIT_B
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@inner(forceinline=True)
def _lowest(length):
    """A mask of the lowest `length` bytes of eight (all for eight or more, none for zero or fewer)."""
    bits = np.uint64(8) * np.uint64(min(max(length, 0), 7))
    return ALL_ONES if length >= 8 else (ONE << bits) - ONE


@inner
def _hash_long(buffer, begin, end):
    unit = UNIT_SEED
    for at in range(begin, max(end, begin + 16), 8):
        held = np.uint64(0)
        for i in range(min(8, end - at)):
            held |= np.uint64(buffer[at + i]) << np.uint64(8 * i)
        unit = _absorb(unit, held)
    return _absorb(unit, np.uint64(end - begin))


@inner(forceinline=True)
def _hash_span(buffer, begin, end):
    """Hash of the bytes of a unit, eight at a time, and of how many they are; at least sixteen are taken, zeros where
    there are fewer, so that nearly no unit asks for a branch."""
    length = end - begin
    if length > 16 or begin + 16 > buffer.shape[0]:
        return _hash_long(buffer, begin, end)
    address = np.uint64(buffer.ctypes.data) + np.uint64(begin)
    unit = _absorb(UNIT_SEED, load_word(address) & _lowest(length))
    unit = _absorb(unit, load_word(address + EIGHT) & _lowest(length - 8))
    return _absorb(unit, np.uint64(length))


@inner(forceinline=True)
def _next_unit(buffer, at, stop, by_byte, by_code_point):
    """`(begin, end)` of the next unit; `(stop, stop)` where there is none."""
    while at < stop and by_byte[buffer[at]] == APART:
        at += 1
    begin = at
    while at < stop:
        kind, length = by_byte[buffer[at]], 1
        if kind == LONGER:
            kind, length = by_code_point[code_point(buffer, at)], character_length(buffer[at])
            if kind == APART and begin == at:
                at += length
                begin = at
                continue
        if kind == APART or (kind == ALONE and begin < at):
            break
        at += length
        if kind == ALONE:
            break
    return begin, at


@inner
def next_spans(buffer, at, stop, by_byte, by_code_point, spans):
    """Write where the next units are, at most `LANES` of them.

    Sixty-four ASCII bytes at once become a mask of which belong to units, whose runs of ones are the units: no branch
    depends on a byte. All else goes one unit at a time.

    Args:
        spans: (LANES, 2) int64.

    Returns:
        `(at, count)`: where to go on (never inside a unit), and how many were written; none only at the end.
    """
    text, table = np.uint64(buffer.ctypes.data), np.uint64(by_byte.ctypes.data)
    while at + 64 <= stop:
        joined, high, address = np.uint64(0), np.uint64(0), text + np.uint64(at)
        for i in range(np.uint64(64)):
            byte = np.uint64(load_byte(address + i))
            kind = np.uint64(load_byte(table + byte))
            high |= byte | kind << np.uint64(6)  # bit 7: a byte above 127, or one that is a unit by itself
            joined |= (kind & ONE) << i
        if high & np.uint64(0x80) or joined == ALL_ONES:  # other than ASCII, or a unit of more than 64 bytes
            break
        count, rest = 0, joined
        while rest:
            low: np.uint64 = trailing_zeros(rest)
            length = trailing_zeros(~(rest >> low))
            if low + length == np.uint64(64):  # it may go on after these bytes
                break
            spans[count, 0] = at + np.int64(low)
            spans[count, 1] = at + np.int64(low + length)
            count += 1
            rest &= rest + (ONE << low)
        at += np.int64(trailing_zeros(rest)) if rest else 64
        if count:
            return at, count
    begin, end = _next_unit(buffer, at, stop, by_byte, by_code_point)
    spans[0, 0], spans[0, 1] = begin, end
    return end, 1 if begin < end else 0


@cached
def next_shingles(buffer, at, stop, by_byte, by_code_point, width, power, state, out):
    """Fill `out` with the hashes of the shingles that end in `buffer[at:stop]`, until it is full or the text ends.

    Args:
        buffer: (bytes,) uint8, one text's UTF-8 between `at` and `stop`.
        by_byte, by_code_point: (256,) and (0x110000,) uint8 tables of APART, JOINED, ALONE (and LONGER).
        power: `MULTIPLIER ** width` modulo 2^64, which takes the oldest unit out of the polynomial.
        state: (2 + width,) uint64, zeros at the start of a text; carries over to the next call.
        out: (size,) uint64.

    Returns:
        `(at, count)`: where to go on, and how many hashes were written. A text of fewer units than `width` (but one or
        more) has one shingle, all of it; a text without units has none.
    """
    count, size = 0, out.shape[0]
    total, seen = state[SUM], np.int64(state[SEEN])
    place = seen % width
    spans = np.empty((LANES, 2), np.int64)
    while at < stop and count < size:
        at, found = next_spans(buffer, at, stop, by_byte, by_code_point, spans)
        if found > size - count:  # there may be no room for all of them: the others are found again
            found = size - count
            at = spans[found - 1, 1]
        for i in range(found):
            unit = _hash_span(buffer, spans[i, 0], spans[i, 1])
            total = total * MULTIPLIER + unit
            if seen >= width:
                total -= state[RING + place] * power
            state[RING + place] = unit
            seen += 1
            place += 1
            if place == width:
                place = 0
            if seen >= width:
                out[count] = _scatter(total)
                count += 1
    if at >= stop and 0 < seen < width:
        out[count] = _scatter(total)
        count += 1
    state[SUM], state[SEEN] = total, np.uint64(seen)
    return at, count


@cached
def units(buffer, at, stop, by_byte, by_code_point, hashes, places):
    """Fill `hashes` (size,) uint64 and `places` (size, 2) int64 (bytes of the buffer) with the units from `at` on.

    Returns:
        `(at, count)`, as `next_shingles` does.
    """
    count, size = 0, hashes.shape[0]
    spans = np.empty((LANES, 2), np.int64)
    while at < stop and count < size:
        at, found = next_spans(buffer, at, stop, by_byte, by_code_point, spans)
        if found > size - count:
            found = size - count
            at = spans[found - 1, 1]
        for i in range(found):
            hashes[count] = _hash_span(buffer, spans[i, 0], spans[i, 1])
            places[count, 0], places[count, 1] = spans[i, 0], spans[i, 1]
            count += 1
    return at, count


@inner
def _lower(hashes, count, a, b, row):
    """Lower a signature by `count` 32-bit values: the loop that takes the time, eight products an instruction."""
    for k in range(row.shape[0]):
        least, factor, shift = row[k], a[k], b[k]
        for i in range(count):
            # uint32 * uint32 is uint64 to numba; without the cast the minimum would be of other values
            value = U32(factor * hashes[i] + shift)
            least = min(least, value)
        row[k] = least


@inner(forceinline=True)
def _premix(value):
    value ^= value >> U32(16)
    value = U32(value * U32(0x85EBCA6B))
    value ^= value >> U32(13)
    value = U32(value * U32(0xC2B2AE35))
    return U32(value ^ (value >> U32(16)))


@cached
def sign_texts(buffer, offsets, by_byte, by_code_point, width, power, a, b, signatures, counts):
    """Sign every text of a packed buffer.

    Args:
        offsets: (texts + 1,) where each text starts; text i is `buffer[offsets[i]:offsets[i + 1]]`.
        a, b: (permutations,) uint32, `a` odd.
        signatures: (texts, permutations) uint32, all ones at the start; lowered in place.
        counts: (texts,) int64, set to the number of shingles (repeats counted).
    """
    state, hashes = np.zeros(RING + width, np.uint64), np.empty(BLOCK, np.uint64)
    mixed = np.empty(BLOCK, np.uint32)
    for text in range(offsets.shape[0] - 1):
        at, stop, total = offsets[text], offsets[text + 1], 0
        state[:] = 0
        while at < stop:
            at, count = next_shingles(buffer, at, stop, by_byte, by_code_point, width, power, state, hashes)
            for i in range(count):
                mixed[i] = _premix(U32(hashes[i] >> np.uint64(32)))
            _lower(mixed, count, a, b, signatures[text])
            total += count
        counts[text] = total


@cached
def sign_hashes(hashes, a, b, row):
    """Lower one signature (permutations,) by the (shingles,) uint32 hashes of a document's shingles."""
    mixed = np.empty(BLOCK, np.uint32)
    for start in range(0, hashes.shape[0], BLOCK):
        count = min(BLOCK, hashes.shape[0] - start)
        for i in range(count):
            mixed[i] = _premix(hashes[start + i])
        _lower(mixed, count, a, b, row)


@cached
def band_keys(signatures, bands, rows):
    """(bands, texts) uint64: a hash of each band's `rows` values; equal bands have equal keys."""
    out = np.empty((bands, signatures.shape[0]), np.uint64)
    for text in range(signatures.shape[0]):
        for band in range(bands):
            key = UNIT_SEED
            for k in range(band * rows, (band + 1) * rows):
                key = _absorb(key, np.uint64(signatures[text, k]))
            out[band, text] = _scatter(key)
    return out


@inner(forceinline=True)
def _root(parents, item):
    while parents[item] != item:
        parents[item] = parents[parents[item]]
        item = parents[item]
    return item


@cached
def union(parents, left, right):
    """Join the sets of `left[i]` and `right[i]` for every i; a set's root is its smallest member."""
    for i in range(left.shape[0]):
        one, other = _root(parents, left[i]), _root(parents, right[i])
        if one < other:
            parents[other] = one
        elif other < one:
            parents[one] = other


@cached
def root_of(parents, item):
    """The root of one item's set."""
    return _root(parents, item)


@cached
def flatten(parents):
    """Point every item at its root."""
    for i in range(parents.shape[0]):
        parents[i] = _root(parents, i)


@cached
def common(left, right):
    """How many values two sorted arrays without repeats share."""
    i = j = count = 0
    while i < left.shape[0] and j < right.shape[0]:
        if left[i] == right[j]:
            count += 1
            i += 1
            j += 1
        elif left[i] < right[j]:
            i += 1
        else:
            j += 1
    return count
