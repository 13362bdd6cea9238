"""Studies of long texts: what their verdicts say of made results, and how they judge, draw and choose."""

from __future__ import annotations

import numpy as np
import pytest

from evidence import gold_place, growing_text, needles, retrieval_augmented


def _cells(bytes_of, answer_of):
    return {str(n): {"right": 1.0, "bytes": bytes_of(n), "read": 1.0, "answer": answer_of(n)} for n in (64, 256, 4096)}


def _findings(**arms):
    result = {name: _cells(lambda n: 1000.0, lambda n: 1.0) for name in growing_text.ARMS}
    result["full window"] = _cells(float, float)
    result["window with sinks"]["4096"]["right"] = 0.1
    return growing_text.facts([{**result, **arms}])["findings"].split("\n- ")


def test_a_cost_that_grows_is_not_one_that_hardly_grows():
    said = _findings()
    assert [one.lstrip("- ").split(":")[0] for one in said] == [
        "Holds", "Holds", "Holds", said[3].split(":")[0], "Holds", "Holds",
    ]  # fmt: skip
    assert said[3].startswith("Linear attention is right in 100%")
    for cells, place in (
        (_cells(lambda n: 1000.0 + n, lambda n: 1.0), 4),
        (_cells(lambda n: 1000.0, lambda n: 1.0 + n / 512), 4),
    ):
        assert _findings(retrieval=cells)[place].startswith("Does not hold: retrieval")
    assert _findings(**{"full window": _cells(lambda n: 1000.0, float)})[0].lstrip("- ").startswith("Does not hold")
    middle = _cells(lambda n: 1000.0 + (n == 256), lambda n: 1.0)  # the ends alone are equal
    assert _findings(linear=middle)[2].startswith("Does not hold")


@pytest.mark.parametrize(
    ("ends", "middle", "word"),
    [((24, 24), (12, 36), ": shown."), ((4, 4), (4, 6), ": not shown."), ((2, 24), (30, 36), "the opposite is shown.")],
)
def test_the_middle_is_found_worse_only_where_the_interval_says_so(ends, middle, word):
    assert needles._finding("x", ends, middle).endswith(word)


def test_counts_are_of_prompts_at_the_ends_and_between():
    cells = [
        {"task": task, "depth": depth, "samples": count, "recall": recall}
        for task, depth, count, recall in (
            ("a", 0.0, 6, 1.0), ("a", 1.0, 3, 2 / 3), ("a", 0.5, 6, 1 / 6), ("a", 0.25, 1, 1.0), ("b", 0.5, 9, 1.0)
        )
    ]  # fmt: skip
    assert (needles._counts(cells, "a", True), needles._counts(cells, "a", False)) == ((8, 9), (2, 7))
    found = {"single": {"64": {"0%": 0.0, "50%": 1.0, "100%": 0.0}, "1024": {"0%": 0.25, "50%": 0.5, "100%": 1.0}}}
    assert needles._own_counts(found, True) == (15, 24) and needles._own_counts(found, False) == (6, 12)


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
    assert found["best"] == [0.65, 0.3]
    assert (found["answered"], found["wrongly"]) == (0.5, 0.5)  # none of the first, all of the second
