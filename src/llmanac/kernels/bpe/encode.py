"""Byte-pair encoding in numba: the pair table, merging one piece, and encoding whole texts through a word cache.

A piece of up to `SHORT` bytes is merged by scanning for its lowest rank, which is fastest in practice and quadratic; a
longer one goes through a heap of (rank, place), O(n log n), so a megabyte without a blank costs little more per byte
than prose. Both take the leftmost of equal ranks first, as `tokenizers` and tiktoken do.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
from __future__ import annotations

import numpy as np
from numba import njit

from llmanac.kernels.split.words import GIVEN, TEXT_END, piece_end
from llmanac.kernels.text import (
    ALL_ONES,
    ONE,
    cached,
    grown,
    hash_of,
    load_byte,
    mix,
    prefetch,
    same_bytes,
    slots_for,
    word_key,
)  # fmt: skip

SHORT = 48  # bytes; above it the heap is faster
CACHED = 64  # bytes; longer pieces are merged anew each time
BLOCK = 128  # pieces looked ahead, so that cache lines arrive before they are needed
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
# What `counters` holds: words in the cache, ids in its arena, heap steps taken, 1 + a byte that has no token.
WORDS, IDS, STEPS, MISSING = 0, 1, 2, 3


@njit
def _insert_pair(pairs, left, right, value):
    key = (np.uint64(left) << HALF) | np.uint64(right)
    mask = np.uint64(pairs.shape[0] - 1)
    slot = mix(key) & mask
    while pairs[slot, 1] != ALL_ONES and pairs[slot, 0] != key:
        slot = (slot + ONE) & mask
    pairs[slot, 0], pairs[slot, 1] = key, value


@njit(forceinline=True)
def _find_pair(pairs, left, right):
    """`rank << 32 | merged id` of two neighbours, or all ones."""
    key = (np.uint64(left) << HALF) | np.uint64(right)
    mask = np.uint64(pairs.shape[0] - 1)
    slot = mix(key) & mask
    while True:
        value = pairs[slot, 1]
        if value == ALL_ONES or pairs[slot, 0] == key:
            return value
        slot = (slot + ONE) & mask


@cached
def pair_table(left, right, merged):
    """(2^k, 2) uint64 table of merges in rank order; a repeated pair keeps its last rank, as in `tokenizers`."""
    pairs = np.full((slots_for(left.shape[0]), 2), ALL_ONES, np.uint64)
    for rank in range(left.shape[0]):
        _insert_pair(pairs, left[rank], right[rank], (np.uint64(rank) << HALF) | np.uint64(merged[rank]))
    return pairs


@njit
def _merge_short(address, length, byte_ids, pairs, ids, ranks):
    """Merge a piece in place into `ids`; returns how many ids are left."""
    for i in range(length):
        ids[i] = byte_ids[load_byte(address + np.uint64(i))]
    left = length
    for i in range(left - 1):
        ranks[i] = _find_pair(pairs, ids[i], ids[i + 1])
    while left > 1:
        best, at = ALL_ONES, -1
        for i in range(left - 1):
            if ranks[i] < best:
                best, at = ranks[i], i
        if at < 0:
            break
        left -= 1
        ids[at] = np.int32(best & LOW)
        for i in range(at + 1, left):
            ids[i], ranks[i] = ids[i + 1], ranks[i + 1]
        if at + 1 < left:
            ranks[at] = _find_pair(pairs, ids[at], ids[at + 1])
        if at > 0:
            ranks[at - 1] = _find_pair(pairs, ids[at - 1], ids[at])
    return left


@njit
def _sift_up(heap, at, key):
    while at > 0 and heap[(at - 1) >> 1] > key:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = key


@njit
def _sift_down(heap, size, key):
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = key


@njit
def _merge_long(address, length, byte_ids, pairs, ids, counters):
    """The same as `_merge_short` through a heap; `counters[STEPS]` counts what it pushes and pops."""
    after, before = np.empty(length, np.int32), np.empty(length, np.int32)
    heap, size = np.empty(3 * length, np.uint64), np.int64(0)
    for i in range(length):
        ids[i] = byte_ids[load_byte(address + np.uint64(i))]
        after[i], before[i] = i + 1, i - 1
    for i in range(length - 1):
        value = _find_pair(pairs, ids[i], ids[i + 1])
        if value != ALL_ONES:
            _sift_up(heap, size, (value & ~LOW) | np.uint64(i))
            size += 1
    steps = size
    while size > 0:
        key = heap[0]
        size -= 1
        steps += 1
        _sift_down(heap, size, heap[size])
        at = np.int64(key & LOW)
        right = after[at]
        if ids[at] < 0 or right >= length:
            continue
        value = _find_pair(pairs, ids[at], ids[right])
        if value == ALL_ONES or value & ~LOW != key & ~LOW:
            continue  # one of the two has been merged with another since
        ids[at], ids[right] = np.int32(value & LOW), -1
        after[at] = after[right]
        if after[at] < length:
            before[after[at]] = at
            value = _find_pair(pairs, ids[at], ids[after[at]])
            if value != ALL_ONES:
                _sift_up(heap, size, (value & ~LOW) | np.uint64(at))
                size += 1
                steps += 1
        if before[at] >= 0:
            value = _find_pair(pairs, ids[before[at]], ids[at])
            if value != ALL_ONES:
                _sift_up(heap, size, (value & ~LOW) | np.uint64(before[at]))
                size += 1
                steps += 1
    counters[STEPS] += steps
    left, at = 0, 0
    while at < length:
        ids[left] = ids[at]
        left += 1
        at = after[at]
    return left


@njit
def _merge(address, length, byte_ids, pairs, whole, token_bytes, ids, ranks, counters):
    """Ids of one piece into `ids`: the piece's own token where `whole` has it, else by merging."""
    if whole.shape[0] > 1:
        first, second = word_key(address, np.uint64(length))
        mask = np.uint64(whole.shape[0] - 1)
        slot = hash_of(first, second, np.uint64(length)) & mask
        while whole[slot, 2]:
            entry = whole[slot, 2]
            if whole[slot, 0] == first and whole[slot, 1] == second and entry & LOW == np.uint64(length):
                held = np.uint64(token_bytes.ctypes.data) + whole[slot, 3]
                if length <= 16 or same_bytes(held, address, length):
                    ids[0] = np.int32(entry >> HALF) - 1
                    return 1
            slot = (slot + ONE) & mask
    for i in range(length):
        byte = load_byte(address + np.uint64(i))
        if byte_ids[byte] < 0:
            counters[MISSING] = byte + 1
            return 0
    if length <= SHORT:
        return _merge_short(address, length, byte_ids, pairs, ids, ranks)
    return _merge_long(address, length, byte_ids, pairs, ids, counters)


