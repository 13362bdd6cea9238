"""The measurements behind the claims about classifiers do what they say on small sets."""

from __future__ import annotations

import json

import numpy as np
import pytest
from _labelled import easy, sst2

from evidence import _claims as claims
from llmanac.core import registry
from llmanac.data.labelled import Labelled
from llmanac.lab.slices import sentiment_slices
from llmanac.lab.trials.classifying import sample

pytestmark = pytest.mark.usefixtures("one_thread")


def test_word_neighbours_of_cbow_beat_one_hot_on_a_list_of_similar_words():
    train = sst2("train")
    cbow = registry.build("classifier", "cbow").fit(train.texts, train.labels)
    vectors, numbers = cbow.word_vectors(), cbow.vocabulary.numbers
    found = claims.similarity(lambda word: vectors[numbers[word]] if word in numbers else None)
    one_hot = claims.similarity(claims.one_hot_vectors())
    assert one_hot["ranked_right"] == one_hot["against_opposed"] == 0.5
    assert found["ranked_right"] > 0.55 and found["against_opposed"] > 0.6


def test_slices_are_balanced_and_their_parts_differ():
    found = sentiment_slices(["0", "1"])
    assert [one.name for one in found] == ["conjugation", "synonyms", "negation", "metaphor", "german"]
    for one in found:
        for part in ("plain", "changed"):
            labels = [label for own, _, label in one.items if own == part]
            assert labels.count("0") == labels.count("1") >= 6
        assert not set(one.texts("plain")) & set(one.texts("changed"))


def test_the_exclusive_or_is_one():
    """Every word is in as many texts of either label."""
    for part in claims.exclusive_or():
        for word in {word for text in part.texts for word in text.split()}:
            having = [label for text, label in zip(part.texts, part.labels, strict=True) if word in text.split()]
            assert having.count("0") == having.count("1"), word


def test_samples_are_nested_and_miss_no_label():
    labels = ["a"] * 50 + ["b"] * 50 + ["c"]
    small, large = sample(labels, 5, 1), sample(labels, 60, 1)
    assert list(large[:5]) == list(small) and {labels[i] for i in small} == {"a", "b", "c"}
    assert len(set(large.tolist())) == 60 and list(sample(labels, 60, 2)) != list(large)


def test_a_linear_probe_finds_what_is_linear():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 5))
    labels = ["1" if row[0] - row[1] > 0.2 else "0" for row in x]
    half = [Labelled([""] * 200, labels[i : i + 200], list(range(200))) for i in (0, 200)]
    assert claims.linear_probe(x[:200], half[0], x[200:], half[1], rows=200, seed=0) > 0.95
    noise = generator.normal(size=(400, 5))
    assert claims.linear_probe(noise[:200], half[0], noise[200:], half[1], rows=200, seed=0) < 0.7


def test_rare_words_are_counted_by_how_often_they_were_shown():
    texts, labels = easy()
    train = Labelled([*texts, "a superb thing", "a dreadful thing"], [*labels, "pos", "neg"], [0] * 50)
    bow = registry.build("classifier", "bow").fit(train.texts, train.labels)
    found = claims.rare_words(bow, train)
    assert found["1"] == {"words": 2, "right": 1.0} and json.dumps(found)
