"""Whether one system's corpus score differs from another's on the same segments: paired randomisation and bootstrap.

    randomization  swap the two outputs of random segments:  p = (#{|d*| >= |d|} + 1) / (trials + 1)
    bootstrap      draw segments with replacement:           p = (#{|d*| - mean |d*| >= |d|} + 1) / (trials + 1)

d is the difference of the two scores, d* that of a trial. The first tests whether the labels matter, without an
assumption on the scores (Riezler & Maxwell 2005); the second also gives intervals (Koehn 2004). Both work on any metric
that keeps what a segment adds (`Measured`: BLEU, chrF, the mean of ROUGE, of exact matches ...), so a trial is a row of
a product of matrices. Shapes: statistics (S, K), trials (T, S) bits, a block at a time -> scores (T,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.ranges import COUNT, within
from llmanac.kernels.metrics.trials import add_chosen
from llmanac.metrics import MetricSpec
from llmanac.metrics.statistics.corpus import SEED, Measured, percentiles, resampled_together

CARD = {
    "title": "Significance of a difference (paired)",
    "paper": "Riezler & Maxwell 2005; Koehn 2004",
    "reference": "sacrebleu's PairedTest, randomisation and bootstrap, under its seed; here ties are no evidence",
    "test": "tests/references/test_bleu.py::test_significance_equals_sacrebleu",
    "aliases": {"paired-bootstrap": {"test": "bootstrap", "trials": 1000}},
}
BITS = 1 << 26  # that are held at a time


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """test: see the module; trials: T; seed: of the draws."""

    test: Literal["randomization", "bootstrap"] = "randomization"
    trials: int = 10_000
    seed: int = SEED

    ranges = within(COUNT, "trials")

    def build(self, **dims: Any) -> Callable[[Measured, Measured], Significance]:
        return lambda baseline, system: significance(baseline, system, self)


@dataclass(frozen=True)
class Significance:
    """difference: system minus baseline; p: two-sided; low, high: the 95% bootstrap interval of the difference, for
    the bootstrap."""

    difference: float
    p: float
    low: float | None = None
    high: float | None = None


def significance(baseline: Measured, system: Measured, spec: Spec | None = None, **choices: Any) -> Significance:
    """Compare two systems on the same segments; `choices` are fields of the Spec.

    Raises:
        DataError: other numbers of segments, or two different metrics.
    """
    spec = spec or Spec(**choices)
    one, two = baseline.statistics, system.statistics
    if len(one) != len(two):
        raise DataError(f"baseline has {len(one)} segments and the system {len(two)}; a pair needs the same segments")
    if baseline.name != system.name or baseline.signature != system.signature:
        raise DataError(f"{baseline.name} ({baseline.signature}) and {system.name} ({system.signature}) do not compare")
    difference = system.value - baseline.value
    generator = np.random.default_rng(spec.seed)
    if spec.test == "bootstrap":
        old, new = resampled_together((baseline, system), spec.trials, generator)
        found = np.abs(new - old)
        low, high = percentiles(new - old)
        return Significance(difference, _p(found - found.mean(), difference), low, high)
    return Significance(difference, _p(_swapped(baseline, system, spec.trials, generator), difference))


def _p(found: np.ndarray, difference: float) -> float:
    # a tie is no evidence, whatever its rounding
    return (int((found >= abs(difference) * (1 - 1e-9)).sum()) + 1) / (len(found) + 1)


def _swapped(baseline: Measured, system: Measured, trials: int, generator: np.random.Generator) -> np.ndarray:
    """(trials,) absolute differences of the scores after swapping the segments that a random bit names.

    The bits are those of `generator.integers(2, dtype=bool)`: from the low end of 32-bit words. A block of rows that
    is a multiple of 32 leaves no bit over.
    """
    one, two = baseline.statistics, system.statistics
    both, segments = one.sum(0) + two.sum(0), len(one)
    rows = max(32, BITS // segments // 32 * 32)
    mixed = np.tile(two.sum(0), (trials, 1))
    for start in range(0, trials, rows):
        count = min(rows, trials - start)
        drawn = generator.integers(0, 1 << 32, size=-(-count * segments // 32) + 1, dtype=np.uint32)
        add_chosen(drawn.astype("<u4", copy=False).view(np.uint8), one - two, mixed[start : start + count])
    return np.abs(baseline.formula(mixed) - baseline.formula(both - mixed))
