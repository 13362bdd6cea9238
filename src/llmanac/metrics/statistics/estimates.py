"""What an evaluation's score can tell: standard errors of items that come in clusters, paired differences, power.

    SE_cluster^2 = SE^2 + 1/n^2 sum over clusters of sum over i != j of (s_i - mean)(s_j - mean)       SE^2 = var(s) / n

Questions on one passage fail together, so a score has less information than its number of questions says. Two models
on the same questions are compared by the differences of their scores, whose spread is much smaller. The smallest
effect that n items show at a level and a power is (z_(1 - level/2) + z_power) SE.
Miller 2024, Adding error bars to evals, arXiv:2411.00640, sections 2.2, 4 and 5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.metrics.statistics.intervals import Z
from llmanac.metrics.statistics.student import incomplete_beta

LEVEL, POWER = 0.05, 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and 95% interval; `detectable` is the smallest true value that this many items
    tell from 0 four times in five."""

    mean: float
    standard_error: float
    low: float
    high: float
    items: int
    clusters: int

    @property
    def detectable(self) -> float:
        return detectable_effect(self.standard_error)


def standard_error(scores: Any, clusters: Any = None) -> float:
    """Of the mean of (n,) scores; with (n,) names of clusters, of scores that are alike within a cluster.

    Raises:
        DataError: fewer than two scores, one that is not finite, or another number of clusters.
    """
    values = np.asarray(scores, np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise DataError("scores: a standard error needs at least two numbers, all of them finite")
    off, n = values - values.mean(), len(values)
    square = off @ off / (n - 1) / n
    if clusters is not None:
        if len(clusters) != n:
            raise DataError(f"clusters: {len(clusters)} names for {n} scores; give one for each")
        own = np.unique(np.asarray(clusters), return_inverse=True)[1]
        square += (np.bincount(own, off) ** 2 - np.bincount(own, off * off)).sum() / n**2
    return math.sqrt(max(square, 0.0))


def without_each(scores: Any, clusters: np.ndarray) -> tuple[float, float]:
    """The jackknife's error of the mean of (n,) scores, leaving out one cluster at a time, and its degrees of freedom.

    SE^2 = (G - 1) / G sum over clusters of (mean without it - mean)^2        df = n^2 / sum of n_g^2 - 1

    `standard_error` is too small where one cluster has many of the items, since the mean follows that cluster: of 100
    items in one and 39 alone, 77% of null tests reject by it at 5%. Of clusters of equal size this is the error of
    their means, with G - 1 degrees of freedom. Cameron and Miller 2015, A practitioner's guide to cluster-robust
    inference, section VI.B (CR3); Carter et al. 2017 on the effective number of clusters.

    Args:
        clusters: (n,) numbers from 0 on; of one alone the error is infinite.
    """
    values = np.asarray(scores, np.float64)
    sizes, sums = np.bincount(clusters), np.bincount(clusters, values)
    if len(sizes) < 2:
        return math.inf, 1.0
    moved = (sums.sum() - sums) / (len(values) - sizes) - values.mean()
    error = math.sqrt(float(moved @ moved) * (len(sizes) - 1) / len(sizes))
    return error, max(1.0, len(values) ** 2 / float(sizes @ sizes) - 1)


def estimate(scores: Any, clusters: Any = None) -> Estimate:
    """The mean of scores with its error; see `standard_error`."""
    error, mean = standard_error(scores, clusters), float(np.mean(scores))
    groups = len(scores) if clusters is None else len(set(clusters))
    return Estimate(mean, error, mean - Z * error, mean + Z * error, len(scores), groups)


def paired(one: Any, two: Any, clusters: Any = None) -> Estimate:
    """The mean of `one - two`, item by item. Raises DataError for lists of different lengths."""
    if len(one) != len(two):
        raise DataError(f"scores: {len(one)} and {len(two)} of them; pairs need the same items in the same order")
    return estimate(np.asarray(one, np.float64) - np.asarray(two, np.float64), clusters)


def detectable_effect(error: float, *, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true effect that a standard error shows at a two-sided level with a power."""
    normal = NormalDist()
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * error


def items_needed(effect: float, error: float, items: int, *, level: float = LEVEL, power: float = POWER) -> int:
    """How many items like the `items` that gave a standard error would show an effect."""
    if not effect:
        raise DataError("effect: must not be 0; no number of items shows it")
    return math.ceil(items * (detectable_effect(error, level=level, power=power) / abs(effect)) ** 2)


def sign_flip_p(differences: Sequence[float]) -> float:
    """The exact one-sided p of a sum above zero under the 2^n equally likely signs (Fisher 1935, section 21).

    Sizes are rounded to a thousandth of the largest, so that the 2^n sums are counted on a grid; 0 and 1 are exact.
    """
    largest = max((abs(d) for d in differences), default=0.0)
    if not largest:
        return 1.0
    steps = [round(1000 * d / largest) for d in differences]
    chances = np.ones(1)
    for step in filter(None, map(abs, steps)):
        wider = np.zeros(len(chances) + 2 * step)
        wider[: len(chances)] += chances / 2
        wider[2 * step :] += chances / 2
        chances = wider
    return float(chances[len(chances) // 2 + sum(steps) :].sum())


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: reject where the adjusted p is at most alpha (family-wise error at most alpha)."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, running = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = running
    return adjusted


def mcnemar_p(improved: int, worsened: int) -> float:
    """The exact two-sided p of McNemar's test: which system is right where one alone is, is a fair coin's throw.

    Equal to the exact sign test of as many differences above and below zero (McNemar 1947).
    """
    most, total = max(improved, worsened), improved + worsened
    return min(1.0, 2 * incomplete_beta(most, total - most + 1, 0.5, 0.5)) if total else 1.0
