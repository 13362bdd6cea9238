"""Elo ratings: updated after every battle by how much its outcome surprised.

    E = 1 / (1 + 10^((r_j - r_i) / scale))        r_i <- r_i + k (s - E),   s = 1 for a win, 0.5 for a tie

The ratings depend on the order of the battles, the latest count most; where players do not change, Bradley-Terry uses
the same data better. Intervals: battles drawn again, each time in another order.
Elo 1978, The rating of chessplayers, past and present.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.ranges import POSITIVE, within
from llmanac.kernels.text import cached
from llmanac.metrics import MetricSpec
from llmanac.metrics._battles import Battle, Battles, Ratings
from llmanac.metrics.statistics.corpus import SEED

CARD = {
    "title": "Elo ratings",
    "paper": "Elo 1978, The rating of chessplayers, past and present",
    "reference": "evalica's elo",
    "test": "tests/references/test_human.py::test_elo_equals_evalica",
}


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """k: points of a full surprise; scale: points for ten to one; initial: rating of a new player."""

    k: float = 4.0
    scale: float = 400.0
    initial: float = 1000.0
    samples: int = 200
    seed: int = SEED

    ranges = within(POSITIVE, "k scale")

    def build(self, **dims: Any) -> Callable[[Sequence[Battle]], Ratings]:
        return lambda rows: elo(Battles.read(rows), self)


def elo(battles: Battles, spec: Spec | None = None) -> Ratings:
    """Ratings after all battles in their order, with intervals."""
    spec = spec or Spec()
    size, total = len(battles.names), len(battles.won)
    options = (size, spec.k, spec.scale, spec.initial)
    found = play(battles.left, battles.right, battles.won, *options)
    generator = np.random.default_rng(spec.seed)
    again = [found]
    for _ in range(spec.samples):
        drawn = generator.integers(0, total, total)
        again.append(play(battles.left[drawn], battles.right[drawn], battles.won[drawn], *options))
    low, high = np.percentile(again[1:] or again, [2.5, 97.5], axis=0)
    return Ratings(battles.names, found, low, high)


@cached
def play(left, right, won, players, k, scale, initial):
    """(players,) ratings after battles (N,) in order."""
    ratings = np.full(players, initial)
    for n in range(len(won)):
        one, two = left[n], right[n]
        expected = 1.0 / (1.0 + 10.0 ** ((ratings[two] - ratings[one]) / scale))
        gain = k * (won[n] - expected)
        ratings[one] += gain
        ratings[two] -= gain
    return ratings
