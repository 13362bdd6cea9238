"""Merging a word as SentencePiece's BPE models do, in numba.

The word starts as its characters, and as whole user-defined symbols, which are never merged. Of all neighbours whose
joint text is a piece, the pair with the highest score is merged, of equal ones the leftmost, until none is left. Pieces
marked unused may be formed on the way; what is left of them at the end is taken apart again.

A random generator for kernels, whose whole state is one number of the caller's.
"""

import numpy as np
from numba import njit

from llmanac.kernels.bpe.encode import HALF, LOW, _find_pair, _insert_pair, _sift_down, _sift_up
from llmanac.kernels.sentencepiece.trie import longest, step
from llmanac.kernels.text import ALL_ONES, cached, character_length, grown, inner, random_bits, slots_for

TO_DOUBLE = 2.0**-53


@njit(forceinline=True)
def drawn(state):
    """A float64 in [0, 1) of 53 random bits; advances the (1,) uint64 state."""
    return np.float64(random_bits(state) >> np.uint64(11)) * TO_DOUBLE


GONE = np.int32(-2)  # merged into the symbol before it
NO_SYMBOL = np.int32(-1)  # a character that no piece holds
NOT_UNUSED, NOT_JOINED = -1, -2


@cached
def ranked_pairs(left, right, merged, ranks):
    """(2^k, 2) uint64 table of `rank << 32 | merged id` by pair; pairs of one rank are equally good."""
    pairs = np.full((slots_for(left.shape[0]), 2), ALL_ONES, np.uint64)
    for i in range(left.shape[0]):
        _insert_pair(pairs, left[i], right[i], (np.uint64(ranks[i]) << HALF) | np.uint64(merged[i]))
    return pairs


@inner
def _symbol(buffer, start, stop, nodes):
    node = np.int64(0)
    for i in range(start, stop):
        node = step(nodes, node, buffer[i])
        if node < 0:
            return NO_SYMBOL
    return nodes[node, 1]


@cached
def halves_of(letters, offsets, ids, ranks, nodes):
    """The `ranked_pairs` of all ways to make a piece of two pieces or characters.

    The keys' bytes (letters, and keys + 1 offsets), their ids, their ranks, and the trie of all symbols.
    """
    pairs, count = np.empty((0, 2), np.uint64), 0
    for fill in range(2):
        if fill:
            pairs = np.full((slots_for(count), 2), ALL_ONES, np.uint64)
        for key in range(ids.shape[0]):
            value = (np.uint64(ranks[key]) << HALF) | np.uint64(ids[key])
            for place in range(offsets[key] + 1, offsets[key + 1]):
                if letters[place] & 0xC0 != 0x80:  # where a character begins
                    left = _symbol(letters, offsets[key], place, nodes)
                    right = _symbol(letters, place, offsets[key + 1], nodes)
                    if left >= 0 and right >= 0:
                        count += 1
                        if fill:
                            _insert_pair(pairs, np.int64(left), np.int64(right), value)
    return pairs


@inner(forceinline=True)
def _joint(symbols, frozen, left, right, pairs, halves):
    """`rank << 32 | merged id` of two neighbours, or all ones; notes how an unused piece comes apart."""
    if symbols[left] < 0 or symbols[right] < 0 or frozen[left] or frozen[right]:
        return ALL_ONES
    value = _find_pair(pairs, symbols[left], symbols[right])
    if value != ALL_ONES and halves.shape[0] > 0:
        merged = np.int64(value & LOW)
        if halves[merged, 0] != NOT_UNUSED:
            halves[merged, 0], halves[merged, 1] = symbols[left], symbols[right]
    return value


