"""ROUGE against rouge-score, to the last digit."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer

from llmanac.core.errors import DataError, SpecError
from llmanac.core.registry import build
from llmanac.metrics import rouge as module
from llmanac.metrics import stem
from llmanac.metrics.rouge import TYPES, rouge

KINDS = (*TYPES, "rouge3")
PARTS = ("running", "runs", "İK", "Σ", "...", "\n", "a", "b", "ab", "é", "ponies", "relational", "yyyy", "\n\n", "the")


def texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(PARTS, k=rng.randint(0, 40))) for _ in range(count)]


@pytest.mark.parametrize("stemmer", ["none", "porter"])
def test_scores_equal_rouge_score(stemmer):
    mine, theirs = [*texts(150, 0), "", "a", "\n\n"], [*texts(150, 1), "a", "", "x"]
    long = random.Random(2).choices(PARTS[6:10], k=400)
    mine, theirs = [*mine, " ".join(long[:130])], [*theirs, " ".join(long[100:])]
    scorer = RougeScorer(KINDS, use_stemmer=stemmer == "porter")
    expected = [scorer.score(target, text) for text, target in zip(mine, theirs, strict=True)]
    found = rouge(mine, theirs, types=KINDS, stemmer=stemmer).scores
    for kind in KINDS:
        np.testing.assert_array_equal(found[kind], [tuple(row[kind]) for row in expected])
    other = rouge(mine, theirs, types=KINDS, stemmer="none" if stemmer == "porter" else "porter").scores
    assert abs(other["rouge1"] - found["rouge1"]).max() > 0.1


def test_of_several_references_the_best_counts():
    rng = random.Random(3)
    mine, theirs = texts(60, 4), [texts(rng.randint(1, 4), seed) for seed in range(60)]
    scorer = RougeScorer(TYPES)
    expected = [scorer.score_multi(targets, text) for text, targets in zip(mine, theirs, strict=True)]
    found = build("metric", "rouge")(mine, theirs)
    for kind in TYPES:
        np.testing.assert_array_equal(found.scores[kind], [tuple(row[kind]) for row in expected])
    measured = found.measured("rougeL")
    low, high = measured.interval()
    assert low < measured.value < high and measured.value == pytest.approx(found.scores["rougeL"][:, 2].mean())


def test_summaries_equal_rouge_score(shared_data):
    with open(shared_data / "rouge" / "cnn_dailymail_tldr.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:12]
    mine = [row["completion"].replace(". ", ".\n") for row in rows]
    theirs = [row["prompt"].replace(". ", ".\n")[:1500] for row in rows]
    scorer = RougeScorer(TYPES, use_stemmer=True)
    expected = [scorer.score(target, text) for text, target in zip(mine, theirs, strict=True)]
    found = rouge(mine, theirs, stemmer="porter").scores
    for kind in TYPES:
        np.testing.assert_array_equal(found[kind], [tuple(row[kind]) for row in expected])


def test_stems_equal_nltk():
    rng, porter = random.Random(5), PorterStemmer()
    ends = (
        "s sses ies ss ied eed ed ing at bl iz y ational tional enci anci izer bli alli entli eli ousli ization ation "
    )
    ends += "ator alism iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness "
    ends += "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize e ll"
    words = [
        "".join(rng.choices("aeiouybcdlnstzgr", k=rng.randint(0, 5))) + rng.choice(ends.split()) for _ in range(8000)
    ]
    words += ["skies", "dying", "howe", "yyyyyy", "oed", "syzygy", "flies", "news", "enjoyment", "y" * 3000]
    assert [stem(word) for word in words] == [porter.stem(word) for word in words]


def test_what_cannot_be_scored_is_named(monkeypatch):
    with pytest.raises(SpecError, match="rouge0"):
        build("metric", "rouge", types=("rouge0",))
    with pytest.raises(DataError, match="2 hypotheses but 1 rows"):
        rouge(["a", "b"], ["a"])
    with pytest.raises(DataError, match="row 2: has no reference"):
        rouge(["a", "b"], ["a", []])
    with pytest.raises(DataError, match="row 1: the hypothesis is None"):
        rouge([None], ["a"])
    with pytest.raises(DataError, match="nothing to score"):
        rouge([], [])
    monkeypatch.setattr(module, "MOST_TABLE", 1000)
    with pytest.raises(DataError, match="row 2: its texts are too long for rougeLsum"):
        rouge(["a", "a " * 99], ["a", "b " * 99])
