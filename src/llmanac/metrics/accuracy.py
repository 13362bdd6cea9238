"""Accuracy, and what it hides: precision, recall and F1 of each label, and the confusion table.

    accuracy = right / all        standard error = sqrt(accuracy (1 - accuracy) / (S - 1))
    precision = right / predicted        recall = right / there        F1 = 2 right / (predicted + there)

Macro F1 is the mean of F1 over the labels, micro F1 pools their counts: with one label a text it is the accuracy.
Accuracy is simple and says nothing about the kind of error: where one label is frequent, always giving it scores high.
Shapes: S true labels and S predicted ones -> a table (L, L).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import DataError
from llmanac.metrics import MetricSpec
from llmanac.metrics.statistics.intervals import wilson_interval

CARD = {
    "title": "Accuracy, macro and micro F1",
    "paper": "van Rijsbergen 1979, Information Retrieval (F)",
    "reference": "sklearn's accuracy_score and f1_score; lm-eval's acc and its standard error",
    "test": "tests/references/test_accuracy.py::test_scores_equal_sklearn",
}


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """Nothing to choose; the labels are those that occur."""

    def build(self, **dims: Any) -> Callable[[Sequence[str], Sequence[str]], Report]:
        return lambda truth, predicted: report(sorted({*truth, *predicted}), truth, predicted)


@dataclass(frozen=True)
class Report:
    """What was counted.

    Attributes:
        labels: in the order of the confusion table.
        confusion: `confusion[i][j]` texts with label i were given label j.
    """

    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def rows(self) -> int:
        return sum(map(sum, self.confusion))

    @property
    def right(self) -> int:
        return sum(self.confusion[i][i] for i in range(len(self.labels)))

    @property
    def accuracy(self) -> float:
        return self.right / self.rows

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the accuracy over texts like these."""
        return wilson_interval(self.right, self.rows)[1:]

    @property
    def standard_error(self) -> float:
        """Of the accuracy, from the sample's spread as lm-eval computes it; NaN for one text."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / (self.rows - 1)) if self.rows > 1 else math.nan

    def of(self, label: str) -> dict[str, float]:
        """Precision, recall, F1 and support of a label; 0 where there is nothing to divide by."""
        i = self.labels.index(label)
        right, there, given = self.confusion[i][i], sum(self.confusion[i]), sum(row[i] for row in self.confusion)
        return {
            "precision": right / max(given, 1),
            "recall": right / max(there, 1),
            "f1": 2 * right / max(given + there, 1),
            "support": there,
        }

    @property
    def macro_f1(self) -> float:
        """The mean F1 over the labels that occur or were predicted."""
        seen = [
            name
            for row, column, name in zip(self.confusion, zip(*self.confusion, strict=True), self.labels, strict=True)
            if any(row) or any(column)
        ]
        return sum(self.of(label)["f1"] for label in seen) / len(seen)

    @property
    def majority(self) -> float:
        """The accuracy of always giving the most frequent label."""
        return max(map(sum, self.confusion)) / self.rows

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "rows": self.rows,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "standard_error": None if self.rows < 2 else self.standard_error,
            "macro_f1": self.macro_f1,
            "majority": self.majority,
            "labels": {label: self.of(label) for label in self.labels},
            "confusion": [list(row) for row in self.confusion],
        }


def report(labels: Sequence[str], truth: Sequence[str], predicted: Sequence[str]) -> Report:
    """Count predictions against the truth.

    Args:
        labels: the labels of the classifier.

    Raises:
        DataError: no rows, unequal numbers, or a true label that the classifier cannot answer.
    """
    if len(truth) != len(predicted):
        raise DataError(f"labels: {len(truth)} true ones for {len(predicted)} predictions")
    if not truth:
        raise DataError("labels: there is nothing to evaluate on")
    numbers = {label: i for i, label in enumerate(labels)}
    counts = [[0] * len(labels) for _ in labels]
    for row, (true, given) in enumerate(zip(truth, predicted, strict=True)):
        if true not in numbers:
            raise DataError(
                f"labels: number {row} is {true[:60]!r}, which the classifier was never shown (it knows "
                f"{', '.join(labels[:10])}); drop such rows, or train with them"
            )
        counts[numbers[true]][numbers[given]] += 1
    return Report(tuple(labels), tuple(map(tuple, counts)))
