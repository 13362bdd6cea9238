"""The Gumbel noise of one sequence, V numbers a token: g = -log E with E = -log(1 - u), u uniform in [0, 1).

u is made of 53 bits of two numbers of the Mersenne twister. These are the numbers of `torch.Tensor.exponential_` in
float64 on a CPU, to the last bit of the logarithm; they are the same on every machine, with torch or without it.
"""

from collections import deque

import numpy as np

from llmanac.core.rng import seed_of
from llmanac.generate.decoding import Array

LEAST = np.finfo(np.float64).tiny  # an exponential number of 0 would be infinite noise, also for what was cut


class Noise:
    """See the module. `names` are those of the stream (`core/rng.py`)."""

    def __init__(self, seed: int, *names: object) -> None:
        self._twister = np.random.RandomState(seed_of(seed, *names) & 0xFFFFFFFF)
        self._ready: deque[Array] = deque()

    def ahead(self, vocabulary: int, places: int = 0) -> Array:
        """(V,) float64, of the token `places` after the next one; drawn once, in order."""
        while len(self._ready) <= places:
            bits = self._twister.randint(0, 1 << 32, 2 * vocabulary, np.uint32).view("<u8")  # a pair: high, low
            uniform = ((bits << 32 | bits >> 32) & ((1 << 53) - 1)) * 2.0**-53
            self._ready.append(-np.log(np.maximum(-np.log1p(-uniform), LEAST)))
        return self._ready[places]

    def take(self, vocabulary: int) -> Array:
        """That of the next token, which is then used up."""
        self.ahead(vocabulary)
        return self._ready.popleft()
