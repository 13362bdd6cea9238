"""The statistics of a comparison: paired differences, their intervals, and the four verdicts.

The unit of replication is what was repeated: seeds for what is trained, documents or prompts for what is applied to one
finished artefact. Evaluation windows inside a run are never replicates; their spread is many times smaller than
that between seeds, and an interval from them would be far too narrow.

    d_i = arm_i - baseline_i,   t = mean(d) / (sd(d) / sqrt(n)),   df = n - 1                       (paired t test)
    equivalent at margin m:  mean(d_i - m|b_i|) < 0  and  mean(d_i + m|b_i|) > 0, each one-sided     (Schuirmann 1987)

Both families of tests are adjusted over the arms by Holm (1979), so that the chance of any false claim in the table is
at most `alpha` however many arms it has. Verdicts:

    equivalent     both one-sided tests reject: the difference is inside the margin, whatever its sign
    better, worse  else, when the difference is not zero
    inconclusive   else; with the number of further replicates that would settle it at four chances in five
    too few        fewer than five replicates; with how many more a verdict needs
    none           nothing may be concluded, and `refused` says why
    loses text     the arm (or the baseline) does not reproduce its text, so its numbers are not about that text
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import SpecError
from llmanac.metrics import Metric as Metric
from llmanac.metrics.statistics.estimates import holm, sign_flip_p
from llmanac.metrics.statistics.student import student_quantile, student_sf

Verdict = Literal["better", "worse", "equivalent", "inconclusive", "too few", "none", "loses text"]
MIN_REPLICATES = 5
ALPHA = 0.05
MARGIN = 0.01  # of equivalence, relative to the baseline
POWER = 0.8
DRAWS = 10_000
Statistic = Callable[[Sequence[float]], float]
MOST_REPLICATES = 100_000  # a study that needs more than this is reported as needing more than this


@dataclass(frozen=True)
class ArmComparison:
    """One arm against the baseline, on one metric.

    `difference` is arm minus baseline in the metric's unit with its 95% interval; `relative` is the same over the
    baseline's mean. `p` and `p_equivalence` are already adjusted over the arms. `detectable` is the smallest difference
    that this many replicates would find four times in five. `further` is how many more replicates an inconclusive
    verdict, or one on too few of them, needs, `None` where there is no verdict to settle or more than
    `MOST_REPLICATES` would be needed. `refused` says why the arm may have no verdict whatever its numbers are.
    """

    arm: str
    n: int
    mean: float
    baseline_mean: float
    difference: float
    low: float | None
    high: float | None
    relative: float | None
    relative_low: float | None
    relative_high: float | None
    sd: float | None
    p: float | None
    p_equivalence: float | None
    margin: float
    detectable: float | None
    improved: int
    verdict: Verdict
    further: int | None
    refused: str = ""


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1)."""
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def student(values: Sequence[float]) -> float:
    """mean / standard error; infinite where every value is the same and not zero, 0 where all are zero."""
    centre, spread = mean(values), deviation(values)
    # Equal inputs give a spread of a few rounding errors; a t of 1e16 from them means nothing more than infinity does.
    if spread <= 1e-13 * max(abs(v) for v in values):
        return math.copysign(math.inf, centre) if centre else 0.0
    return centre / (spread / math.sqrt(len(values)))


def two_sided_p(differences: Sequence[float], statistic: Statistic = student) -> float:
    """p of the paired t test that the mean difference is zero."""
    return min(1.0, 2 * student_sf(abs(statistic(differences)), len(differences) - 1))