@cached
def whole_table(token_bytes, starts, lengths, ids):
    """(2^k, 4) uint64 table of tokens by their bytes: first key, second key, length | (id + 1) << 32, start."""
    whole = np.zeros((slots_for(ids.shape[0]), 4), np.uint64)
    base, mask = np.uint64(token_bytes.ctypes.data), np.uint64(whole.shape[0] - 1)
    for i in range(ids.shape[0]):
        length = np.uint64(lengths[i])
        first, second = word_key(base + np.uint64(starts[i]), length)
        slot = hash_of(first, second, length) & mask
        while whole[slot, 2]:
            slot = (slot + ONE) & mask
        whole[slot, 0], whole[slot, 1] = first, second
        whole[slot, 2], whole[slot, 3] = length | (np.uint64(ids[i] + 1) << HALF), np.uint64(starts[i])
    return whole


@njit
def _remember(cache, arena, slot, first, second, address, length, ids, left, counters):
    """Put a merged word into the cache; when either of its parts is full, start it over."""
    words = (length + 3) // 4 if length > 16 else 0
    if counters[WORDS] * 2 >= cache.shape[0] or counters[IDS] + left + words + 1 > arena.shape[0]:
        for i in range(cache.shape[0]):
            cache[i, 2] = np.uint64(0)
        counters[WORDS], counters[IDS] = 0, 0
        slot = hash_of(first, second, np.uint64(length)) & np.uint64(cache.shape[0] - 1)
    start = counters[IDS]
    cache[slot, 0], cache[slot, 1] = first, second
    cache[slot, 2] = np.uint64(length) | (np.uint64(left) << HALF)
    value = np.uint64(ids[0])
    if left == 2 and words == 0:
        value |= np.uint64(ids[1]) << HALF
    else:
        value |= np.uint64(start) << HALF
        for i in range(1, left):
            arena[start + i - 1] = ids[i]
        start += left - 1
        for i in range(words):  # a long word's own bytes, since its key is only a hash
            packed = np.uint32(0)
            for j in range(min(4, length - 4 * i)):
                packed |= np.uint32(load_byte(address + np.uint64(4 * i + j))) << np.uint32(8 * j)
            arena[start + i] = np.int32(packed)
        counters[IDS] = start + words
    cache[slot, 3] = value
    counters[WORDS] += 1


