"""The area under the ROC curve, and its interval by DeLong.

    AUC = P(score of a positive > score of a negative) + P(equal) / 2

Its variance comes from how much each single item adds (DeLong et al. 1988, the fast form of Sun and Xu 2014): no
bootstrap, and exact in ties.
"""

import math
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.metrics.statistics.intervals import Z


def _midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties get their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - (counts - 1) / 2)[inverse]).astype(np.float64)


def area(positive: Any, negative: Any) -> float:
    """The AUC alone, for scores (P,) and (N,), one of each at least.

    Raises:
        DataError: no item on either side, or a score that is NaN.
    """
    x, y = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    if not len(x) or not len(y) or np.isnan(x).any() or np.isnan(y).any():
        raise DataError("auc: needs scores of both sides, all of them numbers")
    ranks = _midranks(np.concatenate([x, y]))[: len(x)]
    return float((ranks.sum() - len(x) * (len(x) + 1) / 2) / (len(x) * len(y)))


def auc(positive: Any, negative: Any) -> tuple[float, float, float]:
    """`(AUC, low, high)` with the 95% interval, for scores (P,) and (N,).

    Raises:
        DataError: fewer than two items on either side, or a score that is NaN.
    """
    x, y = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    if len(x) < 2 or len(y) < 2 or np.isnan(x).any() or np.isnan(y).any():
        raise DataError("auc: needs at least two scores of each side, all of them numbers")
    both = _midranks(np.concatenate([x, y]))
    found = area(x, y)
    of_positive = (both[: len(x)] - _midranks(x)) / len(y)
    of_negative = 1 - (both[len(x) :] - _midranks(y)) / len(x)
    half = Z * math.sqrt(of_positive.var(ddof=1) / len(x) + of_negative.var(ddof=1) / len(y))
    return found, float(max(0.0, found - half)), float(min(1.0, found + half))
