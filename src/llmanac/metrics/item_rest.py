"""How well the items of a test tell systems apart: difficulty, and the correlation of an item with all others.

    difficulty_i = mean over systems of x_mi                        the fraction that is right: high is easy
    r_i          = corr over systems m of (x_mi, sum over j != i of x_mj)

An item with a high item-rest correlation is answered by the systems that are good on the other items; one below 0 is
answered by the weak ones (a wrong key, or chance). It is undefined (NaN) where all systems do equally well on the item.
With few systems it is noise: of M that differ in nothing it has a standard deviation of about 1 / sqrt(M - 1).
Shapes: scores (M, N) of M systems on N items -> (N,) and (N,). Lord & Novick 1968, chapter 15.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.metrics import MetricSpec

CARD = {
    "title": "Difficulty and item-rest correlation",
    "paper": "Lord & Novick 1968, Statistical theories of mental test scores, chapter 15",
    "reference": "numpy's corrcoef and scipy's pearsonr, item by item",
    "test": "tests/references/test_inspection.py::test_item_rest_equals_scipy",
}


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """No fields."""

    def build(self, **dims: Any) -> Callable[[Any], ItemRest]:
        return item_rest


@dataclass(frozen=True, eq=False)
class ItemRest:
    """difficulty: (N,); correlation: (N,), NaN where undefined."""

    difficulty: np.ndarray
    correlation: np.ndarray


def item_rest(scores: Any) -> ItemRest:
    """Of (M, N) scores, at least three systems and two items.

    Raises:
        DataError: fewer, or a score that is not finite.
    """
    given = np.asarray(scores, np.float64)
    if given.ndim != 2 or given.shape[0] < 3 or given.shape[1] < 2 or not np.isfinite(given).all():
        raise DataError("scores: item-rest correlations need finite scores of at least 3 systems on at least 2 items")
    rest = given.sum(1, keepdims=True) - given
    x, y = given - given.mean(0), rest - rest.mean(0)
    square = (x * x).sum(0) * (y * y).sum(0)
    tiny = 1e-24 * given.shape[0] ** 2 * np.maximum(1.0, np.abs(given).max()) ** 4
    defined = square > tiny
    return ItemRest(given.mean(0), np.where(defined, (x * y).sum(0) / np.sqrt(np.where(defined, square, 1)), np.nan))
