"""Ratings from preferences against evalica, agreement against sklearn and NLTK."""

from __future__ import annotations

import math

import evalica
import numpy as np
import pytest
from nltk.metrics.agreement import AnnotationTask
from sklearn.metrics import cohen_kappa_score

from llmanac.core.errors import DataError, SpecError
from llmanac.core.registry import build
from llmanac.metrics.agreement import fleiss

PLAYERS = ("a", "b", "c", "d", "e")
WINNERS = {"left": evalica.Winner.X, "right": evalica.Winner.Y, "tie": evalica.Winner.Draw}


def battles(count=400, seed=0):
    """Simulated raters of players whose strengths are 0.0 .. 1.6 in logits; one battle in six is a tie."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        i, j = rng.choice(len(PLAYERS), 2, replace=False)
        won = rng.random() < 1 / (1 + math.exp(0.4 * (i - j)))
        rows.append((PLAYERS[i], PLAYERS[j], "tie" if rng.random() < 1 / 6 else "left" if won else "right"))
    return rows


def columns(rows):
    return [r[0] for r in rows], [r[1] for r in rows], [WINNERS[r[2]] for r in rows]


def test_bradley_terry_equals_evalica():
    rows = battles()
    found = build("metric", "bradley-terry", samples=50)(rows)
    peer = evalica.bradley_terry(*columns(rows), tolerance=1e-13, limit=100_000).scores
    expected = [1000 + 400 * math.log10(peer[name]) for name in found.names]
    np.testing.assert_allclose(found.ratings, expected, atol=1e-6)
    assert [row[0] for row in found.ranking()] == list(PLAYERS)
    assert (found.low < found.ratings).all() and (found.ratings < found.high).all()
    spread = build("metric", "bradley-terry", samples=50)(battles(4000))
    assert (spread.high - spread.low).mean() < 0.5 * (found.high - found.low).mean()
    again = build("metric", "bradley-terry", samples=50)(rows[::-1])
    np.testing.assert_allclose(sorted(again.ratings), sorted(found.ratings), atol=1e-6)  # whatever the order


def test_elo_equals_evalica():
    rows = battles(seed=1)
    for options in ({}, {"k": 32.0, "initial": 1500.0, "scale": 300.0}):
        found = build("metric", "elo", samples=20, **options)(rows)
        peer = evalica.elo(*columns(rows), **options).scores
        np.testing.assert_allclose(found.ratings, [peer[name] for name in found.names], atol=1e-9)
        backwards = build("metric", "elo", samples=0, **options)(rows[::-1])
        assert max(abs(np.sort(backwards.ratings) - np.sort(found.ratings))) > 1e-3  # the order matters
        assert (found.low < found.high).all()


def test_agreement_equals_sklearn_and_nltk():
    rng = np.random.default_rng(2)
    one = rng.integers(0, 4, 80)
    two = np.where(rng.random(80) < 0.6, one, rng.integers(0, 4, 80))
    for weights in ("none", "linear", "quadratic"):
        expected = cohen_kappa_score(one, two, weights=None if weights == "none" else weights)
        assert build("metric", "cohen-kappa", weights=weights)(one, two) == pytest.approx(expected, abs=1e-12)
    several = [[int(x) if rng.random() < 0.5 else int(rng.integers(0, 4)) for _ in range(5)] for x in one]
    task = AnnotationTask([(f"r{r}", f"i{i}", str(v)) for i, row in enumerate(several) for r, v in enumerate(row)])
    chance = ((np.bincount(np.ravel(several)) / np.size(several)) ** 2).sum()
    assert fleiss(several) == pytest.approx(task.pi(), abs=1e-12) and 0 < chance < 1
    # Fleiss 1971's own kind of table, worked out by hand: two items, three raters
    assert fleiss([["x", "x", "y"], ["y", "y", "y"]]) == pytest.approx((2 / 3 - 5 / 9) / (1 - 5 / 9))
    assert math.isnan(fleiss([["x", "x"]])) and build("metric", "agreement")(["a", "b"], ["a", "b"]) == 1


def test_what_cannot_be_rated_is_named():
    rate = build("metric", "bradley-terry", samples=0)
    with pytest.raises(DataError, match=r"row 2: the outcome is 'won'"):
        rate([("a", "b", "left"), ("a", "b", "won")])
    with pytest.raises(DataError, match="row 1: 'a' is compared with itself"):
        rate([("a", "a", "tie")])
    with pytest.raises(DataError, match="there is none"):
        rate([])
    with pytest.raises(DataError, match="nobody around 'b' has both won and lost against those around 'a'"):
        rate([("a", "b", "left"), ("a", "b", "left")])
    with pytest.raises(SpecError, match=r"elo\.k: 0\.0 must be above 0"):
        build("metric", "elo", k=0)
    with pytest.raises(DataError, match="item 2: has 1 ratings"):
        fleiss([["x", "y"], ["x"]])
    with pytest.raises(DataError, match="1 and 2 of them"):
        build("metric", "cohen-kappa")(["a"], ["a", "b"])
