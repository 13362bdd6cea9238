"""Draws for many samples at one temperature and nothing else, as training needs them: one uniform number a token.

`_sampling.py` draws V numbers a token, so that a token survives rounding and any cut of its distribution. Where a text
is drawn once, scored and forgotten, that is most of the time of a small model's step. Here a token is the inverse of
the cumulative distribution at a number that is a hash of (seed, request, sample, place): what is drawn depends on
nothing else that runs.
"""

from collections.abc import Sequence as Items

import numpy as np

from llmanac.core.errors import LlmanacError
from llmanac.core.rng import seed_of
from llmanac.generate.decoding import Array, gather, log_softmax
from llmanac.generate.requests import Sequence, TokenLogprob

STEP, MIX_A, MIX_B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class PlainDraws:
    """Chooses each row's next token from softmax(logits / temperature); see `Engine.run`.

    Args:
        seed: with a request's place among those of the scheduler and a sample's number it names the stream.
        first: the place of the scheduler's first request, where others have those before it.
    """

    def __init__(self, seed: int, temperature: float, first: int = 0) -> None:
        self.seed, self.temperature, self.first = seed, temperature, first
        self._keys: dict[tuple[int, int], int] = {}

    def __call__(self, logits: Array, sequences: Items[Sequence]) -> list[TokenLogprob]:
        """One token a row of logits (B, V). Raises LlmanacError where they are not finite numbers."""
        uniform = self._uniform(sequences)
        draw = _compiled if logits.dtype == np.float32 else _exact
        ids, numbers = draw(logits, self.temperature, uniform)
        rows = zip(ids.tolist(), numbers.tolist(), strict=True)
        return [TokenLogprob(i, own, {}, 0.0, sampled) for i, (own, sampled) in rows]

    def _uniform(self, sequences: Items[Sequence]) -> np.ndarray:
        """(B,) float64 in [0, 1): a hash of each row's stream and place (SplitMix64)."""
        keys = np.array([self._key(s) for s in sequences], np.uint64)
        with np.errstate(over="ignore"):
            x = keys + STEP * np.array([len(s.token_logprobs) + 1 for s in sequences], np.uint64)
            x = (x ^ (x >> np.uint64(30))) * MIX_A
            x = (x ^ (x >> np.uint64(27))) * MIX_B
        return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _key(self, sequence: Sequence) -> int:
        place = (self.first + sequence.request.arrival, sequence.index)
        if place not in self._keys:
            self._keys[place] = seed_of(self.seed, "draw", *place)
        return self._keys[place]


def _compiled(logits: Array, temperature: float, uniform: Array) -> tuple[Array, Array]:
    from llmanac.kernels.infer.draw import draw

    ids, numbers = np.empty(len(logits), np.int64), np.empty((len(logits), 2))
    if not draw(logits, logits.shape[1], 1 / temperature, uniform, ids, numbers):
        raise LlmanacError("the model gave logits that are not finite numbers; its weights are damaged or overflowed")
    return ids, numbers


def _exact(logits: Array, temperature: float, uniform: Array) -> tuple[Array, Array]:
    """The same in float64."""
    logits = logits.astype(np.float64)
    own, sampled = log_softmax(logits), log_softmax(logits / temperature)
    if not np.isfinite(own).all():
        raise LlmanacError("the model gave logits that are not finite numbers; its weights are damaged or overflowed")
    sums = np.exp(sampled).cumsum(-1)
    ids = np.minimum((sums <= uniform[:, None] * sums[:, -1:]).sum(-1, keepdims=True), logits.shape[1] - 1)
    return ids[:, 0], np.concatenate([gather(own, ids), gather(sampled, ids)], 1)
