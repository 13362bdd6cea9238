"""Agreement of raters beyond chance: Cohen's kappa of two raters, Fleiss' of several.

    kappa = (observed - expected) / (1 - expected)

Cohen: observed is how often both give one label, expected what their own frequencies of labels would give by chance;
with weights, disagreements count |i - j| or (i - j)^2 of ordered labels. Fleiss: the same over all pairs of raters of
an item, with the frequencies of all raters together. 1 is full agreement, 0 that of chance. Shapes: ratings (N, R).
Cohen 1960; Cohen 1968 (weights); Fleiss 1971.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import DataError
from llmanac.metrics import MetricSpec
from llmanac.metrics.statistics.corpus import percentiles

DRAWS = 2000  # of the bootstrap

CARD = {
    "title": "Agreement of raters (kappa)",
    "paper": "Cohen 1960, doi:10.1177/001316446002000104; Fleiss 1971, doi:10.1037/h0031619",
    "reference": "sklearn's cohen_kappa_score; NLTK's multi-rater pi",
    "test": "tests/references/test_human.py::test_agreement_equals_sklearn_and_nltk",
    "aliases": {"fleiss-kappa": {"raters": "several"}, "cohen-kappa": {"raters": "two"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """raters: "two" (Cohen) or "several" (Fleiss); weights: of disagreements, for two raters of ordered labels."""

    raters: Literal["two", "several"] = "two"
    weights: Literal["none", "linear", "quadratic"] = "none"

    def build(self, **dims: Any) -> Callable[..., float]:
        if self.raters == "several":
            return fleiss
        return lambda one, two: cohen(one, two, self.weights)


def cohen(one: Sequence[Any], two: Sequence[Any], weights: str = "none") -> float:
    """Kappa of two raters of the same N items; NaN where both always give the same one label.

    Raises:
        DataError: no items, or lists of different lengths.
    """
    return float(_kappa(_table(one, two), weights))


def cohen_interval(one: Sequence[Any], two: Sequence[Any], weights: str = "none") -> tuple[float | None, float | None]:
    """The 95% interval of `cohen`; `(None, None)` where there is one label only.

    By the Bayesian bootstrap over items (Rubin 1981) with one item more, spread over all pairs of labels: the plain
    bootstrap's has no width where few items are alike or few differ, and held the true value in 42% of such draws.
    """
    table = _table(one, two)
    weighted = np.random.default_rng(0).dirichlet(table.ravel() + 1 / table.size, DRAWS)
    draws = _kappa(weighted.reshape(-1, *table.shape), weights)
    if np.isnan(draws).any():
        return None, None
    (low, high), value = percentiles(draws), cohen(one, two, weights)
    return min(low, value), max(high, value)  # all alike: 1 is no draw, and is the end


def _table(one: Sequence[Any], two: Sequence[Any]) -> np.ndarray:
    if len(one) != len(two) or not len(one):
        raise DataError(f"ratings: {len(one)} and {len(two)} of them; both raters need the same items, at least one")
    labels, own = np.unique(np.concatenate([one, two]), return_inverse=True)
    table = np.zeros((len(labels), len(labels)))
    np.add.at(table, (own[: len(one)], own[len(one) :]), 1)
    return table


def _kappa(tables: np.ndarray, weights: str) -> np.ndarray:
    """Of (..., K, K) counts; NaN where both raters always give the same one label."""
    tables = tables.astype(np.float64)
    number, at = tables.sum((-1, -2)), np.arange(tables.shape[-1])
    chance = tables.sum(-1)[..., :, None] * tables.sum(-2)[..., None, :] / number[..., None, None]
    off = np.abs(np.subtract.outer(at, at))
    cost = {"none": off > 0, "linear": off, "quadratic": off**2}[weights].astype(float)
    expected, observed = ((cost * one).sum((-1, -2)) for one in (chance, tables))
    return np.asarray(1 - np.divide(observed, expected, where=expected > 0, out=np.full_like(expected, np.nan)))


def fleiss(ratings: Sequence[Sequence[Any]]) -> float:
    """Kappa of the R ratings of each of N items; NaN where only one label is ever given.

    Raises:
        DataError: no items, one rating, or items with other numbers of ratings; it names the item, counted from 1.
    """
    if not len(ratings) or len(ratings[0]) < 2:
        raise DataError("ratings: at least one item with two ratings is needed")
    raters = len(ratings[0])
    for item, row in enumerate(ratings, 1):
        if len(row) != raters:
            raise DataError(f"item {item}: has {len(row)} ratings and the first has {raters}; each needs as many")
    labels, own = np.unique(np.asarray(ratings).ravel(), return_inverse=True)
    counts = np.zeros((len(ratings), len(labels)))
    np.add.at(counts, (np.repeat(np.arange(len(ratings)), raters), own.ravel()), 1)
    observed = ((counts**2).sum(1) - raters).mean() / (raters * (raters - 1))
    expected = ((counts.sum(0) / counts.sum()) ** 2).sum()
    return float((observed - expected) / (1 - expected)) if expected < 1 else float("nan")
