"""How well scores tell two kinds apart: precision against recall, and the area under the ROC curve."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmanac.metrics.statistics.auc import area


@dataclass(frozen=True)
class Point:
    """What keeping the texts from `threshold` on gives: fractions from 0 to 1, NaN for the precision of nothing."""

    threshold: float
    precision: float
    recall: float
    kept: float

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both > 0 else 0.0  # NaN is not above 0


def precision_recall(labels: Sequence[int], scores: Sequence[float]) -> list[Point]:
    """One point for every distinct score, from the highest threshold down.

    Args:
        labels: 1 for a text that is wanted, 0 for one that is not.

    Raises:
        ValueError: labels and scores differ in number, or no text is wanted.
    """
    wanted, score = np.asarray(labels, np.int64), np.asarray(scores, np.float64)
    if len(wanted) != len(score) or not wanted.sum():
        raise ValueError(f"{len(wanted)} labels ({wanted.sum()} of them wanted) for {len(score)} scores")
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    hits = np.cumsum(wanted[order])
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
    return [
        Point(float(ranked[i]), float(hits[i] / (i + 1)), float(hits[i] / hits[-1]), (int(i) + 1) / len(ranked))
        for i in last
    ]


def auc(labels: Sequence[int], scores: Sequence[float]) -> float:
    """How likely a wanted text scores above an unwanted one; an equal score counts half (Mann and Whitney's U).

    Raises:
        DataError: one of the two kinds is missing.
    """
    wanted, score = np.asarray(labels, np.int64), np.asarray(scores, np.float64)
    return area(score[wanted == 1], score[wanted == 0])


def at_threshold(points: Sequence[Point], threshold: float) -> Point:
    """What keeping every text that scores at least `threshold` gives."""
    above = [point for point in points if point.threshold >= threshold]
    return above[-1] if above else Point(threshold, math.nan, 0.0, 0.0)
