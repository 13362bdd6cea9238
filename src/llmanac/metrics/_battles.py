"""Outcomes of comparisons of two: read, counted, drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmanac.core.errors import DataError, shown

OUTCOMES = {"left": 1.0, "right": 0.0, "tie": 0.5}
Battle = tuple[str, str, str]


@dataclass(frozen=True, eq=False)
class Battles:
    """names: of the players in their first order; left, right: (N,) their numbers; won: (N,) 1, 0, or 0.5 for a tie."""

    names: tuple[str, ...]
    left: np.ndarray
    right: np.ndarray
    won: np.ndarray

    @classmethod
    def read(cls, rows: Sequence[Battle]) -> Battles:
        """From `(left, right, "left" | "right" | "tie")`.

        Raises:
            DataError: no battle, another outcome, or a player against itself; it names the row, counted from 1.
        """
        number: dict[str, int] = {}
        for row, (left, right, outcome) in enumerate(rows, 1):
            if outcome not in OUTCOMES:
                raise DataError(f"row {row}: the outcome is {shown(outcome)}, expected left, right or tie")
            if left == right:
                raise DataError(f"row {row}: {shown(left)} is compared with itself")
        if not rows:
            raise DataError("battles: there is none to rate from")
        for name in [row[0] for row in rows] + [row[1] for row in rows]:
            number.setdefault(name, len(number))
        sides = np.array([(number[left], number[right]) for left, right, _ in rows])
        return cls(tuple(number), sides[:, 0], sides[:, 1], np.array([OUTCOMES[row[2]] for row in rows]))

    def wins(self, weights: np.ndarray | None = None) -> np.ndarray:
        """(M, M): how often the row beat the column; a tie is half a win of both."""
        size = len(self.names)
        out = np.zeros((size, size))
        weights = np.ones(len(self.won)) if weights is None else weights
        np.add.at(out, (self.left, self.right), weights * self.won)
        np.add.at(out, (self.right, self.left), weights * (1 - self.won))
        return out


@dataclass(frozen=True, eq=False)
class Ratings:
    """ratings: (M,) with 1000 in the middle, 400 points for ten to one; low, high: 95% intervals by bootstrap."""

    names: tuple[str, ...]
    ratings: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def ranking(self) -> list[tuple[str, float, float, float]]:
        """`(name, rating, low, high)`, the best first."""
        order = np.argsort(-self.ratings, kind="stable")
        return [(self.names[i], float(self.ratings[i]), float(self.low[i]), float(self.high[i])) for i in order]
