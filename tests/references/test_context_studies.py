"""Studies of long texts: what their verdicts say of made results, and how they judge, draw and choose."""

from __future__ import annotations

import numpy as np
import pytest

from evidence import _verdicts, gold_place, needles, retrieval_augmented


@pytest.mark.parametrize(
    ("ends", "middle", "word"),
    [((24, 24), (12, 36), "shown"), ((4, 4), (10, 15), "inconclusive"), ((2, 24), (30, 36), "contradicted")],
)
def test_the_middle_is_found_worse_only_where_the_interval_says_so(ends, middle, word):
    cells = [
        {"task": "a", "depth": depth, "samples": total, "recall": hits / total}
        for depth, (hits, total) in ((0.0, ends), (0.5, middle))
    ]
    found = needles.middle_against_ends([{"cells": cells}], "a")
    assert _verdicts.decide({"kind": "less", "items": True}, found, 0.01)[0] == word
    assert found.n == ends[1] + middle[1]


def test_counts_are_of_prompts_at_the_ends_and_between():
    cells = [
        {"task": task, "depth": depth, "samples": count, "recall": recall}
        for task, depth, count, recall in (
            ("a", 0.0, 6, 1.0), ("a", 1.0, 3, 2 / 3), ("a", 0.5, 6, 1 / 6), ("a", 0.25, 1, 1.0), ("b", 0.5, 9, 1.0)
        )
    ]  # fmt: skip
    assert (needles._counts(cells, "a", True), needles._counts(cells, "a", False)) == ((8, 9), (2, 7))


def test_an_answer_has_the_gold_words_and_not_parts_of_others():
    assert gold_place.holds("It was the Nile.", "nile") and gold_place.holds("In 12 years", "12")
    assert not gold_place.holds("It was juvenile.", "nile") and not gold_place.holds("In 1912.", "12")
    context = "Dr. Ann came. She left in May. It rained?"
    assert gold_place.sentences(context) == ["Dr. Ann came.", "She left in May.", "It rained?"]
    assert [gold_place.passage(context, context.index(word)) for word in ("Dr", "left", "rained")] == (
        gold_place.sentences(context)
    )


def test_a_threshold_is_judged_on_articles_that_did_not_choose_it():
    """Two articles whose best thresholds differ: each is judged at the other's."""
    owners = np.repeat([0, retrieval_augmented.ARTICLE], 4)
    here = np.array([0.45, 0.45, 0.45, 0.45, 0.85, 0.85, 0.85, 0.85])
    gone = np.array([0.2, 0.2, 0.2, 0.2, 0.6, 0.6, 0.6, 0.6])
    found = retrieval_augmented._folds(here, gone, owners)
    assert found["best"] == [0.65, 0.25]  # the least that is best
    assert (found["answered"], found["wrongly"]) == (0.5, 0.5)  # none of the first, all of the second
