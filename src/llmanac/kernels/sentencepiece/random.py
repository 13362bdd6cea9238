"""A random generator for kernels, whose whole state is one number of the caller's."""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np
from numba import njit

from llmanac.kernels.text import random_bits

TO_DOUBLE = 2.0**-53


@njit(forceinline=True)
def drawn(state):
    """A float64 in [0, 1) of 53 random bits; advances the (1,) uint64 state."""
    return np.float64(random_bits(state) >> np.uint64(11)) * TO_DOUBLE
