"""Accuracy, F1, multiple choice, standard errors and power against sklearn, lm-eval and written-out formulas."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from lm_eval.api.metrics import mean_stderr
from sklearn import metrics as sklearn

from llmanac.core.errors import DataError
from llmanac.core.registry import build
from llmanac.metrics.multiple_choice import chosen
from llmanac.metrics.statistics.estimates import detectable_effect, estimate, items_needed, paired, standard_error


@pytest.mark.parametrize("labels", [2, 5])
def test_scores_equal_sklearn(labels):
    rng = np.random.default_rng(labels)
    truth, given = (rng.choice([f"label {i}" for i in range(labels)], 60, p=None).tolist() for _ in range(2))
    given = [t if rng.random() < 0.5 else g for t, g in zip(truth, given, strict=True)]
    given[0] = "never there"
    found = build("metric", "accuracy")(truth, given)
    assert found.accuracy == sklearn.accuracy_score(truth, given)
    assert found.macro_f1 == pytest.approx(sklearn.f1_score(truth, given, average="macro", zero_division=0), abs=1e-12)
    assert found.standard_error == pytest.approx(
        mean_stderr([float(a == b) for a, b in zip(truth, given, strict=True)])
    )
    precision, recall, f1, support = sklearn.precision_recall_fscore_support(
        truth, given, labels=found.labels, zero_division=0
    )
    for i, label in enumerate(found.labels):
        expected = {"precision": precision[i], "recall": recall[i], "f1": f1[i], "support": support[i]}
        assert found.of(label) == pytest.approx(expected)
    low, high = found.interval
    assert low < found.accuracy < high and found.macro_f1 != found.accuracy


def test_choices_equal_lm_eval():
    """lm-eval's rules, as its `process_results` writes them."""
    rng = np.random.default_rng(0)
    texts = [["yes", "no, never", "ñandú ñandú", "maybe so"][: rng.integers(2, 5)] for _ in range(50)]
    sums = [rng.normal(-10, 5, len(row)) for row in texts]
    alone = [rng.normal(-10, 5, len(row)) for row in texts]
    rules = {
        "text": lambda row, t, u: row,
        "character": lambda row, t, u: row / np.array([float(len(x)) for x in t]),
        "byte": lambda row, t, u: row / np.array([float(len(x.encode())) for x in t]),
        "mutual": lambda row, t, u: row - u,
    }
    seen = {}
    for per, rule in rules.items():
        seen[per] = chosen(sums, texts, per, alone)
        assert seen[per].tolist() == [int(np.argmax(rule(*row))) for row in zip(sums, texts, alone, strict=True)]
    assert len({tuple(found) for found in seen.values()}) == 4
    golds = rng.integers(0, 2, 50)
    found = build("metric", "acc-norm")(sums, texts, golds)
    assert found.value == np.mean(seen["character"] == golds)
    assert chosen([[1.0, 1.0]], [["a", "b"]]).tolist() == [0]
    with pytest.raises(DataError, match="item 2"):
        chosen([[1.0], []], [["a"], []])


def test_clustered_errors_equal_the_formula():
    rng = np.random.default_rng(1)
    clusters = rng.integers(0, 12, 80)
    scores = (rng.normal(size=12)[clusters] + rng.normal(size=80) > 0).astype(float)
    mean, n = scores.mean(), len(scores)
    pairs = sum(
        (scores[i] - mean) * (scores[j] - mean)
        for i, j in itertools.permutations(range(n), 2)
        if clusters[i] == clusters[j]
    )
    plain = mean_stderr(scores.tolist())
    assert standard_error(scores) == pytest.approx(plain, rel=1e-12)
    expected = math.sqrt(plain**2 + pairs / n**2)
    found = estimate(scores, clusters)
    assert found.standard_error == pytest.approx(expected, rel=1e-12) and expected > 1.3 * plain
    assert found.clusters == len(set(clusters)) and found.high - found.mean == pytest.approx(1.959964 * expected)
    assert standard_error(scores, range(n)) == pytest.approx(plain)


def test_pairs_say_more_than_two_means_and_power_is_as_promised():
    rng = np.random.default_rng(2)
    ease = rng.normal(size=400)
    one, two = ((ease + shift + 0.3 * rng.normal(size=400) > 0).astype(float) for shift in (0.2, 0.0))
    found = paired(one, two)
    assert found.mean == pytest.approx(one.mean() - two.mean())
    assert found.standard_error < 0.7 * math.hypot(standard_error(one), standard_error(two))
    effect = detectable_effect(0.02)
    normal = NormalDist()
    assert normal.cdf(effect / 0.02 - normal.inv_cdf(0.975)) == pytest.approx(0.8)  # the chance to find it
    assert items_needed(effect, 0.02, 500) == 500 and items_needed(effect / 2, 0.02, 500) == 2000
    assert found.detectable == detectable_effect(found.standard_error)


def test_what_has_no_error_is_named():
    for wrong, message in (([1.0], "at least two"), ([1.0, math.nan], "finite")):
        with pytest.raises(DataError, match=message):
            standard_error(wrong)
    with pytest.raises(DataError, match="3 names for 2"):
        standard_error([0, 1], [1, 1, 1])
    with pytest.raises(DataError, match="same items"):
        paired([1, 2], [1, 2, 3])
    with pytest.raises(DataError, match="must not be 0"):
        items_needed(0, 0.1, 5)
