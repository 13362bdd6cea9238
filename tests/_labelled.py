"""Labelled texts that the tests of classifiers share: SST-2 where it is at hand, and small sets made from templates."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import pytest

from llmanac.data.labelled import Labelled, read_labelled

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def data_folder() -> Path:
    """The folder of real data, or a skip that says what to do."""
    named = os.environ.get("LLMANAC_SHARED_DATA")
    path = Path(named) if named else BESIDE
    if not (path / "sst2").is_dir():
        pytest.skip(f"needs SST-2 in {path / 'sst2'}; set LLMANAC_SHARED_DATA to the folder of benchmark data")
    return path


def sst2(split: str) -> Labelled:
    return read_labelled(data_folder() / "sst2" / f"stsa.binary.{split}")


GOOD, BAD = ("good", "great", "charming", "funny"), ("bad", "awful", "boring", "stupid")
THINGS = ("film", "story", "ending", "cast", "music", "plot")


def easy() -> tuple[list[str], list[str]]:
    """48 texts whose label one word says."""
    texts = [f"the {thing} is {word}" for thing, word in product(THINGS, GOOD + BAD)]
    return texts, ["neg" if text.split()[-1] in BAD else "pos" for text in texts]


def denied() -> tuple[list[str], list[str]]:
    """96 texts: a verdict, or its denial, which turns the label around. No sum over words gets more than half right."""
    texts, labels = [], []
    for thing, word, denial in product(THINGS, GOOD + BAD, ("", "not ")):
        texts.append(f"the {thing} is {denial}{word}")
        labels.append("pos" if (word in GOOD) != bool(denial) else "neg")
    return texts, labels


def accuracy(classifier, texts, labels) -> float:
    return sum(a == b for a, b in zip(classifier.predict(texts), labels, strict=True)) / len(labels)