@cached
def encode(
    buffer, used, byte_classes, classes, mode, ends, byte_ids, pairs, whole, token_bytes, cache, arena, counters,
    text_ends,
):  # fmt: skip
    """Ids of every text of a packed buffer, one after the other; `text_ends[i]` is where those of text i end.

    The cache (2^k, 4) and its arena of ids keep the ids of words seen before; they are bounded and start over when
    full. Returns (ids,) int32.
    """
    base, table = np.uint64(buffer.ctypes.data), np.uint64(cache.ctypes.data)
    by_byte, by_code_point = np.uint64(byte_classes.ctypes.data), np.uint64(classes.ctypes.data)
    held = np.uint64(arena.ctypes.data)
    mask = np.uint64(cache.shape[0] - 1)
    out, filled, texts, given = np.empty(used + 2, np.int32), 0, 0, 0
    starts, sizes, slots = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
    firsts, seconds = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
    ids, ranks = np.empty(SHORT + 2, np.int32), np.empty(SHORT + 2, np.uint64)
    at, stop = base, base + np.uint64(used)
    while at < stop:
        block = 0
        while block < BLOCK and at < stop:
            starts[block] = at
            if load_byte(at) == TEXT_END:
                sizes[block] = np.uint64(0)
                at += ONE
            else:
                if mode == GIVEN:
                    end = base + np.uint64(ends[given])
                    given += 1
                else:
                    end = piece_end(at, by_byte, by_code_point, mode)
                length = end - at
                firsts[block], seconds[block] = word_key(at, length)
                slot = hash_of(firsts[block], seconds[block], length) & mask
                prefetch(table + (slot << np.uint64(5)))
                sizes[block], slots[block] = length, slot
                at = end
            block += 1
        for i in range(block):
            length = np.int64(sizes[i])
            if length == 0:
                text_ends[texts] = filled
                texts += 1
                continue
            if length > CACHED:
                if length > ids.shape[0]:
                    ids = grown(ids, length)
                left = _merge(starts[i], length, byte_ids, pairs, whole, token_bytes, ids, ranks, counters)
                for j in range(left):
                    out[filled + j] = ids[j]
                filled += left
                continue
            first, second, slot = firsts[i], seconds[i], slots[i]
            while True:
                entry = cache[slot, 2]
                if entry == 0:
                    if length > ids.shape[0]:
                        ids = grown(ids, length)
                    left = _merge(starts[i], length, byte_ids, pairs, whole, token_bytes, ids, ranks, counters)
                    if left > 0:
                        _remember(cache, arena, slot, first, second, starts[i], length, ids, left, counters)
                    for j in range(left):
                        out[filled + j] = ids[j]
                    filled += left
                    break
                if cache[slot, 0] == first and cache[slot, 1] == second and entry & LOW == sizes[i]:
                    value, left = cache[slot, 3], np.int64(entry >> HALF)
                    tail = np.int64(value >> HALF)
                    if length <= 16:
                        out[filled], out[filled + 1] = np.int32(value & LOW), np.int32(value >> HALF)
                        if left > 2:
                            for j in range(1, left):
                                out[filled + j] = arena[tail + j - 1]
                        filled += left
                        break
                    if same_bytes(held + np.uint64(4 * (tail + left - 1)), starts[i], length):
                        out[filled] = np.int32(value & LOW)
                        for j in range(1, left):
                            out[filled + j] = arena[tail + j - 1]
                        filled += left
                        break
                slot = (slot + ONE) & mask
    return out[:filled]


@cached
def merges_of_ranks(token_bytes, starts, lengths, byte_ids, ranked):
    """The merge that makes each token of a vocabulary given as ranks only (tiktoken's files).

    A token's merge is how the tokens before it split its bytes in two. `ranked` holds ids in rank order; the arrays
    are by id. Returns `(left, right, merged)` and how many tokens no merge reaches.
    """
    pairs = np.full((slots_for(ranked.shape[0]), 2), ALL_ONES, np.uint64)
    longest = max(lengths.max(), 2)
    ids, ranks, counters = np.empty(longest + 2, np.int32), np.empty(longest + 2, np.uint64), np.zeros(4, np.int64)
    made = np.empty((3, ranked.shape[0]), np.int32)
    merges, unreached = 0, 0
    base = np.uint64(token_bytes.ctypes.data)
    for rank in range(ranked.shape[0]):
        token = ranked[rank]
        length = lengths[token]
        if length < 2:
            continue
        address = base + np.uint64(starts[token])
        if length <= SHORT:
            left = _merge_short(address, length, byte_ids, pairs, ids, ranks)
        else:
            left = _merge_long(address, length, byte_ids, pairs, ids, counters)
        if left != 2:
            unreached += 1
            continue
        _insert_pair(pairs, ids[0], ids[1], (np.uint64(rank) << HALF) | np.uint64(token))
        made[0, merges], made[1, merges], made[2, merges] = ids[0], ids[1], token
        merges += 1
    return made[0, :merges], made[1, :merges], made[2, :merges], unreached
