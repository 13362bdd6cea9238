"""The statistics of the lab: equal to scipy where scipy has them, and honest where it does not (counted simulation)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats

from llmanac.core.errors import SpecError
from llmanac.lab import stats, words
from llmanac.metrics.statistics.student import incomplete_beta, student_quantile, student_sf

SIMULATIONS = 2000
ALPHA = 0.05


def ceiling(rate: float, trials: int = SIMULATIONS) -> float:
    """The count that a true error rate of at most `rate` exceeds with probability below 1e-4."""
    return float(scipy.stats.binom.isf(1e-4, trials, rate))


@pytest.mark.parametrize("df", [1, 2, 3, 4, 9, 29, 200, 5000, 2.5])
def test_t_tail_equals_scipy(df: float) -> None:
    for t in [0.0, 0.01, 0.5, 1.0, 2.0, 4.3, 12.7, 60.0, 1e4, -0.3, -2.2, -50.0]:
        assert student_sf(t, df) == pytest.approx(scipy.stats.t.sf(t, df), rel=1e-9, abs=1e-300)


def test_t_tail_near_zero_equals_the_closed_form() -> None:
    for t in (1e-8, 1e-4, 0.3, 7.0):  # scipy itself is off by 2e-9 at t = 1e-8
        assert student_sf(t, 1) == pytest.approx(0.5 - math.atan(t) / math.pi, rel=1e-12)


@pytest.mark.parametrize("df", [1, 2, 3, 9, 29, 500])
def test_t_quantile_equals_scipy(df: int) -> None:
    for p in [0.5, 0.6, 0.8, 0.95, 0.975, 0.9875, 0.999, 1 - 1e-6, 0.2, 0.025, 1e-4]:
        assert student_quantile(p, df) == pytest.approx(scipy.stats.t.ppf(p, df), rel=1e-9, abs=1e-9)


def test_incomplete_beta_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    for a, b, x in zip(rng.uniform(0.5, 60, 300), rng.uniform(0.5, 60, 300), rng.uniform(0, 1, 300), strict=True):
        assert incomplete_beta(a, b, x, 1 - x) == pytest.approx(scipy.special.betainc(a, b, x), rel=1e-9, abs=1e-14)


def test_paired_test_and_interval_equal_scipy() -> None:
    rng = np.random.default_rng(1)
    for n in (3, 4, 5, 10, 40):
        base = rng.normal(2.0, 0.1, n)
        arm = base + rng.normal(0.02, 0.03, n)
        theirs = scipy.stats.ttest_rel(arm, base)
        (ours,) = stats.compare_arms({"a": arm.tolist(), "b": base.tolist()}, "b", better="lower", fewest=3)
        assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
        wanted = theirs.confidence_interval(0.95)
        assert (ours.low, ours.high) == (pytest.approx(wanted.low, rel=1e-9), pytest.approx(wanted.high, rel=1e-9))
        assert ours.difference == pytest.approx(float(np.mean(arm - base)), rel=1e-12)


def test_equivalence_equals_two_one_sided_tests_of_scipy() -> None:
    rng = np.random.default_rng(2)
    for n in (3, 6, 20):
        base = rng.normal(2.0, 0.1, n)
        arm = base + rng.normal(0.002, 0.004, n)
        below = scipy.stats.ttest_1samp(arm - 1.005 * base, 0, alternative="less").pvalue
        above = scipy.stats.ttest_1samp(arm - 0.995 * base, 0, alternative="greater").pvalue
        values = {"a": arm.tolist(), "b": base.tolist()}
        (ours,) = stats.compare_arms(values, "b", better="lower", margin=0.005, fewest=3)
        assert ours.p_equivalence == pytest.approx(max(below, above), rel=1e-9)


def holm_by_definition(ps: list[float]) -> list[float]:
    """Adjusted p = the smallest alpha at which the step-down procedure, run as Holm wrote it, still rejects."""
    order = sorted(ps)
    out = []
    for p in ps:
        worst = 0.0
        for j, q in enumerate(order):
            worst = max(worst, (len(ps) - j) * q)
            if q >= p:
                break
        out.append(min(1.0, worst))
    return out


def test_holm_equals_its_definition_and_a_known_table() -> None:
    rng = np.random.default_rng(3)
    for m in range(1, 8):
        ps = rng.uniform(0, 0.3, m).tolist()
        assert stats.holm(ps) == pytest.approx(holm_by_definition(ps), rel=1e-12)
    # Worked by hand: 4 x 0.01, 3 x 0.005 -> 0.02 first, then monotone.
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([]) == []


def simulate(
    n: int, arms: int, shift: float, noise: float, seed: int, better: str = "lower"
) -> list[list[stats.ArmComparison]]:
    """Studies with a known truth: a shared seed effect (what pairing removes), and `shift` times the baseline."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(SIMULATIONS):
        shared = 2.0 + rng.normal(0, 0.05, n)
        values = {"base": (shared + rng.normal(0, noise, n)).tolist()}
        for k in range(arms):
            values[f"arm{k}"] = (shared + 2.0 * shift + rng.normal(0, noise, n)).tolist()
        out.append(stats.compare_arms(values, "base", better=better, margin=0.005, fewest=3))  # type: ignore[arg-type]
    return out