def equivalence_p(differences: Sequence[float], margins: Sequence[float], statistic: Statistic = student) -> float:
    """p of the two one-sided tests: the larger of both. `margins` are absolute, one a pair."""
    if not any(differences):  # the same outcome every time, even where the margin is a fraction of zero
        return 0.0
    df = len(differences) - 1
    above = statistic([d + m for d, m in zip(differences, margins, strict=True)])
    below = statistic([d - m for d, m in zip(differences, margins, strict=True)])
    return max(student_sf(above, df), student_sf(-below, df))


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The t interval of a mean; needs at least two values."""
    half = student_quantile(0.5 + confidence / 2, len(values) - 1) * deviation(values) / math.sqrt(len(values))
    centre = mean(values)
    return centre - half, centre + half


def _enough(distance: float, spread: float, n: int, tail: float) -> bool:
    """Whether n replicates put `distance` beyond the critical value with power `POWER` (shifted-t approximation)."""
    df = n - 1
    return distance * math.sqrt(n) >= (student_quantile(1 - tail, df) + student_quantile(POWER, df)) * spread


def replicates_needed(centre: float, spread: float, margin: float, *, alpha: float = 0.05, arms: int = 1) -> int | None:
    """The fewest replicates that settle the verdict with power 0.8 if the effect and spread seen so far are the truth.

    Either the difference becomes certain or the equivalence does, whichever comes first; the level is Bonferroni's over
    the arms, which Holm never exceeds. None where `MOST_REPLICATES` would not do.
    """
    if not (centre or spread):  # scores of items that are all equal, see `_drawn_beyond`
        return math.ceil(math.log(alpha / arms) / math.log1p(-margin)) if 0 < margin < 1 else None

    def settled(n: int) -> bool:
        different = _enough(abs(centre), spread, n, alpha / (2 * arms))
        return different or _enough(margin - abs(centre), spread, n, alpha / arms)

    low, high = MIN_REPLICATES - 1, MIN_REPLICATES
    while not settled(high):
        low, high = high, 2 * high
        if low >= MOST_REPLICATES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high


def detectable_difference(spread: float, n: int, *, alpha: float = 0.05, arms: int = 1) -> float:
    """The smallest true difference that n replicates find with power 0.8."""
    df = n - 1
    factor = student_quantile(1 - alpha / (2 * arms), df) + student_quantile(POWER, df)
    return factor * spread / math.sqrt(n)


def _bootstrapped(differences: Sequence[float]) -> np.ndarray:
    """Means of `DRAWS` draws of the differences with replacement, the same draws for every metric and arm."""
    values = np.asarray(differences)
    counts = np.random.default_rng(0).multinomial(len(values), np.full(len(values), 1 / len(values)), DRAWS)
    return counts @ values / len(values)


def _all_signs(differences: Sequence[float]) -> float:
    return min(1.0, 2 * min(sign_flip_p(differences), sign_flip_p([-d for d in differences])))


def _drawn_beyond(differences: Sequence[float], margins: Sequence[float]) -> float:
    """p of the bootstrap; where all items are equal, the chance of that if scores (0 to 1) differed by the margin."""
    means, margin = _bootstrapped(differences), mean(margins)
    if not any(differences):
        return max(0.0, 1 - margin) ** len(differences)
    return (max(int((means >= margin).sum()), int((means <= -margin).sum())) + 1) / (DRAWS + 1)


def _percentiles(differences: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(_bootstrapped(differences), (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class Tests:
    """How differences are tested: p that the mean is 0, p that it is beyond the margins, and the 95% interval.

    `intervals` names the interval for a page.
    """

    intervals: str
    different: Callable[[Sequence[float]], float]
    equivalent: Callable[[Sequence[float], Sequence[float]], float]
    interval: Callable[[Sequence[float]], tuple[float, float]]


STUDENT = Tests("t intervals", two_sided_p, equivalence_p, interval)
# of differences that are far from normal: all signs (exact), and means of draws with replacement (Efron 1979)
BOOTSTRAP = Tests("bootstrap intervals", _all_signs, _drawn_beyond, _percentiles)


def compare_arms(
    values: Mapping[str, Sequence[float]], baseline: str, *, better: Literal["lower", "higher"], margin: float = MARGIN,
    levels: tuple[float, float] = (ALPHA, ALPHA), fewest: int = MIN_REPLICATES, tests: Tests | None = None,
    refused: Mapping[str, str] | None = None,
) -> list[ArmComparison]:  # fmt: skip
    """Every arm against the baseline on one metric. `values[arm][i]` shares replicate i with every other arm.

    Args:
        values: finite numbers, one list an arm, all of one length n >= 1.
        margin: relative to the baseline, 0.01 for a percent.
        levels: of a difference, and of equivalence.
        fewest: replicates that a verdict needs; tests: of the differences, Student's by default.
        refused: arms that lose text, and what each loses. They have numbers and no verdict, and the other arms' tests
            are adjusted as if they were not there; where the baseline is one, no arm has a verdict.

    Raises:
        SpecError: arms of unequal length, an unknown baseline, a margin that is not positive, or a value that is not
            finite.
    """
    if baseline not in values:
        raise SpecError(f"baseline: {baseline!r} is not one of the arms {', '.join(values)}")
    if not margin > 0:
        raise SpecError(f"margin: must be above 0, got {margin}; 0.01 is a percent of the baseline")
    base = list(values[baseline])
    for arm, xs in values.items():
        if len(xs) != len(base):
            raise SpecError(f"{arm}: has {len(xs)} replicates and {baseline} has {len(base)}; pairs need the same")
        if not all(map(math.isfinite, xs)):
            raise SpecError(f"{arm}: a value is not finite; leave failed replicates out of every arm")
    differences = {a: [x - b for x, b in zip(xs, base, strict=True)] for a, xs in values.items() if a != baseline}
    margins, why = [margin * abs(b) for b in base], dict(refused or {})
    if baseline in why:
        why = dict.fromkeys(differences, f"the baseline: {why[baseline]}")
    judged = [arm for arm in differences if arm not in why]
    how, adjusted = tests or STUDENT, list[dict[str, float]]([{}, {}])
    if len(base) >= fewest:
        adjusted = [
            {arm: how.different(found) for arm, found in differences.items()},
            {arm: how.equivalent(found, margins) for arm, found in differences.items()},
        ]
        for ps in adjusted:
            ps.update(zip(judged, holm([ps[arm] for arm in judged]), strict=True))
    family: dict[str, Any] = {"alpha": levels[0], "arms": max(1, len(judged))}
    sign, scale, n = -1 if better == "lower" else 1, abs(mean(base)), len(base)
    out = []
    for arm, found in differences.items():
        p, p_equivalence = (ps.get(arm) for ps in adjusted)
        centre, spread = mean(found), deviation(found) if n > 1 else None
        low, high = how.interval(found) if n > 1 else (None, None)
        relative = [value / scale if scale and value is not None else None for value in (centre, low, high)]
        verdict: Verdict = "loses text" if arm in why else _verdict(p, p_equivalence, sign * centre, levels)
        detectable = further = None
        if spread is not None and arm not in why:
            detectable = detectable_difference(spread, n, **family)
            if verdict == "inconclusive":
                needed = replicates_needed(centre, spread, mean(margins), **family)
                further = None if needed is None else max(1, needed - n)
        if verdict == "too few":
            further = fewest - n
        out.append(
            ArmComparison(
                arm=arm, n=n, mean=mean(values[arm]), baseline_mean=mean(base), difference=centre, low=low, high=high,
                relative=relative[0], relative_low=relative[1], relative_high=relative[2], sd=spread, p=p,
                p_equivalence=p_equivalence, margin=mean(margins), detectable=detectable,
                improved=sum(sign * d > 0 for d in found), verdict=verdict, further=further, refused=why.get(arm, ""),
            )
        )  # fmt: skip
    return out


def _verdict(p: float | None, p_equivalence: float | None, gain: float, levels: tuple[float, float]) -> Verdict:
    if p is None or p_equivalence is None:
        return "too few"
    if p_equivalence <= levels[1]:
        return "equivalent"
    if p <= levels[0]:
        return "better" if gain > 0 else "worse"
    return "inconclusive"
