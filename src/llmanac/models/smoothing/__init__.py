"""How counts become probabilities: how much is subtracted from seen n-grams, and which n-grams receive it.

A smoothing estimates one order at a time, from the counts and the order below:

    p_k(w | h)   for every n-gram hw that was seen         gamma_k(h)   for every context h that was seen

and an unseen n-gram gets gamma_k(h) p_{k-1}(w | h') (`estimate` in `models/ngrams/words.py` puts them together).

The base of both Kneser-Ney smoothings: one step of the interpolation, over continuation counts.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from llmanac.core.spec import Spec
from llmanac.kernels.ngrams import count as ngram_count
from llmanac.models.ngrams.counts import Counts, OrderCounts


class Smoothing:
    """Base of all smoothings.

    Attributes:
        without_backoff: a token unseen after a context gets gamma(h) / V; shorter contexts are not used.
        discounts: what was subtracted from n-grams by their count, order by order, of those that subtract.
    """

    without_backoff = False

    def __init__(self) -> None:
        self.discounts: list[list[float]] = []

    def level(self, counts: Counts, level: int, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(p (n,), gamma (n_below,))` in float64 of the n-grams of `counts.levels[level]`.

        lower: p of the level below, (1,) zeros for the first, whose gamma (1,) is not used.
        """
        raise NotImplementedError


def totals(level: OrderCounts, values: np.ndarray) -> np.ndarray:
    """(n_below,) float64: the sum of `values` (n,) over the n-grams of each context."""
    out = np.empty(len(level.starts) - 1)
    ngram_count.sums_by_owner(level.starts, values, out)
    return out


@dataclass(frozen=True, kw_only=True)
class SmoothingSpec(Spec):
    """`build() -> Smoothing`; it needs no dimensions."""

    kind: ClassVar[str] = "smoothing"


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
