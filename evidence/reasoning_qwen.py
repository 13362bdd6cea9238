"""More compute per question, on real problems: what voting, likelihood, minimum risk and longer thoughts are worth.

Qwen2.5-Coder-0.5B-Instruct (Q4_K_M; its header says that it was made from AWQ weights) answered {n} test problems of
GSM8K at equal distances, through its chat template, without examples: once greedily and twelve times at temperature
0.7, at most 256 tokens each. All methods choose among the same twelve samples. `LLMANAC_SHARED_DATA` names the folder
of the files. Differences are paired over problems; "one sample" is the mean of the twelve. Thoughts of a forced budget
are greedy. It is one model of half a billion numbers, trained on code first.

- Greedy answers are right for {greedy[0]:.0%} ({greedy[1]:.0%} to {greedy[2]:.0%}), one sample for {one[0]:.0%}; among
  twelve samples there is a right one for {oracle[0]:.0%}.
- **Voting**: {voting[0]:.0%} of twelve votes; against one sample {vote[0]:+.3f} ({vote[1]:+.3f} to {vote[2]:+.3f}),
  against greedy {voted[0]:+.3f} ({voted[1]:+.3f} to {voted[2]:+.3f}).
- **Best of twelve by its own likelihood**: {likely[0]:.0%}; against one sample {best[0]:+.3f} ({best[1]:+.3f} to
  {best[2]:+.3f}).
- **Minimum risk** with BLEU of the complete texts: {bleu[0]:.0%}; against equal answers, which is voting,
  {risk[0]:+.3f} ({risk[1]:+.3f} to {risk[2]:+.3f}).
- **Forced thoughts**: right for {budgets}.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from benchmarks._corpora import needed_data
from evidence._pretrained import needed
from evidence.evaluation import spread
from llmanac.core.pages import Line, Section, line_chart, table
from llmanac.core.spec import make_method
from llmanac.metrics.answers import convention, correct
from llmanac.metrics.statistics.estimates import paired
from llmanac.metrics.statistics.intervals import wilson_interval
from llmanac.reason import Question
from llmanac.reason._sampling import equal_answers
from llmanac.recipes.reasoning import reference

ROWS = ("reason/best-of-n", "reason/voting", "reason/long-cot", "reason/mbr")
CLAIM = "votes, likelihood, minimum risk and longer thoughts change how many of a real model's answers are right"
ARMS = (
    "greedy",
    "voting",
    "best of n by likelihood",
    "mbr: exact match, BLEU, ROUGE-L",
    "thoughts of 32, 128, 256, 384",
)
METRIC = "right answers to GSM8K's test problems, the last number compared"
MARGIN = "0.01 of the problems; that of the longest thought 0.05"
SEEDS, REPLICATE = 1, "model: its problems are the replicates"
PROBLEMS, EACH, SAMPLES, TOKENS, RULE = 150, 10, 12, 256, "gsm8k-flexible"
BUDGETS = (32, 128, 256, 384)
PIECES = tuple(f"{at:03}" for at in range(0, PROBLEMS, EACH))
PARTIAL = True


def measure(seed: int, size: str, piece: str = "") -> dict[str, Any]:
    if size == "small":
        right = [[i % 3 == 0 or j == i % 4 for j in range(4)] for i in range(6)]
        scores, same = [0.0, 0.1, 0.2, 0.3], [0, 1, 0, 1]
        made = [row(r, scores, r, same, {"bleu": 1}, i % 2 == 0, {32: True}) for i, r in enumerate(right)]
        return {PIECES[0]: {"rows": made}}
    from llmanac.generate.load import load_engine

    data = needed_data("gsm8k")
    torch.set_num_threads(1)
    engine = load_engine(str(needed("qwen")), device="cpu", runner="native")
    every = [json.loads(line) for line in (data / "gsm8k" / "test.jsonl").read_text("utf-8").splitlines()]
    chosen = [every[i] for i in spread(len(every), PROBLEMS)][int(piece) : int(piece) + EACH]
    asked = [Question.of(engine, one["question"], one, chat=True) for one in chosen]

    def method(name: str, **fields: Any) -> Any:
        return make_method("reason", {"name": name, "convention": RULE, **fields}).build(engine=engine)

    sampled = {"n": SAMPLES, "tokens": TOKENS, "temperature": 0.7}
    votes = method("voting", **sampled)(asked, seed=seed)
    greedy = method("voting", n=1, tokens=TOKENS, temperature=0.0)(asked, seed=seed)
    groups = [found.candidates for found in votes]
    likely = method("best-of-n", **sampled).supports(asked, groups)
    risks = {name: method("mbr", utility=name, **sampled).supports(asked, groups) for name in ("bleu", "rouge")}
    thoughts = {n: method("long-cot", tokens=n, least=n, temperature=0.0)(asked, seed=seed) for n in BUDGETS}
    rows = []
    for i, one in enumerate(chosen):
        known = reference(one["answer"], RULE)
        own = equal_answers([c.answer for c in groups[i]], convention(RULE).equal)
        rows.append(row(
            [correct(c.text, known, RULE) for c in groups[i]], [float(likely[i][0][j, j]) for j in range(SAMPLES)],
            [c.finished for c in groups[i]], [int(line.argmax()) if line.any() else -1 for line in own],
            {name: int(found[i][0].sum(1).argmax()) for name, found in risks.items()},
            correct(greedy[i].text, known, RULE),
            {n: correct(found[i].text, known, RULE) for n, found in thoughts.items()},
        ))  # fmt: skip
    return {"rows": rows, "tokens": sum(found.cost.total for found in (*votes, *greedy))}


def row(
    right: Sequence[bool], scores: Sequence[float], ended: Sequence[bool], same: Sequence[int], risk: dict[str, int],
    greedy: bool, thoughts: dict[int, bool],
) -> dict[str, Any]:  # fmt: skip
    """A problem: of each sample whether it is right, its mean log-probability, whether it ended, and the first sample
    with an equal answer (-1: it has none); what minimum risk chose; whether the other answers are right."""
    return {
        "right": [int(one) for one in right], "scores": [round(one, 4) for one in scores],
        "ended": sum(map(int, ended)), "same": list(same), "risk": risk, "greedy": int(greedy),
        "thoughts": {str(n): int(one) for n, one in thoughts.items()},
    }  # fmt: skip


def rows_of(seeds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for piece in seeds[0].values() for one in piece["rows"]]


def chosen(one: dict[str, Any], how: str, n: int = SAMPLES) -> float:
    """Whether the choice among the first n samples is right."""
    right, same = one["right"][:n], one["same"][:n]
    if how == "voting":
        counts = [sum(other == name for other in same) if name >= 0 else 0 for name in same]
        return float(right[counts.index(max(counts))])
    if how == "likelihood":
        scores = one["scores"][: len(right)]
        return float(right[scores.index(max(scores))])
    return float(any(right)) if how == "oracle" else fmean(right)


def versus(seeds: Sequence[dict[str, Any]], one: str, other: str) -> list[float]:
    """Differences over problems between two ways of answering."""
    return [way(row, one) - way(row, other) for row in rows_of(seeds)]


def way(one: dict[str, Any], name: str) -> float:
    if name in one["risk"]:
        return float(one["right"][one["risk"][name]])
    if name.isdecimal():
        return float(one["thoughts"][name])
    return float(one["greedy"]) if name == "greedy" else chosen(one, name)


def share(rows: Sequence[dict[str, Any]], name: str) -> tuple[float, float, float]:
    values = [way(one, name) for one in rows]
    return fmean(values), *wilson_interval(round(sum(values)), len(values))[1:]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    rows = rows_of(seeds)
    names = [name for name in ("greedy", "one", "voting", "likelihood", "bleu", "rouge", "oracle") if name not in
             ("bleu", "rouge") or name in rows[0]["risk"]]  # fmt: skip
    names += list(rows[0]["thoughts"])
    titles = {"one": "one sample, the mean of all", "oracle": "any of the samples", "bleu": "mbr, BLEU",
              "rouge": "mbr, ROUGE-L", "likelihood": "best of n by its own likelihood"}  # fmt: skip
    lines = []
    for name in names:
        gain = paired([way(one, name) for one in rows], [way(one, "greedy") for one in rows])
        lines.append([titles.get(name, f"a thought of {name} tokens" if name.isdecimal() else name),
                      "{:.3f} ({:.3f} to {:.3f})".format(*share(rows, name)),
                      f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"])  # fmt: skip
    counts = [n for n in (1, 2, 4, 8, 12) if n <= len(rows[0]["right"])]
    curves = [
        Line(name, [(n, fmean(chosen(one, name, n) for one in rows)) for n in counts])
        for name in ("voting", "likelihood", "oracle")
    ]  # fmt: skip
    chart = line_chart(curves, "samples", "right", "Right answers over the number of samples")
    ended = fmean(one["ended"] / len(one["right"]) for one in rows)
    return [Section(
        f"{len(rows)} problems", [f"{ended:.0%} of the samples ended by themselves within the tokens that they have."],
        [table(["answer", "right, 95%", "against greedy, 95%"], lines)], [chart],
    )]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rows = rows_of(seeds)

    def gain(one: str, other: str) -> list[float]:
        found = paired([way(r, one) for r in rows], [way(r, other) for r in rows])
        return [found.mean, found.low, found.high]

    return {
        "n": len(rows), **{name: share(rows, name) for name in ("greedy", "one", "oracle", "voting")},
        "likely": share(rows, "likelihood"), "bleu": share(rows, "bleu"), "vote": gain("voting", "one"),
        "voted": gain("voting", "greedy"), "best": gain("likelihood", "one"), "risk": gain("bleu", "voting"),
        "budgets": ", ".join(f"{share(rows, n)[0]:.0%} at {n} tokens" for n in rows[0]["thoughts"]),
    }  # fmt: skip
