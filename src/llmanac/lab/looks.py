"""A comparison that looks at its verdict several times: `--seeds auto` adds replicates until each arm has one.

Every look spends a part of alpha, by the O'Brien-Fleming-like function of Lan & DeMets 1983 (Biometrika 70):

    spent(t) = 2 - 2 Phi(z_{1 - alpha/2} / sqrt(t)),     t = replicates / the most there may be

so that all looks together have a false claim in at most alpha of studies. The level of each look follows from the
Brownian motion that standardised sums follow, step by step (Armitage, McPherson & Rowe 1969), and p values are compared
with it (Jennison & Turnbull 2000, section 4.4): an arm is better or worse, or equivalent, where the interval of that
level is beyond zero, or inside the margin. Few skewed differences make Student's t = m / (s / sqrt(n)) too bold in one
direction, which looks add to; so the statistic is the smaller of his and of Hall's (1992, J. R. Stat. Soc. B 54), which
has the skewness g in it and grows with t:

    t_H = sqrt(n) (r + g r^2 / 3 + g^2 r^3 / 27 + g / (6 n)),     r = m / s
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from llmanac.lab.stats import ALPHA, POWER, STUDENT, ArmComparison, compare_arms, equivalence_p, student, two_sided_p
from llmanac.metrics.statistics.student import student_quantile

LOOKS = (5, 7, 10, 14, 20)  # replicates after which the verdict is looked at
DRAWN = 4000  # studies in which power is counted
NORMAL = NormalDist()
GRID = np.arange(-2400, 2401) / 200  # of the sum, whose variance is 1 at the last look


def hall(values: np.ndarray) -> np.ndarray:
    """(..., n) -> (...): Hall's transformed t of a mean against zero."""
    n, centre = values.shape[-1], values.mean(-1)
    off, spread = values - centre[..., None], values.std(-1, ddof=1)
    skew, ratio = (off**3).sum(-1) * n / ((n - 1) * (n - 2)) / spread**3, centre / spread
    return np.asarray(math.sqrt(n) * (ratio + skew * ratio**2 / 3 + skew**2 * ratio**3 / 27 + skew / (6 * n)))


def guarded(values: Any) -> np.ndarray:
    """(..., n) -> (...): the one of Student's and Hall's t that is nearer to zero; 0 where their signs differ."""
    values = np.asarray(values)
    t, other = values.mean(-1) / (values.std(-1, ddof=1) / math.sqrt(values.shape[-1])), hall(values)
    return np.where(t * other > 0, np.sign(t) * np.minimum(abs(t), abs(other)), 0.0)


def _statistic(values: Sequence[float]) -> float:
    t = student(values)
    return t if math.isinf(t) or not t else float(guarded(values))


GUARDED = dataclasses.replace(
    STUDENT,
    different=functools.partial(two_sided_p, statistic=_statistic),
    equivalent=functools.partial(equivalence_p, statistic=_statistic),
)


def looks_within(most: int) -> tuple[int, ...]:
    """The looks of a study of at most so many replicates."""
    return (*(n for n in LOOKS if n < most), most)


@functools.cache
def levels(most: int) -> dict[int, float]:
    """By look, the level of its interval."""
    found, spent, left, last = dict[int, float](), 0.0, np.ones(1), 0
    for n in looks_within(most):
        step = np.exp(-(GRID**2) / (2 * (n - last) / most))
        left = np.convolve(step / step.sum(), left, "same")
        now = 2 - 2 * NORMAL.cdf(NORMAL.inv_cdf(1 - ALPHA / 2) / math.sqrt(n / most))
        beyond = 2 * np.cumsum(left[::-1])[::-1]  # of the mass outside -x..x, by x
        edge = float(GRID[np.argmax((beyond <= now - spent) & (GRID > 0))])
        found[n] = 2 - 2 * NORMAL.cdf(edge / math.sqrt(n / most))
        left, spent, last = np.where(np.abs(GRID) < edge, left, 0.0), now, n
    return found


def power(effect: float, most: int, arms: int = 1) -> float:
    """The chance that a true difference of so many standard deviations is found at some look.

    Counted in normal studies that are drawn, the same ones for every effect.
    """
    drawn = np.random.default_rng(0).standard_normal((DRAWN, most)) + effect
    found = np.zeros(DRAWN, bool)
    for n, level in levels(most).items():
        found |= guarded(drawn[:, :n]) >= student_quantile(1 - level / (2 * arms), n - 1)
    return float(found.mean())


@functools.cache
def _found_with(chance: float, most: int, arms: int) -> float:
    """The difference in standard deviations whose power is `chance`."""
    low, high = 0.0, 4.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, most, arms) < chance else (low, middle)
    return high


def compare_in_looks(
    values: Mapping[str, Sequence[float]], baseline: str, most: int, **options: Any
) -> list[ArmComparison]:
    """`compare_arms` of all replicates, with the verdicts of the first look that settled each arm.

    Args:
        most: replicates that the study may have; options: as of `compare_arms`.
    """
    done, settled = len(values[baseline]), dict[str, str]()
    for n, level in levels(most).items():
        if n <= done:
            some = {arm: one[:n] for arm, one in values.items()}
            for c in compare_arms(some, baseline, **options | {"levels": (level, level / 2), "tests": GUARDED}):
                if c.verdict != "inconclusive":
                    settled.setdefault(c.arm, c.verdict)
    out = []
    for c in compare_arms(values, baseline, **options | {"tests": GUARDED}):
        verdict: Any = settled.get(c.arm, "inconclusive") if done >= LOOKS[0] else c.verdict
        detectable = c.sd and c.sd * _found_with(POWER, most, len(values) - 1)
        further = c.further if verdict == c.verdict else most - done if verdict == "inconclusive" else None
        out.append(dataclasses.replace(c, verdict=verdict, detectable=detectable, further=further or None))
    return out
