"""The base of both Kneser-Ney smoothings: one step of the interpolation, over continuation counts."""

from __future__ import annotations

import numpy as np

from llmanac.kernels.ngrams import count as ngram_count
from llmanac.models.ngrams.counts import Counts
from llmanac.models.smoothing import Smoothing


class Interpolated(Smoothing):
    """p_k(w | h) = (a(h w) - D(a(h w))) / a(h .) + gamma(h) p_{k-1}(w | h'), a the continuation counts.

    gamma(h) = sum_w D(a(h w)) / a(h .) is exactly the probability subtracted; unigrams are interpolated with the
    uniform distribution over all tokens that can be predicted.
    """

    def discount(self, counts: np.ndarray) -> np.ndarray:
        """(4,) what is subtracted from an n-gram with a continuation count of 0, 1, 2, and 3 or more."""
        raise NotImplementedError

    def level(self, counts: Counts, level: int, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own, adjusted = counts.levels[level], counts.continuations(level)
        taken = self.discount(adjusted)
        if level == 0:
            self.discounts = []  # a new estimate begins
            allowed = counts.predictable()
            lower, suffix = allowed / allowed.sum(), own.words
        else:
            suffix = own.suffix
        self.discounts.append([float(d) for d in taken[1:]])
        p, gamma = np.empty(len(own)), np.empty(len(own.starts) - 1)
        ngram_count.interpolated(own.starts, adjusted, taken, suffix, lower, p, gamma)
        return p, gamma


def counts_of_counts(counts: np.ndarray, most: int) -> np.ndarray:
    """(most + 1,) float64: how many n-grams have the count 0, 1, ..., most."""
    return np.bincount(np.minimum(counts, most + 1), minlength=most + 2)[: most + 1].astype(np.float64)