@inner
def merge(buffer, start, stop, nodes, kept, pairs, halves, vocabulary, unknown, dropout, random, ids, ends):
    """Ids of one word into `ids`, and into `ends` where each ends, counted from `start`; returns how many.

    Args:
        nodes: `walkable` trie of all pieces and characters. kept: trie units of the user-defined symbols, or empty.
        halves: (ids, 2) int32, [i, 0] is NOT_UNUSED but for pieces marked unused; empty where there are none.
        vocabulary: how many ids are pieces; those above it are characters that no piece is by itself.
        unknown: the id for such characters.
        dropout: the chance that a merge is left out when its turn comes; random: (1,) uint64 state for it.
    """
    length = stop - start
    symbols, frozen = np.empty(length, np.int32), np.zeros(length, np.uint8)
    after, before, starts = np.empty(length, np.int32), np.empty(length, np.int32), np.empty(length + 1, np.int64)
    count, at = 0, start
    while at < stop:
        width = np.int64(0)
        if kept.shape[0] > 0:
            width, _ = longest(kept, buffer, at, stop)
        frozen[count] = width > 0
        if width == 0:
            width = min(np.int64(character_length(buffer[at])), stop - at)
        symbols[count] = _symbol(buffer, at, at + width, nodes)
        starts[count], after[count], before[count] = at - start, count + 1, count - 1
        count += 1
        at += width
    starts[count] = length
    heap, size = np.empty(3 * count, np.uint64), np.int64(0)
    for i in range(count - 1):
        value = _joint(symbols, frozen, i, i + 1, pairs, halves)
        if value != ALL_ONES:
            _sift_up(heap, size, (value & ~LOW) | np.uint64(i))
            size += 1
    while size > 0:
        key = heap[0]
        size -= 1
        _sift_down(heap, size, heap[size])
        left = np.int64(key & LOW)
        right = np.int64(after[left])
        if symbols[left] == GONE or right >= count or symbols[left] < 0 or symbols[right] < 0:
            continue
        if frozen[left] or frozen[right]:
            continue
        value = _find_pair(pairs, symbols[left], symbols[right])
        if value == ALL_ONES or value & ~LOW != key & ~LOW:
            continue  # one of the two has been merged with another since
        if dropout > 0 and drawn(random) < dropout:
            continue
        symbols[left], symbols[right] = np.int32(value & LOW), GONE
        after[left] = after[right]
        if after[left] < count:
            before[after[left]] = left
        if before[left] >= 0:
            value = _joint(symbols, frozen, np.int64(before[left]), left, pairs, halves)
            if value != ALL_ONES:
                _sift_up(heap, size, (value & ~LOW) | np.uint64(before[left]))
                size += 1
        if after[left] < count:
            value = _joint(symbols, frozen, left, np.int64(after[left]), pairs, halves)
            if value != ALL_ONES:
                _sift_up(heap, size, (value & ~LOW) | np.uint64(left))
                size += 1
    return _read_out(count, symbols, after, starts, halves, vocabulary, unknown, nodes, buffer, start, ids, ends)


@inner
def _read_out(count, symbols, after, starts, halves, vocabulary, unknown, nodes, buffer, start, ids, ends):
    filled, at = 0, np.int64(0)
    stack = np.empty(64, np.int32)
    while at < count:
        end = starts[after[at]]
        if halves.shape[0] == 0 or symbols[at] < 0:
            ids[filled] = symbols[at] if 0 <= symbols[at] < vocabulary else unknown
            ends[filled] = end
            filled += 1
        else:
            place = starts[at]
            stack[0], depth = symbols[at], 1
            while depth > 0:
                depth -= 1
                symbol = stack[depth]
                if halves[symbol, 0] >= 0:
                    if depth + 2 > stack.shape[0]:
                        stack = grown(stack, depth + 2)
                    stack[depth], stack[depth + 1] = halves[symbol, 1], halves[symbol, 0]
                    depth += 2
                    continue
                place += _width(symbol, nodes, buffer, start + place)
                known = symbol < vocabulary and halves[symbol, 0] == NOT_UNUSED
                ids[filled] = symbol if known else unknown
                ends[filled] = place
                filled += 1
        at = np.int64(after[at])
    return filled


@inner
def _width(symbol, nodes, buffer, at):
    """Bytes of a symbol that the buffer is known to hold at a place."""
    node, width = np.int64(0), np.int64(0)
    while nodes[node, 1] != symbol:
        node = step(nodes, node, buffer[at + width])
        width += 1
    return width
