"""The best token of each row of logits, by how much it leads, and its log-probability: a greedy step's own needs.

    i = argmax_v z_v        z_i - max_{v != i} z_v        -log sum_v exp(z_v - z_i)

The sum is in float64 over pieces of 1,024 numbers, each in float32.
"""

# mypy: disable-error-code="no-untyped-def, call-arg, assignment"
# (numba types these functions itself)

import math

import numpy as np

from llmanac.kernels.infer.attend import LOG2E32, LOWEST, largest
from llmanac.kernels.nn._exponential import RELAXED, exp2
from llmanac.kernels.text import cached

PIECE = 1024
HIGHEST = np.finfo(np.float32).max


def _best(logits, size, ids, numbers):
    """Of each row of `logits` (B, at least `size`): ids (B,), numbers (B, 2) log-probability and lead.

    Returns whether all logits are finite numbers; the results are of no use if not.
    """
    tops = np.empty((size + PIECE - 1) // PIECE, np.float32)
    for b in range(len(ids)):
        row = logits[b, :size]
        top, where = LOWEST, 0
        for n in range(len(tops)):
            piece = row[n * PIECE : (n + 1) * PIECE]
            tops[n] = largest(np.int64(piece.ctypes.data), np.int64(len(piece)))
            if tops[n] > top:
                top, where = tops[n], n
        total, odd = 0.0, np.int64(0)
        for n in range(len(tops)):
            piece = row[n * PIECE : (n + 1) * PIECE]
            part = np.float32(0)
            for i in range(len(piece)):
                part += exp2((piece[i] - top) * LOG2E32)
                odd += not abs(piece[i]) <= HIGHEST
            total += part
        if odd:
            return False
        first, second = where * PIECE, -np.float32(np.inf)
        while row[first] != top:
            first += 1
        for n in range(len(tops)):
            if n != where:
                second = max(second, tops[n])
        for i in range(where * PIECE, min((where + 1) * PIECE, size)):
            if i != first:
                second = max(second, row[i])
        ids[b], numbers[b, 0], numbers[b, 1] = first, -math.log(total), top - second
    return True


best = cached(_best, nogil=True, error_model="numpy", fastmath=RELAXED)
