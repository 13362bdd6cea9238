"""Good-Turing with Katz's back-off: small counts are replaced by estimates from the counts of counts.

    r* = (r + 1) n_{r+1} / n_r          d_r = (r* / r - A) / (1 - A),   A = (K + 1) n_{K+1} / n_1,   1 <= r <= K = 5
    p(w | h) = d_r r / c(h .)  for r = c(h w) > 0 (d_r = 1 above K)
    p(w | h) = gamma(h) p(w | h')  else,   gamma(h) = (1 - sum_seen p(w | h)) / (1 - sum_seen p(w | h'))

n_r is how many n-grams of the order occur r times. The probability subtracted is what Good and Turing assign to all
unseen n-grams, n_1 / N; here shorter contexts distribute it, at the first order equally among unseen tokens. Where the
counts of counts do not allow it, K is lowered to the largest that they allow; if they allow none, 1/2 is subtracted
from every count up to K. Nothing is subtracted where no token is unseen; a context from which nothing was subtracted
has its total raised by one, so that unseen tokens are possible after it.

Shapes: counts (n,) of one order -> p (n,), gamma (contexts,). Good 1953; Katz 1987.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.ranges import Range, within
from llmanac.models.ngrams.counts import Counts
from llmanac.models.smoothing import Smoothing, SmoothingSpec, counts_of_counts, totals

CARD = {
    "title": "Good-Turing with Katz back-off",
    "paper": "Katz 1987, Estimation of probabilities from sparse data",
    "reference": "the formula over dictionaries in float64",
    "test": "tests/references/test_ngram_smoothing.py::test_good_turing_equals_its_definition",
    "aliases": {"katz": {}},
}
NOTHING = 1e-9  # a remainder below this is rounding


@dataclass(frozen=True, kw_only=True)
class Spec(SmoothingSpec):
    """largest: K, the highest count that is lowered."""

    largest: int = 5

    ranges = within(Range(2, 50), "largest")

    def build(self, **dims: Any) -> GoodTuring:
        return GoodTuring(self.largest)


class GoodTuring(Smoothing):
    """See the module."""

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest = largest

    def level(self, counts: Counts, level: int, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = counts.levels[level]
        kept = lowered(own.counts, self.largest)
        if level == 0:
            self.discounts = []
        self.discounts.append([float(r - k) for r, k in enumerate(kept) if r])
        left = np.where(own.counts < len(kept), kept[np.minimum(own.counts, len(kept) - 1)], own.counts)
        before = lower[own.suffix] if level else np.zeros(len(own))
        total, seen, shorter = (totals(own, values) for values in (own.counts, left, before))
        if level == 0:
            return _unigrams(counts, left, total[0], seen[0]), np.ones(1)
        open_ = 1.0 - shorter
        closed = open_ <= NOTHING  # every token was seen here: what was taken goes back
        mass = np.where(closed, seen, np.where(total - seen > NOTHING, total, total + 1.0))
        mass = np.where(total > 0, mass, 1.0)
        gamma = np.where(closed, 0.0, (mass - seen) / mass / np.where(closed, 1.0, open_))
        gamma = np.where(total > 0, gamma, 1.0)
        return left / np.repeat(mass, np.diff(own.starts)), gamma


def _unigrams(counts: Counts, left: np.ndarray, total: float, seen: float) -> np.ndarray:
    unseen = counts.predictable() & (counts.levels[0].counts == 0)
    if not unseen.any() or total == seen:
        return left / max(seen, NOTHING)
    return np.where(unseen, (total - seen) / total / unseen.sum(), left / total)


def lowered(counts: np.ndarray, largest: int) -> np.ndarray:
    """(K + 1,) d_r r for r = 0 .. K, with the largest K that the counts of counts allow."""
    n = counts_of_counts(counts, largest + 1)
    r = np.arange(largest + 2)
    for k in range(largest, 1, -1):
        if not n[1 : k + 2].all():
            continue
        a = (k + 1) * n[k + 1] / n[1]
        if a >= 1:
            continue
        star = (r[1 : k + 1] + 1) * n[2 : k + 2] / n[1 : k + 1]
        d = (star / r[1 : k + 1] - a) / (1 - a)
        if bool(((d > 0) & (d <= 1)).all()):
            return np.concatenate([[0.0], d * r[1 : k + 1]])
    return np.maximum(np.arange(largest + 1) - 0.5, 0.0)
