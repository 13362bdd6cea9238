"""Rank correlation of two measures of the same systems: whether they order them alike.

    Spearman: the correlation of ranks, equal values get their mean rank
    Kendall:  tau-b = (concordant - discordant) / sqrt((pairs - tied in x) (pairs - tied in y))

Intervals by Fisher's z: tanh(atanh(r) -+ 1.96 s) with s^2 = (1 + r^2 / 2) / (n - 3) for Spearman, 0.437 / (n - 4) for
Kendall (Bonett & Wright 2000). They are over systems drawn from more of the same kind; checkpoints of one training
are alike, so intervals over them are too narrow for other models. Shapes: x, y (n,) -> a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import DataError
from llmanac.metrics import MetricSpec
from llmanac.metrics.statistics.auc import _midranks
from llmanac.metrics.statistics.intervals import Z

CARD = {
    "title": "Rank correlation",
    "paper": "Spearman 1904; Kendall 1945; Bonett & Wright 2000, doi:10.1007/BF02294183 (intervals)",
    "reference": "scipy's spearmanr and kendalltau",
    "test": "tests/references/test_inspection.py::test_rank_correlation_equals_scipy",
    "aliases": {"spearman": {"rule": "spearman"}, "kendall": {"rule": "kendall"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """rule: spearman or kendall (tau-b)."""

    rule: Literal["spearman", "kendall"] = "spearman"

    def build(self, **dims: Any) -> Callable[[Any, Any], RankCorrelation]:
        return lambda x, y: rank_correlation(x, y, self.rule)


@dataclass(frozen=True)
class RankCorrelation:
    """value: NaN where one side is constant; low, high: 95%, None for fewer than five systems."""

    value: float
    low: float | None
    high: float | None
    systems: int


def rank_correlation(x: Any, y: Any, rule: str = "spearman") -> RankCorrelation:
    """Of two (n,) measures of the same systems. Raises DataError for other lengths, fewer than three, or NaN."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 3 or not np.isfinite([a, b]).all():
        raise DataError("rank correlation: needs two lists of the same length, at least 3 finite numbers in each")
    if rule == "spearman":
        a, b = (ranks - ranks.mean() for ranks in (_midranks(a), _midranks(b)))
    else:
        a, b = (np.sign(np.subtract.outer(side, side)).ravel() for side in (a, b))
    norm = math.sqrt(float(a @ a) * float(b @ b))
    if norm == 0:
        return RankCorrelation(float("nan"), None, None, len(x))
    value = float(a @ b) / norm
    if len(x) < 5:
        return RankCorrelation(value, None, None, len(x))
    spread = (1 + value**2 / 2) / (len(x) - 3) if rule == "spearman" else 0.437 / (len(x) - 4)
    middle = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, value)))
    low, high = (math.tanh(middle + side * Z * math.sqrt(spread)) for side in (-1, 1))
    return RankCorrelation(value, low, high, len(x))