@pytest.mark.parametrize(("n", "arms", "noise"), [(3, 1, 0.02), (3, 3, 0.02), (5, 3, 0.005), (10, 2, 0.02)])
def test_false_differences_are_at_most_alpha_over_the_whole_table(n: int, arms: int, noise: float) -> None:
    studies = simulate(n, arms, 0.0, noise, seed=n * 10 + arms)
    wrong = sum(any(c.verdict in ("better", "worse") for c in study) for study in studies)
    assert wrong <= ceiling(ALPHA)


@pytest.mark.parametrize(("n", "arms", "noise"), [(3, 1, 0.004), (3, 3, 0.004), (5, 2, 0.004), (10, 3, 0.01)])
def test_false_equivalence_is_at_most_alpha_at_the_margin(n: int, arms: int, noise: float) -> None:
    for shift in (0.005, -0.005):  # the worst case: a true difference of exactly the margin
        studies = simulate(n, arms, shift, noise, seed=n * 7 + arms)
        wrong = sum(any(c.verdict == "equivalent" for c in study) for study in studies)
        assert wrong <= ceiling(ALPHA)


def test_unadjusted_tests_would_fail_the_same_count() -> None:
    """The count can fail: without Holm, five true nulls give a false claim far more often than alpha."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(SIMULATIONS):
        base = rng.normal(2, 0.02, 5)
        ps = [stats.two_sided_p((rng.normal(2, 0.02, 5) - base).tolist()) for _ in range(5)]
        wrong += min(ps) <= ALPHA
    assert wrong > ceiling(ALPHA)


def test_a_wrong_direction_is_never_called_more_often_than_alpha_and_power_is_real() -> None:
    studies = simulate(5, 2, -0.02, 0.01, seed=8)  # lower by 2%: better where lower is better
    verdicts = [c.verdict for study in studies for c in study]
    assert verdicts.count("worse") <= 2  # far below alpha: the truth is four standard errors away
    assert verdicts.count("better") > 0.9 * len(verdicts)
    higher = [c.verdict for study in simulate(5, 2, -0.02, 0.01, seed=8, better="higher") for c in study]
    assert higher.count("worse") == verdicts.count("better")


def test_equivalence_is_found_where_it_is_true() -> None:
    verdicts = [c.verdict for study in simulate(5, 2, 0.0, 0.001, seed=9) for c in study]
    assert verdicts.count("equivalent") > 0.9 * len(verdicts)


def test_the_further_seeds_asked_for_settle_the_verdict() -> None:
    """Where the truth is what was seen, the number of replicates said to be needed settles four studies in five."""
    rng = np.random.default_rng(10)
    centre, spread, margin = 0.02, 0.03, 0.01
    n = stats.replicates_needed(centre, spread, margin)
    assert n is not None and n > 3
    settled = sum(stats.two_sided_p(rng.normal(centre, spread, n).tolist()) <= ALPHA for _ in range(2000))
    assert 0.76 < settled / 2000 < 0.88
    fewer = sum(stats.two_sided_p(rng.normal(centre, spread, n // 2).tolist()) <= ALPHA for _ in range(2000))
    assert fewer < 0.65 * 2000


def test_replicates_needed_for_equivalence_settle_it_too() -> None:
    rng = np.random.default_rng(11)
    n = stats.replicates_needed(0.002, 0.01, 0.01)
    assert n is not None
    margins = [0.01] * n
    settled = sum(stats.equivalence_p(rng.normal(0.002, 0.01, n).tolist(), margins) <= ALPHA for _ in range(2000))
    assert 0.72 < settled / 2000 < 0.9
    assert stats.replicates_needed(0.01, 1.0, 0.01) is None or stats.replicates_needed(0.01, 1.0, 0.01) > 10_000


@pytest.mark.parametrize("n", [5, 16, 60])
def test_few_equal_answers_are_no_equivalence(n: int) -> None:
    """Of two classifiers one is wrong on a margin of the texts where the other is right; few texts seldom show it."""
    rng = np.random.default_rng(13)
    right = (rng.random((400, n)) >= 0.05).sum(1)
    studies = {  # the order of the texts does not matter, so studies with equally many mistakes are one
        int(k): stats.compare_arms(
            {"a": [1.0] * int(k) + [0.0] * (n - int(k)), "b": [1.0] * n},
            "b", better="higher", margin=0.05, tests=stats.BOOTSTRAP,
        )[0]
        for k in set(right)
    }  # fmt: skip
    assert sum(studies[int(k)].verdict == "equivalent" for k in right) / 400 <= 0.07
    (same,) = stats.compare_arms(
        {"a": [1.0] * n, "b": [1.0] * n}, "b", better="higher", margin=0.05, tests=stats.BOOTSTRAP
    )
    assert same.p_equivalence == pytest.approx(0.95**n)
    assert same.verdict == ("equivalent" if n == 60 else "inconclusive")
    assert n + (same.further or 0) == max(n, 59)  # 0.95 ** 59 < 0.05 <= 0.95 ** 58


def test_detectable_difference_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(12)
    effect = stats.detectable_difference(0.03, 8)
    found = sum(stats.two_sided_p(rng.normal(effect, 0.03, 8).tolist()) <= ALPHA for _ in range(3000))
    assert 0.77 < found / 3000 < 0.85


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_fewer_than_five_replicates_are_too_few_and_the_verdict_says_how_many_more(n: int) -> None:
    values = {"a": [1.0] * n, "b": [2.0] * n}
    (c,) = stats.compare_arms(values, "b", better="lower")
    assert (c.verdict, c.p, c.p_equivalence, c.further) == ("too few", None, None, 5 - n)
    assert words.verdict(vars(c), "seed") == f"too few seeds ({5 - n} more)"
    (lossy,) = stats.compare_arms(values, "b", better="lower", refused={"a": "1% is lost"})
    assert (lossy.verdict, lossy.further) == ("loses text", None)


def test_five_replicates_have_a_verdict_and_the_margin_is_one_percent() -> None:
    base = [2.0, 2.1, 1.9, 2.05, 1.95]
    (near,) = stats.compare_arms({"a": [0.993 * b for b in base], "b": base}, "b", better="lower")
    (far,) = stats.compare_arms({"a": [0.987 * b for b in base], "b": base}, "b", better="lower")
    assert (near.verdict, far.verdict) == ("equivalent", "better") and near.margin == pytest.approx(0.02)


def test_equal_and_constant_differences() -> None:
    (same,) = stats.compare_arms({"a": [1.0, 1.5, 2.0, 1.2, 1.1], "b": [1.0, 1.5, 2.0, 1.2, 1.1]}, "b", better="lower")
    assert same.verdict == "equivalent" and same.difference == 0
    (certain,) = stats.compare_arms(
        {"a": [0.8, 1.3, 1.8, 0.9, 1.9], "b": [1.0, 1.5, 2.0, 1.1, 2.1]}, "b", better="lower"
    )
    assert certain.verdict == "better"
    assert certain.improved == 5
    (zeros,) = stats.compare_arms({"a": [0.0] * 5, "b": [0.0] * 5}, "b", better="lower")
    assert zeros.verdict == "equivalent" and zeros.relative is None


def test_negative_metrics_keep_their_direction() -> None:
    """Log-probabilities are below zero; higher is still better, and the margin is still a share of the size."""
    base = [-2.0, -2.1, -1.9, -2.05, -1.98]
    (c,) = stats.compare_arms({"a": [b + 0.5 + 0.01 * i for i, b in enumerate(base)], "b": base}, "b", better="higher")
    assert c.verdict == "better" and c.margin == pytest.approx(0.01 * np.mean(np.abs(base)))
    (close,) = stats.compare_arms({"a": [b + 1e-5 * i for i, b in enumerate(base)], "b": base}, "b", better="higher")
    assert close.verdict == "equivalent"


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(SpecError, match="baseline: 'c' is not one of the arms a, b"):
        stats.compare_arms({"a": [1.0], "b": [1.0]}, "c", better="lower")
    with pytest.raises(SpecError, match="margin: must be above 0"):
        stats.compare_arms({"a": [1.0], "b": [1.0]}, "b", better="lower", margin=0)
    with pytest.raises(SpecError, match="a: has 2 replicates and b has 1"):
        stats.compare_arms({"a": [1.0, 2.0], "b": [1.0]}, "b", better="lower")
    with pytest.raises(SpecError, match="not finite"):
        stats.compare_arms({"a": [math.nan], "b": [1.0]}, "b", better="lower")
