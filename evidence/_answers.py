"""What answers and labels show of their metrics: strictness, types of answer, verified solutions, imbalance."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from llmanac.core.spec import make_method
from llmanac.evaluate._benchmark_rows import BenchmarkItem
from llmanac.evaluate._judging import judge_generated
from llmanac.evaluate.evaluation import Evaluation
from llmanac.evaluate.load import load_benchmark
from llmanac.metrics.accuracy import report
from llmanac.metrics.answers import convention
from llmanac.metrics.answers._short import normalise

POSITIVE = (0.5, 0.8, 0.9, 0.95, 0.98)
# how a model may end a right solution of GSM8K; {} is the answer
ENDINGS = ("#### {}", "The answer is {}.", "The answer is \\boxed{{{}}}.", "So it is {} in all, after 2 steps.")


def mean(values: Sequence[Any]) -> float:
    return sum(map(float, values)) / len(values)


def first(item: BenchmarkItem) -> str:
    """An item's first right answer."""
    gold = item.references[0]
    gold = gold if isinstance(gold, str) else ", ".join(gold)
    return gold.rsplit("#### ", 1)[-1]


def endings(items: Sequence[BenchmarkItem]) -> list[dict[str, Any]]:
    """For each way to end a right solution of GSM8K: how often the strict and the flexible rule accept it."""
    out = []
    for form in ENDINGS:
        texts = [str(item.references[0]).rsplit("####", 1)[0] + form.format(first(item)) for item in items]
        row: dict[str, Any] = {"form": form.format("18")}
        for name in ("gsm8k", "gsm8k-flexible"):
            rule = convention(name)
            found = [rule.extract(text) for text in texts]
            row[name] = mean([a is not None and rule.equal(a, first(i)) for a, i in zip(found, items, strict=True)])
        out.append(row)
    return out


def strictness(squad: Evaluation, trivia: Evaluation) -> dict[str, float]:
    """What exact match accepts, and what contains a right answer."""

    def holds(made: Evaluation) -> float:
        return mean([
            any(f" {normalise(str(ref))} " in f" {normalise(v.answer)} " for ref in i.references if normalise(str(ref)))
            for i, v in zip(made.items, made.verdicts, strict=True)
        ])  # fmt: skip

    rule = convention("triviaqa")
    alone = [
        rule.equal(v.extracted or "", str(i.references[0])) for i, v in zip(trivia.items, trivia.verdicts, strict=True)
    ]
    return {
        "squad": mean([v.right for v in squad.verdicts]), "squad_holds": holds(squad),
        "trivia": mean([v.right for v in trivia.verdicts]), "trivia_holds": holds(trivia), "trivia_first": mean(alone),
    }  # fmt: skip


def by_type(drop: Evaluation) -> dict[str, list[float]]:
    """F1 and number of items: numbers, several spans, one span (dates too)."""
    out: dict[str, list[float]] = {}
    for item, one in zip(drop.items, drop.verdicts, strict=True):
        gold = item.references[0]
        several = not isinstance(gold, str) and len(gold) > 1
        text = gold if isinstance(gold, str) else gold[0]
        kind = "several spans" if several else "number" if re.fullmatch(r"-?[\d.,]+", text) else "span or date"
        out.setdefault(kind, []).append(one.scores["F1"])
    return {kind: [mean(values), len(values)] for kind, values in sorted(out.items())}


def verifiable(name: str, items: Sequence[BenchmarkItem], data: Any) -> dict[str, int]:
    """Right verdicts for each item's own solution, and for the next item's."""
    _, own = load_benchmark(name)
    assert own.generation is not None
    if name == "math":
        path = data / "math" / "math500.jsonl"
        solutions = [json.loads(line)["solution"] for line in path.read_text("utf-8").splitlines()]
    else:
        solutions = [str(item.references[0]) for item in items]
    other = [*solutions[1:], solutions[0]]
    return {
        "of": len(items),
        "own": sum(judge_generated(own.generation, i, s).right for i, s in zip(items, solutions, strict=True)),
        "other": sum(judge_generated(own.generation, i, s).right for i, s in zip(items, other, strict=True)),
        "equal": sum(first(i) == first(j) for i, j in zip(items, [*items[1:], items[0]], strict=True)),
    }


def imbalance(texts: Sequence[str], labels: Sequence[str]) -> list[dict[str, float]]:
    """A rulebook of sentiment and the majority answer, by the part of the texts that is positive."""
    named = {"negative": "0", "positive": "1"}
    given = [named[one] for one in make_method("classifier", "rules").build().predict(texts)]
    rows = []
    for part in POSITIVE:
        positive = [i for i, label in enumerate(labels) if label == "1"]
        negative = [i for i, label in enumerate(labels) if label == "0"]
        chosen = positive + negative[: max(1, round(len(positive) * (1 - part) / part))]
        truth = [labels[i] for i in chosen]
        own = report(["0", "1"], truth, [given[i] for i in chosen])
        most = report(["0", "1"], truth, ["1"] * len(truth))
        rows.append({
            "share": part, "texts": len(truth), "accuracy": own.accuracy, "f1": own.macro_f1,
            "recall": own.of("0")["recall"], "majority": most.accuracy, "majority_f1": most.macro_f1,
            "majority_recall": most.of("0")["recall"],
        })  # fmt: skip
    return rows
