"""Bradley-Terry ratings from pairwise preferences: strengths that explain who wins against whom.

    P(i beats j) = p_i / (p_i + p_j)        rating = 1000 + 400 log10 p_i,  the geometric mean of p is 1

The maximum of the likelihood, by Newman's iteration  p_i <- sum_j w_ij p_j / (p_i + p_j)  /  sum_j w_ji / (p_i + p_j);
w_ij counts wins of i over j, a tie is half of one for both. The order of the battles does not matter, unlike in Elo.
It exists only where no group of players won all its battles with the others (Ford 1957).
Intervals: battles drawn again.
Bradley & Terry 1952; Newman 2023, Efficient computation of rankings from pairwise comparisons.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.metrics import MetricSpec
from llmanac.metrics._battles import Battle, Battles, Ratings
from llmanac.metrics.statistics.corpus import SEED

CARD = {
    "title": "Bradley-Terry ratings",
    "paper": "Bradley & Terry 1952, doi:10.2307/2334029; Newman 2023, JMLR 24",
    "reference": "evalica's bradley_terry",
    "test": "tests/references/test_human.py::test_bradley_terry_equals_evalica",
}
TOLERANCE, MOST_STEPS = 1e-10, 10_000
MOST_RATIO = 1e6  # between strengths of a resample, in which somebody may have lost every battle


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """samples: of the bootstrap; seed: of its draws."""

    samples: int = 200
    seed: int = SEED

    def build(self, **dims: Any) -> Callable[[Sequence[Battle]], Ratings]:
        return lambda rows: bradley_terry(Battles.read(rows), samples=self.samples, seed=self.seed)


def bradley_terry(battles: Battles, *, samples: int = 200, seed: int = SEED) -> Ratings:
    """Ratings with intervals.

    Raises:
        DataError: players who won or lost everything against the others, and have no rating; it names them.
    """
    wins = battles.wins()
    _check(wins > 0, battles.names)
    generator, total = np.random.default_rng(seed), len(battles.won)
    drawn = [
        battles.wins(np.bincount(generator.integers(0, total, total), minlength=total).astype(float))
        for _ in range(samples)
    ]
    found = _rating(strengths(wins[None]))[0]
    if not samples:
        return Ratings(battles.names, found, found, found)
    again = _rating(strengths(np.stack(drawn)))
    low, high = np.percentile(again, [2.5, 97.5], axis=0)
    return Ratings(battles.names, found, low, high)


def strengths(wins: np.ndarray) -> np.ndarray:
    """(B, M, M) tables of wins -> (B, M) strengths with geometric mean 1; B tables at once, player after player."""
    p: np.ndarray = np.ones(wins.shape[:2])
    lost = wins.transpose(0, 2, 1)
    for _ in range(MOST_STEPS):
        before = p.copy()
        for i in range(p.shape[1]):
            sums = p[:, i, None] + p
            above, below = (wins[:, i] * p / sums).sum(1), (lost[:, i] / sums).sum(1)
            p[:, i] = np.clip(above / np.where(below > 0, below, 1e-300), 1 / MOST_RATIO, MOST_RATIO)
        p /= np.exp(np.log(p).mean(1, keepdims=True))
        if np.abs(p / before - 1).max() < TOLERANCE:
            break
    return p


def _rating(strength: np.ndarray) -> np.ndarray:
    return 1000 + 400 * np.log10(strength)


def _check(beat: np.ndarray, names: Sequence[str]) -> None:
    """Everybody must be reached from everybody along wins."""
    reach = beat | np.eye(len(beat), dtype=bool)
    for middle in range(len(beat)):
        reach |= reach[:, middle, None] & reach[middle]
    apart = np.flatnonzero(~(reach & reach.T)[0])
    if len(apart):
        one, other = names[0], names[int(apart[0])]
        raise DataError(
            f"battles: nobody around {other!r} has both won and lost against those around {one!r}, so their ratings "
            "have no finite difference; collect more battles between them, or leave one of them out"
        )
