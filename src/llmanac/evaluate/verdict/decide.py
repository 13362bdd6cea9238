"""Whether paired scores differ: the test that fits them, an interval, equivalence, and what so many items could show.

    right or wrong, one answer an item, no groups   McNemar's exact test
    up to FEW items or groups                       all signs of their differences (exact)
    more of them                                    t = difference / SE with groups - 1 degrees of freedom, less where
                                                    groups have other sizes
    a score that is no mean (BLEU, F1, perplexity)  random swaps of items or groups; the interval by the bootstrap
    the mean over several benchmarks                random signs of the differences of items or groups

SE is over groups where there are any: how far the mean moves without each of them (the jackknife). The mean over an
item's repeated answers is its score, so their spread counts as part of that between items. An equivalence is two
one-sided tests at the margin (Schuirmann 1987); where most items are equal, it also takes so many items that a rare
large difference would have been seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from llmanac.evaluate.verdict.aggregates import alone, measured
from llmanac.metrics.significance import significance
from llmanac.metrics.statistics import estimates as statistics
from llmanac.metrics.statistics.corpus import Measured, percentiles, resampled_together
from llmanac.metrics.statistics.student import incomplete_beta, student_quantile, student_sf

FEW = 30
FEWEST = 6  # items or groups of which there may be a verdict: the least p of all signs is 2 / 2^6 = 0.03
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


def compare(
    values: np.ndarray, baseline: np.ndarray, metric: str, *, groups: np.ndarray | None = None,
    margin: float | None = None, higher: bool = True, repeated: bool = False, named: Sequence[str] = ("", "B", "A"),
) -> Comparison:  # fmt: skip
    """Compare (items, K) scores with the baseline's, item by item; the verdict is that of this comparison alone.

    Args:
        groups: (items,) numbers of what items share; margin: of equivalence, in the metric's unit.
        higher: whether more is better; repeated: whether scores are means over several answers.
        named: the benchmark, the system and the baseline.
    """
    systems = [measured(metric, one) for one in (baseline, values)]
    own = None if groups is None else np.unique(groups, return_inverse=True)[1]
    units = len(values) if own is None else int(own.max()) + 1
    own = own if units < len(values) else None
    ones = [alone(metric, one) for one in (baseline, values)]
    above, below = (int((side * (ones[1] - ones[0]) > 0).sum()) for side in (1, -1))
    changes: dict[str, Any] = dict(zip(("improved", "worsened")[:: 1 if higher else -1], (above, below), strict=True))
    several = values.shape[1] > 1
    found = _whole(systems, own, margin) if several else _mean(ones[1], ones[0], own, units, margin, repeated)
    comparison = Comparison(
        benchmark=named[0], metric=metric, system=named[1], baseline=named[2], items=len(values), groups=units,
        higher_is_better=higher, value=systems[1].value, baseline_value=systems[0].value, more=None, verdict="too few",
        detectable=statistics.detectable_effect(found["standard_error"]), **changes, **found,
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
    more = None
    if verdict in ("inconclusive", "too few") and one.difference and math.isfinite(one.standard_error):
        level = ALPHA * one.p / p  # of this comparison by itself, of as many as there are
        needed = statistics.items_needed(one.difference, one.standard_error, one.items, level=level)
        fewest = math.ceil(one.items / one.groups * (1 - math.log2(level)))  # whose least p of all signs is the level
        more = max(1, needed - one.items, fewest - one.items)
    return replace(one, p=p, p_equivalence=p_equivalence, verdict=verdict, more=more)


def _mean(
    values: np.ndarray, baseline: np.ndarray, own: np.ndarray | None, units: int, margin: float | None, repeated: bool,
) -> dict[str, Any]:  # fmt: skip
    """Of scores that are averaged."""
    differences = values - baseline
    if len(differences) < 2:
        return _interval(float(differences.mean()), math.inf, 1, margin) | {"p": 1.0, "test": "none: a single item"}
    found = statistics.paired(values, baseline)
    error, free = found.standard_error, units - 1.0
    if own is not None:
        error, free = statistics.without_each(differences, own)
    sums = differences if own is None else np.bincount(own, differences)
    low, high = min(values.min(), baseline.min()), max(values.max(), baseline.max())
    largest = max(1.0, high - low, high, -low) * (1 if own is None else np.bincount(own).max())
    rare = _rare(sums / len(values), largest / len(values), margin)
    result = _interval(found.mean, error, free, margin, rare)
    right = np.isin(values, (0.0, 1.0)).all() and np.isin(baseline, (0.0, 1.0)).all()
    if right and own is None and not repeated:
        p = statistics.mcnemar_p(int((differences > 0).sum()), int((differences < 0).sum()))
        return result | {"p": p, "test": "McNemar, exact"}
    if units <= FEW:
        ps = [statistics.sign_flip_p(list(signed)) for signed in (sums, -sums)]
        return result | {"p": min(1.0, 2 * min(ps)), "test": "all signs, exact"}
    p = min(1.0, 2 * _tail(abs(found.mean), error, free))
    return result | {"p": p, "test": "t" if own is None else "t over groups"}


def _interval(difference: float, error: float, df: float, margin: float | None, rare: float = 0.0) -> dict[str, Any]:
    """The t interval of a difference, and the p of its equivalence, which is at least `rare`."""
    half = student_quantile(0.975, max(1, df)) * error if error else 0.0
    p = None if margin is None else max(rare, *(_tail(margin + side, error, df) for side in (difference, -difference)))
    return {"difference": difference, "standard_error": error, "low": difference - half, "high": difference + half,
            "p_equivalence": p}  # fmt: skip


def _rare(shares: np.ndarray, largest: float, margin: float | None) -> float:
    """The p of an equivalence where most units are equal, whose few differences say little of their variance.

    shares: (units,) what each adds to the difference; largest: what it could add. A difference of `margin` is then made
    by margin / largest units at least, a binomial number of them.
    """
    units, chance = len(shares), 0.0 if margin is None else margin / largest / len(shares)
    seen = int(abs(shares.sum()) / largest + 1e-9)
    if margin is None or chance >= 1 or 2 * np.count_nonzero(shares) > units:
        return 0.0
    return incomplete_beta(units - seen, seen + 1, 1 - chance, chance)


def _tail(distance: float, error: float, df: float) -> float:
    return student_sf(distance / error, max(1, df)) if error else float(distance <= 0)


def _whole(systems: Sequence[Measured], own: np.ndarray | None, margin: float | None) -> dict[str, Any]:
    """Of a score that is a formula of sums over all items; groups are swapped and drawn as one."""
    if own is not None:
        systems = [replace(one, statistics=np.stack([np.bincount(own, column) for column in one.statistics.T], 1))
                   for one in systems]  # fmt: skip
    test = significance(systems[0], systems[1])
    old, new = resampled_together(systems, DRAWS, np.random.default_rng(SEED))
    draws = new - old
    low, high = percentiles(draws)
    few = (systems[0].statistics != systems[1].statistics).any(1).sum() < FEW  # of which draws know no variance
    beyond = None if margin is None else max((draws >= margin).sum(), (draws <= -margin).sum()) + 1
    return {
        "difference": test.difference, "standard_error": float(draws.std(ddof=1)), "low": low, "high": high,
        "p": test.p, "test": "random swaps", "p_equivalence": beyond and float(few or beyond / (DRAWS + 1)),
    }  # fmt: skip


def overall(parts: Sequence[tuple[Comparison, np.ndarray, np.ndarray | None]], margin: float | None) -> Comparison:
    """The mean difference over benchmarks, each counted once; the test is over the items or groups of all of them.

    The variance is that within benchmarks; those of fewer than FEWEST items or groups are one, around the mean of all.

    parts: of each benchmark its comparison, (items,) differences, and (items,) groups or None.
    """
    every = [vars(one) for one, _, _ in parts]
    sums_of = {name: sum(one[name] for one in every) for name in ("items", "groups", "improved", "worsened")}
    means = {name: sum(one[name] for one in every) / len(every) for name in ("value", "baseline_value", "difference")}
    shares, sizes, stratum = [], [], []
    for number, (_, differences, groups) in enumerate(parts):
        own = np.arange(len(differences)) if groups is None else np.unique(groups, return_inverse=True)[1]
        shares.append(np.bincount(own, differences) / len(own) / len(parts))  # that add up to the mean difference
        sizes.append(np.bincount(own) / len(own) / len(parts))
        stratum.append(np.full(len(sizes[-1]), number if len(sizes[-1]) >= FEWEST else len(parts)))
    share, size, at = map(np.concatenate, (shares, sizes, stratum))
    centre = np.append(np.bincount(at, share, len(parts) + 1)[:-1] * len(parts), means["difference"])
    units = np.bincount(at, minlength=len(parts) + 1)
    whole, squares = np.bincount(at, size, len(parts) + 1), np.bincount(at, size**2, len(parts) + 1)
    follows = size / whole[at] * (at < len(parts))  # how far a benchmark's centre does; that of the few is of all
    scale = (units - 1) / np.maximum(1, units)
    scale[-1] = units[-1] / max(1, units[-1] - 1)
    free = np.maximum(1, whole**2 / np.where(squares, squares, 1) - 1)
    variance = np.bincount(at, ((share - centre[at] * size) / (1 - follows)) ** 2, len(parts) + 1) * scale
    error, spread = math.sqrt(variance.sum()), float((variance**2 / free).sum())
    largest = max(1.0, *(max(abs(one.value), abs(one.baseline_value), np.abs(own).max()) for one, own, _ in parts))
    found = _interval(means["difference"], error, variance.sum() ** 2 / spread if spread else 1, margin,
                      _rare(share, largest * size.max(), margin))  # fmt: skip
    moved = share[share != 0, None]
    none, some = (Measured("difference", values, lambda sums: sums[..., 0]) for values in (0 * moved, moved))
    made = replace(
        parts[0][0], benchmark="all", test="random signs", p=significance(none, some).p if len(moved) else 1.0,
        detectable=statistics.detectable_effect(error), **sums_of, **means | found,
    )  # fmt: skip
    return judged(made, made.p, made.p_equivalence)


def adjusted(every: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons as one family of tests: p values and verdicts by Holm."""
    ps, same = (statistics.holm([p or 0.0 for p in own]) for own in
                ([one.p for one in every], [one.p_equivalence for one in every]))  # fmt: skip
    return [judged(one, p, q if one.p_equivalence is not None else None)
            for one, p, q in zip(every, ps, same, strict=True)]  # fmt: skip
