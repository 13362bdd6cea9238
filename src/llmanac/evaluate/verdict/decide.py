"""Whether paired scores differ: the test that fits them, an interval, equivalence, and what so many items could show.

    right or wrong, one answer an item, no groups   McNemar's exact test
    up to FEW items or groups                       all signs of their differences (exact)
    more of them                                    t = difference / SE with groups - 1 degrees of freedom
    a score that is no mean (BLEU, F1, perplexity)  random swaps of items or groups; the interval by the bootstrap

SE is over groups where there are any (Miller 2024). The mean over an item's repeated answers is its score, so their
spread counts as part of that between items. An equivalence is two one-sided tests at the margin (Schuirmann 1987).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from llmanac.evaluate.verdict.aggregates import alone, measured
from llmanac.metrics import _statistics as statistics
from llmanac.metrics._corpus import Measured, percentiles, resampled, resampled_together
from llmanac.metrics._student import student_quantile, student_sf
from llmanac.metrics.significance import significance

FEW = 30
FEWEST = 5  # items or groups of which there may be a verdict
ALPHA = 0.05
DRAWS = 2000
SEED = 0
Verdict = Literal["better", "worse", "equivalent", "inconclusive", "too few"]


@dataclass(frozen=True)
class Comparison:
    """One system against the baseline on one benchmark, or on all of them.

    Attributes:
        value, baseline_value: the scores; difference: value less baseline_value, with its standard error and interval.
        test: how p was found; p, p_equivalence: of no difference, and of one beyond the margin; adjusted over all
            benchmarks and systems (Holm). p_equivalence is None without a margin.
        improved, worsened: items with a better and with a worse score.
        detectable: the smallest true difference that so many items show four times in five.
        more: about how many more items would settle a true difference of this size; None where it is settled, or there
            is no difference.
        spread_of_answers: the part of the differences' variance that repeated answers of an item make; None without.
    """

    benchmark: str
    metric: str
    system: str
    baseline: str
    items: int
    groups: int
    value: float
    baseline_value: float
    difference: float
    standard_error: float
    low: float
    high: float
    test: str
    p: float
    p_equivalence: float | None
    improved: int
    worsened: int
    higher_is_better: bool
    detectable: float
    more: int | None
    verdict: Verdict
    spread_of_answers: float | None = None

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def compare(
    values: np.ndarray,
    baseline: np.ndarray,
    metric: str,
    *,
    groups: np.ndarray | None = None,
    margin: float | None = None,
    higher: bool = True,
    repeated: bool = False,
) -> Comparison:
    """Compare (items, K) scores with the baseline's, item by item; the verdict is that of this comparison alone.

    Args:
        groups: (items,) numbers of what items share; margin: of equivalence, in the metric's unit.
        higher: whether more is better; repeated: whether scores are means over several answers.
    """
    systems = [measured(metric, one) for one in (baseline, values)]
    own = None if groups is None else np.unique(groups, return_inverse=True)[1]
    if own is not None and own.max(initial=0) + 1 == len(own):
        own = None
    units = len(values) if own is None else int(own.max()) + 1
    sign = 1 if higher else -1
    ones = [alone(metric, one) for one in (baseline, values)]
    gain = sign * (ones[1] - ones[0])
    improved, worsened = int((gain > 0).sum()), int((gain < 0).sum())
    if values.shape[1] > 1:
        found = _whole(systems, own, margin)
    else:
        found = _mean(ones[1], ones[0], own, units, margin, repeated, improved, worsened)
    comparison = Comparison(
        benchmark="", metric=metric, system="", baseline="", items=len(values), groups=units, improved=improved,
        worsened=worsened, higher_is_better=higher, value=systems[1].value, baseline_value=systems[0].value,
        detectable=statistics.detectable_effect(found["standard_error"]), more=None, verdict="too few",
        **found,
    )  # fmt: skip
    return judged(comparison, comparison.p, comparison.p_equivalence)


def judged(one: Comparison, p: float, p_equivalence: float | None) -> Comparison:
    """A comparison with adjusted p values, and the verdict that they give."""
    verdict: Verdict = "inconclusive"
    if one.groups < FEWEST:
        verdict = "too few"
    elif p_equivalence is not None and p_equivalence <= ALPHA:
        verdict = "equivalent"
    elif p <= ALPHA:
        verdict = "better" if (one.difference > 0) == one.higher_is_better else "worse"
    settled = verdict in ("better", "worse", "equivalent")
    more = None
    if not settled and one.difference and math.isfinite(one.standard_error):
        needed = statistics.items_needed(one.difference, one.standard_error, one.items)
        more = max(0, needed - one.items) or None
    return replace(one, p=p, p_equivalence=p_equivalence, verdict=verdict, more=more)


def _mean(
    values: np.ndarray, baseline: np.ndarray, own: np.ndarray | None, units: int, margin: float | None, repeated: bool,
    improved: int, worsened: int,
) -> dict[str, Any]:  # fmt: skip
    """Of scores that are averaged."""
    differences = values - baseline
    if len(differences) < 2:
        return _interval(float(differences.mean()), math.inf, 1, margin) | {"p": 1.0, "test": "none: a single item"}
    found = statistics.paired(values, baseline, own)
    result = _interval(found.mean, found.standard_error, units - 1, margin)
    right = np.isin(values, (0.0, 1.0)).all() and np.isin(baseline, (0.0, 1.0)).all()
    if right and own is None and not repeated:
        return result | {"p": statistics.mcnemar_p(improved, worsened), "test": "McNemar, exact"}
    sums = differences if own is None else np.bincount(own, differences)
    if units <= FEW:
        ps = [statistics.sign_flip_p(list(signed)) for signed in (sums, -sums)]
        return result | {"p": min(1.0, 2 * min(ps)), "test": "all signs, exact"}
    error = found.standard_error
    t = found.mean / error if error else math.copysign(math.inf, found.mean) if found.mean else 0.0
    return result | {"p": min(1.0, 2 * student_sf(abs(t), units - 1)), "test": "t" if own is None else "t over groups"}


def _interval(difference: float, error: float, df: int, margin: float | None) -> dict[str, Any]:
    """The t interval of a difference, and the p of its equivalence."""
    half = student_quantile(0.975, max(1, df)) * error if error else 0.0
    p = None
    if margin is not None:
        p = max(_tail(margin - difference, error, df), _tail(margin + difference, error, df))
    return {"difference": difference, "standard_error": error, "low": difference - half, "high": difference + half,
            "p_equivalence": p}  # fmt: skip


def _tail(distance: float, error: float, df: int) -> float:
    if not error:
        return 0.0 if distance > 0 else 1.0
    return student_sf(distance / error, max(1, df))


def _whole(systems: Sequence[Measured], own: np.ndarray | None, margin: float | None) -> dict[str, Any]:
    """Of a score that is a formula of sums over all items; groups are swapped and drawn as one."""
    if own is not None:
        systems = [replace(one, statistics=np.stack([np.bincount(own, column) for column in one.statistics.T], 1))
                   for one in systems]  # fmt: skip
    test = significance(systems[0], systems[1])
    old, new = resampled_together(systems, DRAWS, np.random.default_rng(SEED))
    low, high = percentiles(new - old)
    return {
        "difference": test.difference, "standard_error": float((new - old).std(ddof=1)), "low": low, "high": high,
        "p": test.p, "test": "random swaps", "p_equivalence": _drawn_beyond(new - old, margin),
    }  # fmt: skip


def _drawn_beyond(draws: np.ndarray, margin: float | None) -> float | None:
    if margin is None:
        return None
    return (max(int((draws >= margin).sum()), int((draws <= -margin).sum())) + 1) / (len(draws) + 1)


def overall(parts: Sequence[tuple[Comparison, np.ndarray, np.ndarray | None]], margin: float | None) -> Comparison:
    """The mean difference over benchmarks, each counted once, by a bootstrap within each of them (stratified).

    parts: of each benchmark its comparison, (items,) differences, and (items,) groups or None.
    """
    generator, draws = np.random.default_rng(SEED), np.zeros(DRAWS)
    for _, differences, groups in parts:
        own = np.arange(len(differences)) if groups is None else np.unique(groups, return_inverse=True)[1]
        sums = np.stack([np.bincount(own, differences), np.bincount(own)], 1)
        draws += resampled(Measured("difference", sums, _ratio), DRAWS, generator) / len(parts)
    every = [one for one, _, _ in parts]
    difference, error = (float(np.mean([one.difference for one in every])), float(draws.std(ddof=1)))
    low, high = percentiles(draws)
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    items = sum(one.items for one in every)
    made = replace(
        every[0], benchmark="all", items=items, groups=sum(one.groups for one in every), difference=difference,
        standard_error=error, low=low, high=high, test="stratified bootstrap",
        p=min(1.0, 2 * (beyond + 1) / (DRAWS + 1)),
        p_equivalence=_drawn_beyond(draws, margin), detectable=statistics.detectable_effect(error),
        improved=sum(one.improved for one in every), worsened=sum(one.worsened for one in every),
        value=float(np.mean([one.value for one in every])),
        baseline_value=float(np.mean([one.baseline_value for one in every])), spread_of_answers=None,
    )  # fmt: skip
    return judged(made, made.p, made.p_equivalence)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def adjusted(every: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons as one family of tests: p values and verdicts by Holm."""
    ps = statistics.holm([one.p for one in every])
    if any(one.p_equivalence is None for one in every):
        return [judged(one, p, None) for one, p in zip(every, ps, strict=True)]
    same = statistics.holm([one.p_equivalence or 0.0 for one in every])
    return [judged(one, p, q) for one, p, q in zip(every, ps, same, strict=True)]
