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

import numpy as np

from llmanac.kernels.bpe.encode import _merge_long, _merge_short
from llmanac.kernels.split.words import GIVEN, TEXT_END, piece_end
from llmanac.kernels.text import ONE, cached, load_byte

SHORT, STRETCH = 64, 512  # bytes: scanned below it; scanned in stretches where the heap would be slow
MANY_DROPPED = np.uint64(0xF000000000000000)  # p above 15/16: the heap would put back more than 16 merges a step


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
    ranks, state, steps = np.empty(STRETCH, np.uint64), np.array([seed], np.uint64), np.zeros(4, np.int64)
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
            filled += _merge_short(at, length, byte_ids, pairs, out[filled:], ranks, dropped, state)
        elif dropped < MANY_DROPPED:
            filled += _merge_long(at, length, byte_ids, pairs, out[filled:], steps, dropped, state)
        else:
            for start in range(0, length, STRETCH):
                size, place = min(STRETCH, length - start), at + np.uint64(start)
                filled += _merge_short(place, size, byte_ids, pairs, out[filled:], ranks, dropped, state)
        at = end
    return out[:filled], np.int64(0)
