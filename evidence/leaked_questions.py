"""TriviaQA split by contamination: a model that read half of the questions, asked all of them.

SmolLM2-135M-Instruct (Q4_1, its numbers in float32), {questions} questions at equal distances from the file. Of each of
{seeds} draws, half of the questions with their answers were put at random places of WikiText-2's validation text, and
the model was trained on them for {epochs} passes at a rate of {rate}. A search for shared n-grams splits the questions
into those that it finds in that text and the rest. `LLMANAC_SHARED_DATA` names the folder of the files.

- The search found {found} of {leaked} leaked questions and {wrong} others.
- Accuracy on what it found: {before_leaked:.2f} before and {after_leaked:.2f} after training; on the rest
  {before_other:.2f} and {after_other:.2f}. So one model's score depends on which half is asked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from benchmarks._corpora import needed_data
from evidence._pretrained import needed
from evidence.evaluation import EPOCHS, RATE, leak, spread
from llmanac.core.pages import Section, table
from llmanac.evaluate._benchmark_rows import items_of
from llmanac.evaluate.load import load_benchmark
from llmanac.lab.complexity import one_thread

ROWS = ("benchmark/triviaqa",)
CLAIM = "accuracy is split by contamination: what leaked is answered more often than the rest, and was not before"
ARMS = ("questions that are found in the training text", "the others")
METRIC = "accuracy after training less that before, of the found less of the other questions"
MARGIN = "0.01 of the questions"
SEEDS, REPLICATE, QUESTIONS = 5, "draw of what leaked", 80
VERSION = 2  # in 1 the matrices of the file were not trained


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """Accuracy before and after, of what was found and of the rest."""
    if size == "small":
        return {"leaked": sorted(random.Random(seed).sample(range(QUESTIONS), QUESTIONS // 2))}
    data = needed_data("triviaqa", "text")
    items = items_of(load_benchmark("triviaqa")[1], data)
    chosen = [items[i] for i in spread(len(items), QUESTIONS)]
    texts = (data / "text" / "wikitext2_valid.txt").read_text("utf-8").split("\n = ")
    return leak(str(needed()), chosen, texts, seed)


def split(seeds: Sequence[dict[str, Any]]) -> list[float]:
    """Of each draw, how much more accuracy the found questions gained than the others."""
    return [
        (own["after_leaked"] - own["before_leaked"]) - (own["after_other"] - own["before_other"]) for own in seeds
    ]  # fmt: skip


KEYS = ("before_leaked", "after_leaked", "before_other", "after_other")


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    rows = [
        [str(n), f"{own['found']} of {own['leaked']}", f"{own['wrong']}", *(f"{own[key]:.2f}" for key in KEYS)]
        for n, own in enumerate(seeds)
    ]  # fmt: skip
    head = ["draw", "found", "found beside", "found, before", "found, after", "others, before", "others, after"]
    return [Section("Accuracy by draw", [], [table(head, rows)])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "questions": QUESTIONS, "seeds": len(seeds), "epochs": EPOCHS, "rate": RATE,
        **{key: sum(own[key] for own in seeds) for key in ("found", "leaked", "wrong")},
        **{key: fmean(own[key] for own in seeds) for key in KEYS},
    }  # fmt: skip
