"""BPE-dropout in numba: merging a piece while each merge at hand is left out at random, anew at every step.

The process of Provilkov et al. 2020, algorithm 1: of the merges that the piece offers now, each is dropped with
probability p, the first learned of the rest (the leftmost of equals) is done, and so on until a step has none left.
Since the draws are independent, one is needed only for a merge that would be done if it is kept.

A short piece is scanned at every step. A longer one waits in a heap: merges are taken in order until one is kept, and
the dropped ones go back, which is 1 / (1 - p) of them a step. With p so near 1 that this is much, the longer piece is
instead cut into stretches of `STRETCH` bytes and each is scanned; no merge then crosses a cut (it would hardly ever
have been kept), and the work stays linear in the text.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
from __future__ import annotations

import numpy as np
from numba import njit

from llmanac.kernels.bpe.encode import LOW, _find_pair, _sift_down, _sift_up
from llmanac.kernels.split.words import GIVEN, TEXT_END, piece_end
from llmanac.kernels.text import ALL_ONES, ONE, cached, load_byte, random_bits

SHORT, STRETCH = 64, 512  # bytes: scanned below it; scanned in stretches where the heap would be slow
MANY_DROPPED = np.uint64(0xF000000000000000)  # p above 15/16: the heap would put back more than 16 merges a step


@njit
def _scan(address, length, byte_ids, pairs, dropped, state, out, filled, ranks):
    """Merge `length` bytes at an address into `out[filled:]`, scanning at each step; returns how many ids are left."""
    for i in range(length):
        out[filled + i] = byte_ids[load_byte(address + np.uint64(i))]
    left = length
    for i in range(left - 1):
        ranks[i] = _find_pair(pairs, out[filled + i], out[filled + i + 1])
    while left > 1:
        best, at = ALL_ONES, -1
        for i in range(left - 1):
            if ranks[i] < best and random_bits(state) >= dropped:
                best, at = ranks[i], i
        if at < 0:
            break
        left -= 1
        out[filled + at] = np.int32(best & LOW)
        for i in range(at + 1, left):
            out[filled + i], ranks[i] = out[filled + i + 1], ranks[i + 1]
        if at + 1 < left:
            ranks[at] = _find_pair(pairs, out[filled + at], out[filled + at + 1])
        if at > 0:
            ranks[at - 1] = _find_pair(pairs, out[filled + at - 1], out[filled + at])
    return left


@njit
def _offer(pairs, ids, after, length, at, heap, size):
    """Put the merge of a place with the one after it into the heap, if there is one; returns the heap's size."""
    right = after[at]
    if right < length:
        value = _find_pair(pairs, ids[at], ids[right])
        if value != ALL_ONES:
            _sift_up(heap, size, (value & ~LOW) | np.uint64(at))
            size += 1
    return size


@njit
def _queue(address, length, byte_ids, pairs, dropped, state, out, filled):
    """The same as `_scan` through a heap of (rank, place)."""
    ids, after, before = np.empty(length, np.int32), np.empty(length, np.int32), np.empty(length, np.int32)
    heap, size = np.empty(3 * length, np.uint64), np.int64(0)
    waiting, kept_back = np.empty(3 * length, np.uint64), np.int64(0)
    for i in range(length):
        ids[i] = byte_ids[load_byte(address + np.uint64(i))]
        after[i], before[i] = i + 1, i - 1
    for i in range(length - 1):
        size = _offer(pairs, ids, after, length, i, heap, size)
    while size > 0:
        key = heap[0]
        size -= 1
        _sift_down(heap, size, heap[size])
        at = np.int64(key & LOW)
        right = after[at]
        if ids[at] < 0 or right >= length:
            continue
        value = _find_pair(pairs, ids[at], ids[right])
        if value == ALL_ONES or value & ~LOW != key & ~LOW:
            continue  # one of the two has been merged with another since: no merge at hand, so nothing is drawn
        if random_bits(state) < dropped:
            waiting[kept_back] = key
            kept_back += 1
            continue
        ids[at], ids[right] = np.int32(value & LOW), -1
        after[at] = after[right]
        if after[at] < length:
            before[after[at]] = at
        size = _offer(pairs, ids, after, length, at, heap, size)
        if before[at] >= 0:
            size = _offer(pairs, ids, after, length, np.int64(before[at]), heap, size)
        for i in range(kept_back):
            _sift_up(heap, size, waiting[i])
            size += 1
        kept_back = 0
    left, at = 0, 0
    while at < length:
        out[filled + left] = ids[at]
        left += 1
        at = after[at]
    return left


@cached
def sample(buffer, used, byte_classes, classes, mode, ends, byte_ids, pairs, dropped, seed):
    """Ids of the text in a packed buffer, one of its segmentations.

    Args:
        dropped: uint64, the probability that a merge is dropped, times 2^64.
        seed: uint64.

    Returns:
        `(ids (tokens,) int32, missing)`; `missing` is 1 + a byte that has no token, or 0.
    """
    base = np.uint64(buffer.ctypes.data)
    by_byte, by_code_point = np.uint64(byte_classes.ctypes.data), np.uint64(classes.ctypes.data)
    out, filled, given = np.empty(used, np.int32), 0, 0
    ranks, state = np.empty(STRETCH, np.uint64), np.array([seed], np.uint64)
    at, stop = base, base + np.uint64(used)
    while at < stop:
        if load_byte(at) == TEXT_END:
            at += ONE
            continue
        if mode == GIVEN:
            end = base + np.uint64(ends[given])
            given += 1
        else:
            end = piece_end(at, by_byte, by_code_point, mode)
        length = np.int64(end - at)
        for i in range(length):
            byte = load_byte(at + np.uint64(i))
            if byte_ids[byte] < 0:
                return out[:filled], np.int64(byte) + 1
        if length <= SHORT:
            filled += _scan(at, length, byte_ids, pairs, dropped, state, out, filled, ranks)
        elif dropped < MANY_DROPPED:
            filled += _queue(at, length, byte_ids, pairs, dropped, state, out, filled)
        else:
            for start in range(0, length, STRETCH):
                size = min(STRETCH, length - start)
                filled += _scan(at + np.uint64(start), size, byte_ids, pairs, dropped, state, out, filled, ranks)
        at = end
    return out[:filled], np.int64(0)
