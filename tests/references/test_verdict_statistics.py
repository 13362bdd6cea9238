"""The statistics of a verdict: equal to scipy's, statsmodels' and scikit-learn's; how often they err, counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from llmanac.evaluate.verdict import decide
from llmanac.evaluate.verdict.aggregates import AGGREGATES, lower_is_better, measured, statistics_of
from llmanac.metrics.significance import significance
from llmanac.metrics.statistics import estimates as statistics

NULLS = 2000  # pairs of systems without a difference, or with one beyond the margin
SPLITS = 500  # of each of the four kinds of scores


def column(values):
    return np.asarray(values, np.float64)[:, None]


def right_or_wrong(count, seed, better=0.05):
    draw = np.random.default_rng(seed)
    hard = draw.random(count)
    return [(0.6 * hard + 0.4 * draw.random(count) < skill).astype(float) for skill in (0.5, 0.5 + better)]


def test_mcnemar_equals_scipy_and_statsmodels():
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for improved, worsened in [(0, 0), (1, 0), (5, 5), (12, 3), (300, 251), (4000, 3801), (0, 40)]:
        p = statistics.mcnemar_p(improved, worsened)
        total = improved + worsened
        assert p == pytest.approx(scipy.stats.binomtest(improved, total).pvalue if total else 1.0, rel=1e-9)
        if total:
            table = [[10, improved], [worsened, 20]]
            assert p == pytest.approx(min(1.0, tables.mcnemar(table, exact=True).pvalue), rel=1e-9)


def test_a_comparison_of_right_and_wrong_is_mcnemars():
    one, two = right_or_wrong(300, 0)
    found = decide.compare(column(two), column(one), "acc")
    assert found.test == "McNemar, exact"
    assert (found.improved, found.worsened) == (int((two > one).sum()), int((two < one).sum()))
    assert found.p == pytest.approx(scipy.stats.binomtest(found.improved, found.improved + found.worsened).pvalue)
    interval = scipy.stats.ttest_rel(two, one).confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.value == two.mean() and found.baseline_value == one.mean()


def test_means_equal_scipys_paired_t():
    draw = np.random.default_rng(3)
    one = draw.gamma(2.0, size=80)
    for shift in (0.0, 0.1, 0.4):
        two = one + draw.normal(shift, 0.5, 80)
        found, theirs = decide.compare(column(two), column(one), "score"), scipy.stats.ttest_rel(two, one)
        assert found.test == "t" and found.p == pytest.approx(theirs.pvalue, rel=1e-9)
        assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_few_items_are_tested_by_all_signs():
    draw = np.random.default_rng(4)
    for count in (5, 8, 11):
        one, two = draw.normal(size=count), draw.normal(0.6, size=count)
        found = decide.compare(column(two), column(one), "score")
        theirs = scipy.stats.permutation_test(
            (two - one,), np.mean, permutation_type="samples", n_resamples=math.inf, vectorized=True
        )  # all signs: of a single sample scipy flips signs
        assert found.test == "all signs, exact" and found.p == pytest.approx(theirs.pvalue, abs=2 / 2**count)
    assert decide.compare(column([1, 1, 0, 1]), column([0, 0, 0, 0]), "score").verdict == "too few"
    assert decide.compare(column([1]), column([0]), "score").verdict == "too few"


def test_groups_equal_the_t_test_of_their_means_and_the_jackknife():
    draw = np.random.default_rng(5)
    equal = np.repeat(np.arange(60), 4)
    differences = draw.normal(size=60)[equal] + draw.normal(size=len(equal)) + 0.2
    found = decide.compare(column(differences), column(0 * differences), "score", groups=equal)
    theirs = scipy.stats.ttest_1samp(differences.reshape(60, 4).mean(1), 0)
    assert (found.groups, found.test) == (60, "t over groups")
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(theirs.confidence_interval(), rel=1e-9)
    groups = np.repeat(np.arange(60), draw.integers(1, 9, 60))
    differences = draw.normal(size=60)[groups] + draw.normal(size=len(groups)) + 0.2
    found = decide.compare(column(differences), column(0 * differences), "score", groups=groups)
    without = np.array([differences[groups != group].mean() for group in range(60)])
    error = np.sqrt(((without - differences.mean()) ** 2).sum() * 59 / 60)
    free = len(groups) ** 2 / (np.bincount(groups) ** 2).sum() - 1
    assert found.standard_error == pytest.approx(error, rel=1e-9) and 40 < free < 59
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(differences.mean() / error, free), rel=1e-9)
    alone = decide.compare(column(differences), column(0 * differences), "score")
    assert found.standard_error > 1.2 * alone.standard_error
    each = decide.compare(column(differences), column(0 * differences), "score", groups=np.arange(len(groups)))
    assert each == alone  # a group an item is none


@pytest.mark.parametrize("sizes", [[100] + [1] * 39, [50, 50] + [1] * 40, [400 // n for n in range(1, 58)]])
def test_a_group_with_most_items_is_one_observation(sizes):
    """Of systems that are equally good: false verdicts, alone and as one benchmark of two."""
    draw, groups = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    false, beyond, same_differences = 0, 0, np.zeros(len(groups))
    same = decide.compare(column(same_differences), column(same_differences), "score", groups=groups)
    for _ in range(400):
        differences = 0.7 * draw.normal(size=len(sizes))[groups] + 0.7 * draw.normal(size=len(groups))
        one = decide.compare(column(differences), column(0 * differences), "score", groups=groups)
        false += one.verdict != "inconclusive"
        both = decide.overall([(one, differences, groups), (same, same_differences, groups)], None)
        beyond += not both.low < 0 < both.high
    assert false / 400 <= 0.08 and beyond / 400 <= 0.08


def test_equivalence_equals_statsmodels():
    weights = pytest.importorskip("statsmodels.stats.weightstats")
    draw = np.random.default_rng(6)
    one = draw.normal(size=200)
    for shift, margin in ((0.0, 0.1), (0.05, 0.1), (0.0, 0.02)):
        two = one + draw.normal(shift, 0.3, 200)
        found = decide.compare(column(two), column(one), "score", margin=margin)
        assert found.p_equivalence == pytest.approx(weights.ttost_paired(two, one, -margin, margin)[0], rel=1e-9)
    assert decide.compare(column(one), column(one), "score", margin=0.1).verdict == "equivalent"


# n items, A always right, B worse than the margin allows: what would be seen is often no difference at all
TOO_FAR = [(5, 0.1, 0.05), (10, 0.05, 0.02), (20, 0.05, 0.04), (50, 0.03, 0.02), (8, 0.41, 0.4), (30, 0.13, 0.1),
           (100, 0.06, 0.05), (400, 0.022, 0.02)]  # fmt: skip


@pytest.mark.parametrize(("count", "rate", "margin"), TOO_FAR)
def test_what_is_too_far_is_rarely_called_equivalent(count, rate, margin):
    draw, found = np.random.default_rng(12), 0
    for _ in range(NULLS):
        lost = (draw.random(count) < rate).astype(float)
        found += decide.compare(column(1 - lost), column(0 * lost + 1), "acc", margin=margin).verdict == "equivalent"
    assert found / NULLS <= 0.06


@pytest.mark.parametrize(("several", "count", "rate", "margin"), [(6, 1, 0.1, 0.05), (3, 50, 0.03, 0.02)])
def test_benchmarks_that_are_too_far_are_rarely_called_equivalent_overall(several, count, rate, margin):
    draw, found = np.random.default_rng(12), 0
    for _ in range(NULLS // 4):
        lost = (draw.random((several, count)) < rate).astype(float)
        parts = [(decide.compare(column(1 - one), column(0 * one + 1), "acc"), -one, None) for one in lost]
        found += decide.overall(parts, margin).verdict == "equivalent"
    assert found / (NULLS // 4) <= 0.06


@pytest.mark.parametrize("grouped", [False, True])
def test_an_equivalence_takes_differences_of_every_size(grouped):
    for several, count in ((1, 8), (3, 1), (3, 4), (20, 2), (2, 300)):
        for size in (0, 0.1, 1, 7, 100):
            for margin in (0.01, 0.5, 1000):
                one = np.zeros((several, count))
                one[0, 0] = size
                groups = np.arange(count) // 2 if grouped else None
                parts = [(decide.compare(column(d), column(0 * d), "score", groups=groups, margin=margin), d, groups)
                         for d in one]  # fmt: skip
                for found in (decide.overall(parts, margin), *(part[0] for part in parts)):
                    assert 0 <= found.p_equivalence <= 1, (several, count, size, margin)


def test_equal_items_are_equivalent_where_they_are_enough():
    for count, same in ((50, False), (250, True)):
        for scale in (1, 100):
            one = scale * (np.arange(count) % 3 > 0)
            found = decide.compare(column(one), column(one), "acc", margin=0.02 * scale)
            assert (found.verdict == "equivalent") == same
    rows = np.array([statistics_of("f1", (int(n % 3 > 0), 1)) for n in range(250)])
    assert decide.compare(rows, rows, "f1", margin=0.02).verdict == "inconclusive"  # the bootstrap has no variance


@pytest.mark.parametrize("metric", ["f1", "mcc"])
@pytest.mark.parametrize(("count", "positive"), [(15, 0.5), (30, 0.5), (60, 0.1), (15, 0.1)])
def test_false_verdicts_on_null_aggregates(metric, count, positive, monkeypatch):
    monkeypatch.setattr(decide, "DRAWS", 100)  # of the interval, which decides nothing here
    monkeypatch.setattr(decide, "significance", lambda *pair: significance(*pair, trials=500))
    counts = np.array([[statistics_of(metric, (gold, said)) for said in (0, 1)] for gold in (0, 1)])
    draw, found = np.random.default_rng(13), 0
    for _ in range(NULLS):
        gold = (draw.random(count) < positive).astype(int)
        pair = [counts[gold, np.where(draw.random(count) < 0.8, gold, 1 - gold)] for _ in range(2)]
        found += decide.compare(*pair, metric).verdict in ("better", "worse")
    assert found / NULLS <= 0.06


def test_equal_scores_of_every_aggregate_are_no_difference():
    values = {"mcc": (1, 1), "f1": (1, 0), "bleu": ("a b c d e", "a b c d f"), "chrf": ("a b", "a c"),
              "perplexity": -2.0, "word_perplexity": (-9.0, 5), "byte_perplexity": (-9.0, 5),
              "bits_per_byte": (-9.0, 5)}  # fmt: skip
    assert set(values) == set(AGGREGATES)
    for metric, value in values.items():
        rows = np.array([statistics_of(metric, value)] * 40)
        found = decide.compare(rows, rows, metric, higher=not lower_is_better(metric))
        assert (found.difference, found.p, found.verdict) == (0, 1, "inconclusive"), metric


@pytest.mark.parametrize(("several", "count"), [(6, 1), (20, 1), (20, 2), (20, 3), (20, 5), (57, 2), (2, 5)])
def test_false_overall_verdicts_of_small_benchmarks(several, count, monkeypatch):
    monkeypatch.setattr(decide, "significance", lambda *pair: significance(*pair, trials=500))
    draw, found = np.random.default_rng(14), 0
    tie = decide.compare(column(np.zeros(count)), column(np.zeros(count)), "acc")
    for _ in range(NULLS):
        one, two = (draw.random((2, several, count)) < 0.5).astype(float)
        parts = [(decide.replace(tie, difference=float(d.mean())), d, None) for d in two - one]
        found += decide.overall(parts, None).verdict in ("better", "worse")
    assert found / NULLS <= 0.06


def test_an_overall_of_single_items_is_their_sign_test():
    one = column([1.0])
    for right in range(7):
        signs = [1] * right + [-1] * (6 - right)
        parts = [(decide.compare(d * one, 0 * one, "acc"), d * one[:, 0], None) for d in signs]
        found = decide.overall(parts, None)
        assert found.p == pytest.approx(scipy.stats.binomtest(right, 6).pvalue, abs=0.02)
        assert right in (0, 6) or found.low < found.difference < found.high


def test_how_many_more_items_takes_the_family_and_the_least_p_of_all_signs():
    five = decide.compare(column(np.ones(5)), column(np.zeros(5)), "acc")
    assert (five.verdict, five.more) == ("too few", 1)
    six = decide.compare(column(np.ones(6)), column(np.zeros(6)), "acc")
    assert six.verdict == "better"
    lost = decide.adjusted([six, *[decide.compare(column([0, 1] * 3), column([1, 0] * 3), "acc")] * 3])[0]
    assert lost.verdict == "inconclusive" and lost.p == pytest.approx(0.125)
    enough = 6 + lost.more
    again = decide.compare(column(np.ones(enough)), column(np.zeros(enough)), "acc")
    assert decide.adjusted([again, *[lost] * 3])[0].verdict == "better"


def test_holm_over_benchmarks_equals_statsmodels():
    multi = pytest.importorskip("statsmodels.stats.multitest")
    every = [decide.compare(*map(column, right_or_wrong(200, seed, 0.04)[::-1]), "acc") for seed in range(7)]
    theirs = multi.multipletests([one.p for one in every], method="holm")[1]
    assert [one.p for one in decide.adjusted(every)] == pytest.approx(list(theirs))
    assert sum(one.verdict == "better" for one in every) > sum(
        one.verdict == "better" for one in decide.adjusted(every)
    )
    lost = [one for one in decide.adjusted(every) if one.verdict == "inconclusive"]
    assert lost and all(one.more is None or one.more > 0 for one in lost)


def test_aggregates_equal_scikit_learn_and_lm_eval():
    learn = pytest.importorskip("sklearn.metrics")
    theirs = pytest.importorskip("lm_eval.api.metrics")
    draw = np.random.default_rng(7)
    gold = draw.integers(0, 2, 200)
    predicted = np.where(draw.random(200) < 0.7, gold, 1 - gold)
    pairs = [(int(a), int(b)) for a, b in zip(gold, predicted, strict=True)]
    likelihoods = [(-float(a), int(b)) for a, b in zip(draw.gamma(9.0, size=50), draw.integers(3, 30, 50), strict=True)]
    texts = [
        ("the cat sat on the red mat today", f"the cat sat on the {w} mat")
        for w in ["red", "blue", "big", "red", "odd"]
    ]
    cases = {
        "mcc": (pairs, learn.matthews_corrcoef(gold, predicted)), "f1": (pairs, learn.f1_score(gold, predicted)),
        "word_perplexity": (likelihoods, theirs.weighted_perplexity(likelihoods)),
        "byte_perplexity": (likelihoods, theirs.weighted_perplexity(likelihoods)),
        "bits_per_byte": (likelihoods, theirs.bits_per_byte(likelihoods)),
        "perplexity": ([a for a, _ in likelihoods], theirs.perplexity([a for a, _ in likelihoods])),
        "bleu": (texts, theirs.bleu(texts)), "chrf": (texts, theirs.chrf(texts)),
    }  # fmt: skip
    for name, (items, value) in cases.items():
        made = measured(name, np.array([statistics_of(name, one) for one in items]))
        scale = 100 if name == "chrf" and made.value <= 1 else 1
        assert scale * made.value == pytest.approx(value, rel=1e-6), name
    assert statistics_of("acc", 1.0) is None and statistics_of("f1", 0.5) is None  # numbers that are averaged
    assert statistics_of("mcc", (2, 1)) is None
    assert [lower_is_better(n) for n in ("word_perplexity", "bits_per_byte", "brier_score", "acc", "closs")] == [
        True, True, True, False, False
    ]  # fmt: skip


def test_an_aggregate_is_compared_as_a_whole():
    draw = np.random.default_rng(8)
    gold = draw.integers(0, 2, 150)
    systems = [np.where(draw.random(150) < skill, gold, 1 - gold) for skill in (0.7, 0.72, 0.95)]
    rows = [
        np.array([statistics_of("mcc", (int(a), int(b))) for a, b in zip(gold, own, strict=True)]) for own in systems
    ]
    close, apart = (decide.compare(rows[number], rows[0], "mcc", margin=0.05) for number in (1, 2))
    assert close.test == "random swaps" and close.verdict == "inconclusive" and apart.verdict == "better"

    def difference(*chosen):
        return measured("mcc", rows[2][chosen[0]]).value - measured("mcc", rows[0][chosen[0]]).value

    theirs = scipy.stats.bootstrap((np.arange(150),), difference, n_resamples=2000, method="percentile", rng=1,
                                   vectorized=False).confidence_interval  # fmt: skip
    assert (apart.low, apart.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    wide = decide.compare(
        np.repeat(rows[2], 2, 0), np.repeat(rows[0], 2, 0), "mcc", groups=np.repeat(np.arange(150), 2)
    )
    assert wide.standard_error == pytest.approx(apart.standard_error, rel=0.1)  # each item twice adds nothing
    worse = decide.compare(rows[0], rows[2], "mcc")
    assert worse.verdict == "worse" and worse.improved == apart.worsened


def test_lower_is_better_turns_the_verdict():
    one, two = right_or_wrong(300, 0, 0.2)
    assert decide.compare(column(two), column(one), "nll", higher=False).verdict == "worse"
    assert decide.compare(column(two), column(one), "acc").verdict == "better"


def kinds(seed):
    """Scores of two systems that are equally good, in four kinds: (scores, scores, groups)."""
    draw = np.random.default_rng(seed)
    count = (200, 12, 60, 200)[seed % 4]
    hard = draw.random(count)
    if seed % 4 == 0:
        pair = [(0.6 * hard + 0.4 * draw.random(count) < 0.5).astype(float) for _ in range(2)]
    elif seed % 4 == 1:
        pair = [hard + draw.standard_t(3, count) for _ in range(2)]
    elif seed % 4 == 2:
        pair = [hard + draw.gamma(0.5, size=count) for _ in range(2)]
    else:
        groups = np.arange(count) // 5
        pair = [draw.normal(size=40)[groups] + draw.normal(size=count) for _ in range(2)]
    swap = draw.random(count) < 0.5 if seed % 4 < 3 else (draw.random(40) < 0.5)[np.arange(count) // 5]
    return np.where(swap, *pair), np.where(swap, *pair[::-1]), np.arange(count) // 5 if seed % 4 == 3 else None


def test_false_verdicts_on_two_thousand_null_splits():
    false = np.zeros(4)
    for seed in range(4 * SPLITS):
        one, two, groups = kinds(seed)
        found = decide.compare(column(two), column(one), "score", groups=groups)
        false[seed % 4] += found.verdict in ("better", "worse")
    assert false.sum() / (4 * SPLITS) <= 0.06
    assert (false / SPLITS <= 0.08).all(), false  # of each kind: 5% and three standard errors


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("kind", ["right or wrong", "numbers"])
def test_power_is_as_predicted(kind, power):
    """Of a true difference that so many items show with this probability, so many verdicts say that it is there."""
    draw, count, trials = np.random.default_rng(9), 600, 1000
    spread = math.sqrt(0.3) if kind == "right or wrong" else 1.0  # of an item's difference
    effect = statistics.detectable_effect(spread / math.sqrt(count), power=power)
    found = 0
    for _ in range(trials):
        if kind == "right or wrong":  # 30% of the items differ
            differences = draw.choice([1.0, -1.0, 0.0], count, p=[0.15 + effect / 2, 0.15 - effect / 2, 0.7])
            pair = (differences == 1).astype(float), (differences == -1).astype(float)
        else:
            pair = draw.normal(effect, 1.0, count), np.zeros(count)
        found += decide.compare(*map(column, pair), "score").verdict == "better"
    assert abs(found / trials - power) <= 0.05


def test_how_many_more_items_settle_it():
    """What a comparison predicts from its own numbers, for the numbers of the truth."""
    draw = np.random.default_rng(10)
    differences = draw.normal(0.1, 1.0, 200)
    differences += 0.1 - differences.mean()
    found = decide.compare(column(differences), column(0 * differences), "score")
    assert found.verdict == "inconclusive" and found.more is not None
    several = 200 + found.more
    wins = sum(
        decide.compare(column(draw.normal(0.1, differences.std(), several)), np.zeros((several, 1)), "score").verdict
        == "better" for _ in range(500)
    )  # fmt: skip
    assert 0.75 <= wins / 500 <= 0.85


def test_an_overall_difference_equals_a_stratified_bootstrap():
    draw = np.random.default_rng(11)
    sizes = (50, 400, 1000)
    parts = [draw.normal(0.1, 1.0, size) for size in sizes]
    made = [(decide.compare(column(d), column(0 * d), "score"), d, None) for d in parts]
    found = decide.overall(made, margin=None)
    theirs = scipy.stats.bootstrap(
        parts,
        lambda *own, axis=-1: sum(one.mean(axis) for one in own) / 3,
        n_resamples=4000,
        method="percentile",
        rng=2,
    )
    assert found.difference == pytest.approx(np.mean([d.mean() for d in parts]))
    assert found.standard_error == pytest.approx(theirs.standard_error, rel=0.08)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)
    assert found.benchmark == "all" and found.items == sum(sizes)
