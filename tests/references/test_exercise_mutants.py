"""Hidden tests tell a solution from itself with one operator, comparison, number or function changed."""

from __future__ import annotations

import math

import pytest

from evidence._mutants import outcomes
from llmanac.guide.exercise import exercises

LEAST, LEAST_EACH = 0.99, 0.6  # of all mutants, and of those of one exercise


@pytest.mark.slow  # each exercise has a mistake of its own that every run of the tests looks for
def test_hidden_tests_find_mutants():
    outcome = outcomes(exercises())
    total, left = sum(count for count, _ in outcome.values()), sum(len(left) for _, left in outcome.values())
    print(f"{total - left} of {total} found")
    for name, (count, lines) in outcome.items():
        print(f"{name}: {count - len(lines)} of {count}", *lines, sep="\n    ")
    assert total > 1300 and left <= (1 - LEAST) * total
    assert all(count >= 3 and math.ceil(LEAST_EACH * count) <= count - len(lines) for count, lines in outcome.values())
