# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
"""Sums over randomly chosen segments, for randomisation tests and the bootstrap."""

import numpy as np

from llmanac.kernels.text import cached


@cached
def add_chosen(bits, statistics, sums):
    """sums (T, K) += for each trial t, the sum of the statistics (S, K) of the segments whose bit is set.

    Args:
        bits: uint8; the bit of segment s in trial t is number t S + s, from the low end; one byte more than they need.

    Eight segments at a time: the sums of their 256 subsets are made once and looked up by every trial.
    """
    segments, width = statistics.shape
    subsets = np.zeros((256, width))
    for first in range(0, segments, 8):
        there = min(8, segments - first)
        for subset in range(1, 1 << there):
            low = 0
            while not subset >> low & 1:
                low += 1
            rest = subset & (subset - 1)
            for k in range(width):
                subsets[subset, k] = subsets[rest, k] + statistics[first + low, k]
        keep = (1 << there) - 1
        for trial in range(sums.shape[0]):
            at = trial * segments + first
            chosen = (np.int64(bits[at >> 3]) | np.int64(bits[(at >> 3) + 1]) << 8) >> (at & 7) & keep
            for k in range(width):
                sums[trial, k] += subsets[chosen, k]


@cached
def count_drawn(drawn, counts):
    """counts (T, S) += how often each row of drawn (T, N) names each segment."""
    for trial in range(drawn.shape[0]):
        for n in range(drawn.shape[1]):
            counts[trial, drawn[trial, n]] += 1
