"""A token of each row of logits by the inverse of the cumulative distribution: one uniform number a token.

    i = min {v : sum_{w <= v} exp(z_w / T) > u sum_w exp(z_w / T)}

The exponentials are needed for the log-probability anyway. Sums are in float64 over pieces of 1,024 numbers, each in
float32.
"""

# mypy: disable-error-code="no-untyped-def, call-arg, assignment"
# (numba types these functions itself)

import math

import numpy as np

from llmanac.kernels.infer.best import HIGHEST, PIECE
from llmanac.kernels.nn._exponential import LOG2E32, RELAXED, exp2
from llmanac.kernels.text import cached


def _draw(logits, size, inverse, uniform, ids, numbers):
    """Of each row of `logits` (B, at least `size`) at the temperature 1 / `inverse`, by `uniform` (B,) in [0, 1).

    ids (B,); numbers (B, 2): the log-probabilities at temperature 1 and at that one. Returns whether all logits are
    finite numbers; the results are of no use if not.
    """
    count = (size + PIECE - 1) // PIECE
    parts = np.empty(count)
    factor = LOG2E32 * np.float32(inverse)
    for b in range(len(ids)):
        row = logits[b, :size]
        top, odd = row[0], np.int64(0)
        for i in range(size):
            top = max(top, row[i])
            odd += not abs(row[i]) <= HIGHEST
        if odd:
            return False
        plain, total, last = 0.0, 0.0, 0
        for n in range(count):
            piece, part = row[n * PIECE : (n + 1) * PIECE], np.float32(0)
            for i in range(len(piece)):
                part += exp2((piece[i] - top) * factor)
            parts[n] = part
            total += part
            if inverse != 1.0:
                part = np.float32(0)
                for i in range(len(piece)):
                    part += exp2((piece[i] - top) * LOG2E32)
            plain += part
        left, at = uniform[b] * total, 0
        while at < count - 1 and left >= parts[at]:
            left -= parts[at]
            at += 1
        chosen = -1
        for i in range(at * PIECE, min((at + 1) * PIECE, size)):
            part = exp2((row[i] - top) * factor)
            if part > np.float32(1e-37):  # what exp2 gives for numbers below its range is no probability
                last = i
                left -= part
                if left < 0:
                    chosen = i
                    break
        if chosen < 0:  # the sum of a piece was rounded up
            chosen = last
        ids[b] = chosen
        gap = np.float64(row[chosen] - top)
        numbers[b, 0], numbers[b, 1] = gap - math.log(plain), gap * inverse - math.log(total)
    return True


draw = cached(_draw, nogil=True, error_model="numpy", fastmath=RELAXED)
