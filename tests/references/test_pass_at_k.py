"""pass@k against exact rational numbers, and its intervals."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from llmanac.core.errors import DataError, SpecError
from llmanac.core.registry import build
from llmanac.metrics.pass_at_k import counts, estimates, pass_at_k


def test_estimate_equals_the_rational_number():
    cases = [(n, c, k) for n in (1, 2, 7, 40, 200) for c in range(0, n + 1, max(1, n // 7)) for k in (1, 2, 5, 10, 100)]
    checked = 0
    for n, c, k in cases:
        if k <= n:
            exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
            assert abs(estimates([n], [c], k)[0] - float(exact)) < 1e-12
            checked += 0 < exact < 1
    assert checked > 30
    assert estimates([200], [100], 10)[0] != pytest.approx(1 - 0.5**10, abs=1e-5)  # the biased estimate


def test_the_mean_is_without_bias_and_has_an_interval():
    rng = np.random.default_rng(0)
    chances = rng.beta(0.5, 0.5, 300)
    passed = rng.binomial(20, chances)
    found = pass_at_k(np.full(300, 20), passed, 5)
    low, high = found.interval()
    assert low < np.mean(1 - (1 - chances) ** 5) < high and high - low < 0.15
    names, totals, right = counts([("b", True), ("a", False), ("b", False), ("b", True)])
    assert (names, totals.tolist(), right.tolist()) == (["b", "a"], [3, 1], [2, 0])


def test_too_few_samples_are_named():
    with pytest.raises(DataError, match=r"problem 2: 1 of 3 samples passed; pass@5 needs 5"):
        build("metric", "pass-at-k", k=5)([9, 3], [2, 1])
    with pytest.raises(DataError, match="problem 1"):
        pass_at_k([2], [3], 1)
    with pytest.raises(SpecError, match="k"):
        build("metric", "pass-at-k", k=0)
