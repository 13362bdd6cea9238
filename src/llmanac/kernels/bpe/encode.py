"""Byte-pair encoding in numba: the pair table, merging one piece, and encoding whole texts through a word cache.

A piece of up to `SHORT` bytes is merged by scanning for its lowest rank, which is fastest in practice and quadratic; a
longer one goes through a heap of (rank, place), O(n log n), so a megabyte without a blank costs little more per byte
than prose. Both take the leftmost of equal ranks first, as `tokenizers` and tiktoken do.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

from functools import partial

import numpy as np

from llmanac.kernels.bpe.known import COUNT as COUNT_AT
from llmanac.kernels.bpe.known import IDS as IDS_AT
from llmanac.kernels.bpe.known import TWO, find, remember
from llmanac.kernels.split.blocks import AT, PLACES, SCAN, next_pieces
from llmanac.kernels.split.keys import BLOCK, WAITING, ZERO, shift_of, stage
from llmanac.kernels.split.words import TEXT_END
from llmanac.kernels.text import (
    ALL_ONES,
    EIGHT,
    ONE,
    SIXTEEN,
    THREE,
    borrowed,
    cached,
    hash_of,
    inner,
    load_byte,
    load_word,
    mix,
    random_bits,
    same_bytes,
    slots_for,
    store_half,
    store_word,
    word_key,
)  # fmt: skip

SHORT = 48  # bytes; above it the heap is faster
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
# What `counters` holds: words in the cache, places in its arena, heap steps taken, 1 + a byte that has no token.
WORDS, IDS, STEPS, MISSING = 0, 1, 2, 3


@inner
def _insert_pair(pairs, left, right, value):
    key = (np.uint64(left) << HALF) | np.uint64(right)
    mask = np.uint64(pairs.shape[0] - 1)
    slot = mix(key) & mask
    while pairs[slot, 1] != ALL_ONES and pairs[slot, 0] != key:
        slot = (slot + ONE) & mask
    pairs[slot, 0], pairs[slot, 1] = key, value


@inner(forceinline=True)
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


@inner
def _merge_short(address, length, byte_ids, pairs, ids, ranks, dropped, state):
    """Merge a piece in place into `ids`; returns how many ids are left.

    Where there is a `state` of random bits, a merge is left out where the next bits are below `dropped` (`dropout.py`).
    """
    for i in range(length):
        ids[i] = byte_ids[load_byte(address + np.uint64(i))]
    left = length
    for i in range(left - 1):
        ranks[i] = _find_pair(pairs, ids[i], ids[i + 1])
    while left > 1:
        best, at = ALL_ONES, -1
        for i in range(left - 1):
            if ranks[i] < best:
                if state is not None and random_bits(state) < dropped:
                    continue
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


@inner
def _sift_up(heap, at, key):
    while at > 0 and heap[(at - 1) >> 1] > key:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = key


@inner
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


@cached
def _merge_long(address, length, byte_ids, pairs, ids, counters, dropped, state):
    """The same as `_merge_short` through a heap of (rank, place); `counters[STEPS]` counts what it pushes and pops."""
    after, before = np.empty(length, np.int32), np.empty(length, np.int32)
    heap, size = np.empty(3 * length, np.uint64), np.int64(0)
    for i in range(length):
        ids[i] = byte_ids[load_byte(address + np.uint64(i))]
        after[i], before[i] = i + 1, i - 1
    popped = 0
    if state is not None:
        waiting, kept_back = np.empty(3 * length, np.uint64), np.int64(0)
    for i in range(length - 1):
        value = _find_pair(pairs, ids[i], ids[i + 1])
        if value != ALL_ONES:
            _sift_up(heap, size, (value & ~LOW) | np.uint64(i))
            size += 1
    while size > 0:
        key = heap[0]
        size -= 1
        popped += 1
        _sift_down(heap, size, heap[size])
        at = np.int64(key & LOW)
        right = after[at]
        if ids[at] < 0 or right >= length:
            continue
        value = _find_pair(pairs, ids[at], ids[right])
        if value == ALL_ONES or value & ~LOW != key & ~LOW:
            continue  # one of the two has been merged with another since: no merge at hand, so nothing is drawn
        if state is not None and random_bits(state) < dropped:
            waiting[kept_back] = key
            kept_back += 1
            continue
        ids[at], ids[right] = np.int32(value & LOW), -1
        after[at] = after[right]
        if after[at] < length:
            before[after[at]] = at
            value = _find_pair(pairs, ids[at], ids[after[at]])
            if value != ALL_ONES:
                _sift_up(heap, size, (value & ~LOW) | np.uint64(at))
                size += 1
        if before[at] >= 0:
            value = _find_pair(pairs, ids[before[at]], ids[at])
            if value != ALL_ONES:
                _sift_up(heap, size, (value & ~LOW) | np.uint64(before[at]))
                size += 1
        if state is not None:
            for i in range(kept_back):
                _sift_up(heap, size, waiting[i])
                size += 1
            kept_back = 0
    counters[STEPS] += 2 * popped  # each was pushed
    left, at = 0, 0
    while at < length:
        ids[left] = ids[at]
        left += 1
        at = after[at]
    return left


@inner
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
        return _merge_short(address, length, byte_ids, pairs, ids, ranks, 0, None)
    return _merge_long(address, length, byte_ids, pairs, ids, counters, 0, None)


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


@inner(inline="never")
def _learn(
    place, length, row, byte_ids, pairs, whole, token_bytes, cache, shift, arena, counters, ids, ranks, out
):  # fmt: skip
    """Merge a word that the cache lacks, write its ids to an address and keep them; returns how many they are."""
    if length > ids.shape[0]:
        ids = np.empty(length, np.int32)
    left = _merge(place, np.int64(length), byte_ids, pairs, whole, token_bytes, ids, ranks, counters)
    for i in range(left):
        store_half(out + np.uint64(4 * i), np.uint64(ids[i]))
    if row and left > 0:
        remember(place, length, row, cache, shift, arena, counters, ids, left)
    return np.uint64(left)


@partial(cached, nogil=True)
def encode(
    buffer, used, byte_classes, classes, mode, ends, byte_ids, pairs, whole, token_bytes, cache, arena, counters,
    text_ends, out,
):  # fmt: skip
    """Ids of every text of a packed buffer into `out`, one after the other; returns how many there are.

    Args:
        cache, arena, counters: the ids of words seen before (`known.py`); bounded, and starts over when full.
        text_ends: `text_ends[i]` becomes where the ids of text i end.
        out: (used + 8,) int32.
    """
    base, table, held = np.uint64(buffer.ctypes.data), np.uint64(cache.ctypes.data), np.uint64(arena.ctypes.data)
    by_byte, by_code_point = np.uint64(byte_classes.ctypes.data), np.uint64(classes.ctypes.data)
    mask, shift = np.uint64(cache.shape[0] - 1), shift_of(cache.shape[0])
    byte_ids, pairs, whole, token_bytes = borrowed(byte_ids), borrowed(pairs), borrowed(whole), borrowed(token_bytes)
    cache, arena, counters = borrowed(cache), borrowed(arena), borrowed(counters)
    begin = np.uint64(out.ctypes.data)
    to, texts = begin, 0
    ids, ranks = np.empty(SHORT + 2, np.int32), np.empty(SHORT + 2, np.uint64)
    my_ids, my_ranks = borrowed(ids), borrowed(ranks)
    places, masks, scan = np.zeros(PLACES, np.uint64), np.zeros((2, 9), np.uint64), np.zeros(SCAN, np.uint64)
    waiting = np.empty(np.int64(3 * BLOCK), np.uint64)
    stop, scan[AT] = base + np.uint64(used), base
    while scan[AT] < stop:
        pieces = next_pieces(base, used, mode, ends, places, masks, scan, by_byte, by_code_point)
        piece = np.uint64(places.ctypes.data)
        last = piece + (np.uint64(pieces) << THREE)
        while piece < last:
            until, wait = min(piece + (BLOCK << THREE), last), np.uint64(waiting.ctypes.data)
            waited = stage(piece, until, base, table, shift, wait)
            piece = until
            while wait < waited:
                row = load_word(wait + SIXTEEN)
                two, count = load_word(row + IDS_AT), load_word(row + COUNT_AT)
                missed = load_word(row) ^ load_word(wait) | load_word(row + EIGHT) ^ load_word(wait + EIGHT)
                wait += WAITING
                if not missed:
                    store_word(to, two)
                    store_half(to + EIGHT, count)
                    to += count >> HALF << TWO
                    continue
                this = until - (waited - wait) // THREE - EIGHT
                place, length = base + load_word(this), load_word(this + EIGHT) - load_word(this)
                if length == ONE and load_byte(place) == TEXT_END:
                    text_ends[texts] = np.int64((to - begin) >> TWO)
                    texts += 1
                    continue
                count, row = find(place, length, table, mask, shift, held, to)
                if count == 0:
                    count = _learn(
                        place, length, row, byte_ids, pairs, whole, token_bytes, cache, shift, arena, counters, my_ids,
                        my_ranks, to,
                    )  # fmt: skip
                to += count << TWO
        places[0] = places[pieces]
        waiting[0] = ZERO  # (what is used by its address only must be used once more to be kept)
        ids[0], ranks[0] = 0, ZERO
    return np.int64((to - begin) >> TWO)


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
            left = _merge_short(address, length, byte_ids, pairs, ids, ranks, 0, None)
        else:
            left = _merge_long(address, length, byte_ids, pairs, ids, counters, 0, None)
        if left != 2:
            unreached += 1
            continue
        _insert_pair(pairs, ids[0], ids[1], (np.uint64(rank) << HALF) | np.uint64(token))
        made[0, merges], made[1, merges], made[2, merges] = ids[0], ids[1], token
        merges += 1
    return made[0, :merges], made[1, :merges], made[2, :merges], unreached
