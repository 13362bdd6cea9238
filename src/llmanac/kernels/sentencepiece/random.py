"""A random generator for kernels: splitmix64 (Steele, Lea, Flood 2014), its whole state one number of the caller's."""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
from __future__ import annotations

import numpy as np
from numba import njit

STEP = np.uint64(0x9E3779B97F4A7C15)
ONE_SHIFT, TWO_SHIFT, THREE_SHIFT = np.uint64(30), np.uint64(27), np.uint64(31)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
TO_DOUBLE = 2.0**-53


@njit(forceinline=True)
def drawn(state):
    """A float64 in [0, 1) of 53 random bits; moves the (1,) uint64 state on."""
    state[0] += STEP
    value = state[0]
    value = (value ^ (value >> ONE_SHIFT)) * FIRST
    value = (value ^ (value >> TWO_SHIFT)) * SECOND
    value = value ^ (value >> THREE_SHIFT)
    return np.float64(value >> np.uint64(11)) * TO_DOUBLE
