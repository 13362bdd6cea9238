"""What a benchmark's question is worth to two pretrained models: the same items with it and without it.

SmolLM2-135M-Instruct (Q4_1) and Qwen2.5-Coder-0.5B-Instruct (Q4_K_M; its header says that it was made from AWQ weights)
answered items at equal distances from each benchmark's file. Choices are scored by the file's numbers in float32,
answers are written greedily with activations in 8 bits. Of 10 pairs of a model and a benchmark {pairs} are made so far.
`LLMANAC_SHARED_DATA` names the folder of the files; DROP's are its contrast sets, which are asked through the chat
template. Each item is asked twice: as it is, and with the context of HellaSwag's endings, PIQA's goal, MMLU's question
(also of its five examples) or the passage of SQuAD and DROP left out. The difference is paired over items; its interval
is clustered by subject or passage where items share one.

- The question raises the score beyond the interval in {settled} of {pairs} pairs of a model and a benchmark: {gains}.
- Artefacts: from the choices alone, without the question, {blind}. What is above chance there is no knowledge of the
  question, and a score is to be read from that line on.
- Chance: with the question, {shown}.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks._corpora import needed_data
from evidence._pretrained import needed
from evidence.evaluation import SETS as PROMPTS
from evidence.evaluation import Made, main_metric, spread
from llmanac.core.pages import Section, table
from llmanac.evaluate._benchmark_rows import BenchmarkItem, items_of
from llmanac.evaluate.answering import load_local
from llmanac.evaluate.evaluation import Evaluation, evaluate
from llmanac.evaluate.load import load_benchmark
from llmanac.metrics.statistics.estimates import paired

ROWS = ("benchmark/hellaswag", "benchmark/piqa", "benchmark/mmlu", "benchmark/squad", "benchmark/drop", "use/answer")
CLAIM = "with its question a benchmark is answered better than without it, and some of the score is there without it"
ARMS = ("the prompt as it is", "the question, goal, context or passage left out")
METRIC = "accuracy (normalised for HellaSwag and PIQA), F1 for SQuAD and DROP; paired difference over items"
MARGIN = "0.01 of the metric; the 95% interval of the difference lies beyond it"
SEEDS, REPLICATE = 1, "model: its items are the replicates"
SETS = {"hellaswag": 400, "piqa": 400, "mmlu": 285, "squad": 200, "drop": 200}  # items for the smaller model
TOGETHER = {"mmlu": 5}  # neighbors, which share their examples
HALF = {"smollm2": 1, "qwen": 2}  # the larger model reads at a third of the rate: a part of the items
CHAT = ("drop",)
CHANCE = {"hellaswag": 0.25, "piqa": 0.5, "mmlu": 0.25}
PIECES = tuple(f"{model}_{name}" for model in HALF for name in SETS)
PARTIAL = True


def measure(seed: int, size: str, piece: str = "") -> dict[str, Any]:
    if size == "small":
        items = [BenchmarkItem(f"{i}", "x" * i, ("yes", "no way", "a" * (i % 4 + 1)), (i % 3,)) for i in range(12)]
        blind = [replace(item, prompt="") for item in items]
        own = load_benchmark("hellaswag")[1]
        return {PIECES[0]: both(*(evaluate(Made(), "hellaswag", some, own) for some in (items, blind)))}
    (model, name), data = piece.split("_"), needed_data()
    torch.set_num_threads(1)
    answerer = load_local(str(needed(model)), device="cpu", runner="native")
    own = load_benchmark(name)[1]
    hidden = replace(own, prompt=str(PROMPTS[name][1]))
    found = []
    for way in (own, hidden):
        items = items_of(way, data)
        places = spread(len(items), SETS[name] // HALF[model], TOGETHER.get(name, 1))
        found.append(evaluate(answerer, name, [items[i] for i in places], way, chat=name in CHAT))
    return both(*found)


def of(piece: str) -> str:
    """The benchmark of a piece."""
    return piece.partition("_")[2]


def both(shown: Evaluation, hidden: Evaluation) -> dict[str, Any]:
    """The scores of either, of each item, and their paired difference."""
    metric = main_metric(shown)
    one, two = ([v.scores.get(metric, 0.0) for v in found.verdicts] for found in (shown, hidden))
    clusters = [item.cluster for item in shown.items]
    gain = paired(one, two, None if clusters[0] is None else clusters)
    rows = {"metric": metric, "items": len(one), "gain": [gain.mean, gain.low, gain.high]}
    for name, found, values in (("shown", shown, one), ("hidden", hidden, two)):
        score = next(s for s in found.scores if s.metric == metric)
        rows |= {name: [score.value, score.low, score.high], f"{name}_items": [round(v, 3) for v in values]}
    return rows


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    rows = [
        [piece, f"{row['items']:,}", row["metric"], *(f"{row[way][0]:.3f} ({row[way][1]:.3f} to {row[way][2]:.3f})"
         for way in ("shown", "hidden")), f"{CHANCE[of(piece)]:.2f}" if of(piece) in CHANCE else "",
         "{:+.3f} ({:+.3f} to {:+.3f})".format(*row["gain"])]
        for piece, row in seeds[0].items()
    ]  # fmt: skip
    head = ["model, benchmark", "items", "metric", "shown, 95%", "hidden, 95%", "chance", "gain, 95%"]
    return [Section("Scores with and without the question", [], [table(head, rows)])]


def against_chance(found: dict[str, Any], way: str) -> str:
    return ", ".join(
        f"{piece} {row[way][0]:.2f} ({row[way][1]:.2f} to {row[way][2]:.2f}; chance {CHANCE[of(piece)]:.2f})"
        for piece, row in found.items() if of(piece) in CHANCE
    )  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = seeds[0]
    return {
        "pairs": len(found), "settled": sum(row["gain"][1] > 0 for row in found.values()),
        "gains": ", ".join(
            "{} {:+.2f} ({:+.2f} to {:+.2f})".format(piece, *row["gain"]) for piece, row in found.items()
        ),
        "blind": against_chance(found, "hidden"), "shown": against_chance(found, "shown"),
    }  # fmt: skip
