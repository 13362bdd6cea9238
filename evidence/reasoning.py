"""More compute at the answer: accuracy over tokens for five ways, and where each stops helping.

A model of {parameters:,} parameters is trained here for {trained} steps to write the steps of made-up word problems
("Ann has 7 pens, gets 5, loses 3."). {questions} new problems of four steps are answered by every way from the same
model, at temperature 0.8; greedy decoding is the start. Tokens are counted: the prompt once for n samples, every
sampled token, and what a verifier reads. The reward model is a copy of the model with one output, trained on pairs of
a right and a wrong answer of the model to {pairs} other problems; it prefers the right one in {preferred:.0%} of
held-out pairs, where a coin is right in 50%: the tree searches and best of N with it measure a verifier near chance,
not the methods with a good one. Accuracy over the number of samples is the mean over subsets of one draw of {most}
samples, which is unbiased. Intervals are 95%, over questions.

Limits: one small model, one kind of problem, one seed; the tree searches use the same reward model on rollouts, so they
inherit its errors and say little about tree search with a better verifier. BERTScore as a utility is not measured.
{smollm2}
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evidence._pretrained import smollm2
from evidence._word_problems import questions, tokenizer, trained
from llmanac.core.pages import Line, Section, line_chart, table
from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.metrics.answers import correct
from llmanac.metrics.statistics.intervals import wilson_interval
from llmanac.models.scalar import ScalarModel
from llmanac.reason import Found, Question
from llmanac.reason._sampling import choice
from llmanac.recipes.reasoning import curve
from llmanac.rewards.model import ModelReward
from llmanac.train.step import Stepper

ROWS = ("reason/best-of-n", "reason/voting", "reason/tree-search", "reason/long-cot", "reason/mbr")
CLAIM = "more tokens at the answer raise accuracy, by method, until the verifier, the utility or the model is the limit"
SEEDS = 1
TOLERANCE = 0.05
SIZES: dict[str, dict[str, int]] = {
    "full": {"dim": 64, "layers": 2, "steps": 450, "rows": 32, "questions": 80, "pairs": 300, "reward_steps": 50,
             "most": 32, "tokens": 64, "depth": 7},
    "small": {"dim": 16, "layers": 1, "steps": 4, "rows": 8, "questions": 3, "pairs": 8, "reward_steps": 2, "most": 4,
              "tokens": 8,
              "depth": 2},
}  # fmt: skip
BASE = {"temperature": 0.8, "tokens": 96, "convention": "gsm8k"}
BUDGETS = (2, 8, 14, 20, 32, 48)
DEPTHS = (2, 4)


def asked(engine: Engine, seed: int, count: int, steps: int) -> list[Question]:
    return [Question.of(engine, text, row) for text, row in questions(seed, count, steps)]


def right(found: Found, question: Question) -> list[bool]:
    return [correct(one.text, question.row["answer"], "gsm8k") for one in found.candidates]


def summary(found: Sequence[Found], asked: Sequence[Question]) -> dict[str, float]:
    """Accuracy with its interval, and tokens a question."""
    hits = sum(right(one, question)[one.chosen] for one, question in zip(found, asked, strict=True))
    _, low, high = wilson_interval(hits, len(asked))
    parts = {
        name: sum(getattr(one.cost, name) for one in found) / len(found) for name in ("prompt", "sampled", "verifier")
    }
    return {"accuracy": hits / len(asked), "low": low, "high": high, "tokens": sum(parts.values()), **parts}


def answer(engine: Engine, name: str, asked: Sequence[Question], reward: Any = None, **fields: Any) -> list[Found]:
    spec: Any = make_method("reason", {"name": name, **BASE, **fields})
    return list(spec.build(engine=engine, reward=reward)(asked, seed=1))


def chosen(
    engine: Engine, name: str, drawn: Sequence[Found], asked: Sequence[Question], reward: Any, fields: dict[str, Any]
) -> list[Found]:
    """What a method chooses among samples that were drawn before: all methods see the same ones."""
    spec: Any = make_method("reason", {"name": name, **BASE, **fields})
    found = spec.build(engine=engine, reward=reward).supports(asked, [one.candidates for one in drawn])
    return [choice(one.candidates, one.cost, *own) for one, own in zip(drawn, found, strict=True)]


def points(found: Sequence[Found], asked: Sequence[Question]) -> list[dict[str, Any]]:
    marks = [right(one, question) for one, question in zip(found, asked, strict=True)]
    return [
        {"n": p.k, "accuracy": p.accuracy, "low": (p.interval or (0, 0))[0], "high": (p.interval or (0, 0))[1],
         "tokens": p.tokens}
        for p in curve(found, marks)
    ]  # fmt: skip


def reward_model(engine: Engine, model: Any, seed: int, size: dict[str, int]) -> tuple[Any, float]:
    """A reward model from pairs of the model's own right and wrong answers, and how often it is right on others."""
    pool = asked(engine, seed + 1000, size["pairs"], 4)
    found = answer(engine, "best-of-n", pool, n=4, temperature=1.0)
    pairs = []
    for one, question in zip(found, pool, strict=True):
        marks = right(one, question)
        if len(set(marks)) == 2:
            texts = [one.candidates[marks.index(kind)].text for kind in (True, False)]
            pairs.append({"prompt": question.text, "chosen": texts[0], "rejected": texts[1]})
    pairs = pairs or [{"prompt": pool[0].text, "chosen": "1+1=2\n#### 2", "rejected": "1+1=3\n#### 3"}] * 4
    made = ScalarModel(copy.deepcopy(model), seed)
    objective: Any = make_method("objective", "bradley-terry").build(tokenizer=tokenizer())
    optimizer = make_method("optimizer", {"name": "adamw", "lr": 1e-3}).build(model=made)
    rng, cut = np.random.default_rng(seed), max(1, len(pairs) // 6)
    rows = [objective.encode(pair) for pair in pairs]
    train = rows[cut:] or rows
    with tempfile.TemporaryDirectory() as folder:
        step = Stepper(
            made, objective, optimizer, micro_batch=1 << 20, clip=1.0, dtype=torch.float32, folder=Path(folder)
        )
        for number in range(size["reward_steps"]):
            step([train[int(i)] for i in rng.choice(len(train), min(24, len(train)), replace=False)], 1.0, number)
    made.eval()
    with torch.no_grad():
        values = made.values(objective.collate(rows[:cut]))
        last = values.gather(1, objective.collate(rows[:cut]).last[:, None]).squeeze(1)
    better = float((last[:cut] > last[cut:]).float().mean())
    return ModelReward(made, tokenizer()), better


def measure(seed: int, size: str) -> dict[str, Any]:
    """Everything on one trained model."""
    own = SIZES[size]
    BASE["tokens"] = own["tokens"]
    model = trained(seed, dim=own["dim"], layers=own["layers"], steps=own["steps"], rows=own["rows"])
    engine = Engine(model, tokenizer(), rows=96)
    reward, preferred = reward_model(engine, model, seed, own)
    print("trained", flush=True)
    four, most = asked(engine, seed, own["questions"], 4), own["most"]
    out: dict[str, Any] = {
        "parameters": model.parameter_count(), "preferred": preferred, "pairs": own["pairs"], "questions": len(four),
        "steps": own["steps"], "most": most,
        "greedy": summary(answer(engine, "voting", four, n=1, temperature=0.0), four),
    }  # fmt: skip

    def oracle(samples: Any) -> Any:
        from llmanac.rewards import RewardScore

        return [RewardScore(float(correct(s.text, s.row["answer"], "gsm8k"))) for s in samples]

    drawn = answer(engine, "best-of-n", four, n=most)
    ways: dict[str, tuple[str, Any, dict[str, Any]]] = {
        "best-of-n, reward model": ("best-of-n", reward, {}), "best-of-n, likelihood": ("best-of-n", None, {}),
        "best-of-n, oracle": ("best-of-n", oracle, {}), "voting": ("voting", None, {}),
        "voting, by probability": ("voting", None, {"weights": "probability"}),
        **{f"mbr, {utility}": ("mbr", None, {"utility": utility}) for utility in ("exact-match", "bleu", "rouge")},
    }  # fmt: skip
    samples = {name: chosen(engine, way, drawn, four, reward, more) for name, (way, reward, more) in ways.items()}
    out["curves"] = {name: points(found, four) for name, found in samples.items()}
    out["curves"]["best-of-n, reward model"] = with_scores(out["curves"], samples["best-of-n, reward model"])
    print("sampled", flush=True)
    searches = [(name, n) for name in ("tree-search", "mcts") for n in ((8,) if size == "full" else (4,))]
    trees = {f"{name}, n = {n}": (name, n) for name, n in searches}
    out["trees"] = {
        label: summary(answer(engine, name, four, reward, n=n, depth=own["depth"], width=4), four)
        for label, (name, n) in trees.items()
    }
    out["depths"] = {}
    for steps in DEPTHS if size == "full" else (2,):
        own_questions = asked(engine, seed, own["questions"] // 3 + 1, steps)
        out["depths"][str(steps)] = {
            name: summary(answer(engine, name, own_questions, reward, n=4, **more), own_questions)
            for name, more in (
                ("best-of-n", {}),
                ("tree-search", {"depth": own["depth"]}),
                ("mcts", {"depth": own["depth"]}),
            )
        }
    print("searched", flush=True)
    budgets = BUDGETS if size == "full" else (4,)
    out["budgets"] = {
        str(b): summary(answer(engine, "long-cot", four, tokens=b, temperature=0.0), four) for b in budgets
    }
    forced = {"least": 40, "tokens": 56} if size == "full" else {"least": 4, "tokens": 6}
    out["waited"] = summary(answer(engine, "long-cot", four, temperature=0.0, **forced), four)
    out["smollm2"] = pretrained(seed) if size == "full" else None
    return out


def with_scores(curves: dict[str, Any], found: Sequence[Found]) -> list[dict[str, Any]]:
    """The curve of best of N with the mean of the best score, which only rises."""
    from llmanac.recipes.reasoning import subsets

    rows = []
    for point in curves["best-of-n, reward model"]:
        masks = subsets(len(found[0].candidates), point["n"])
        best = [
            np.where(masks, np.array([c.score for c in one.candidates])[None], -np.inf).max(1).mean() for one in found
        ]
        rows.append({**point, "score": float(np.mean(best))})
    return rows


def pretrained(seed: int) -> dict[str, Any] | None:
    """SmolLM2 on a few problems of two steps: greedy, voting, and a forced budget."""
    source = smollm2()
    if source is None:
        return None
    from llmanac.generate.load import load_engine

    engine = load_engine(source, runner="auto")
    rows = questions(seed, 4, 2)
    texts = [f"{text.strip()} How many now? Show the steps, then write #### and the number." for text, _ in rows]
    few = [Question.of(engine, text, row, chat=True) for text, (_, row) in zip(texts, rows, strict=True)]
    fields: dict[str, Any] = {"convention": "gsm8k-flexible", "tokens": 48}
    ways = {"greedy": {"name": "voting", "n": 1, "temperature": 0.0}, "voting, n = 4": {"name": "voting", "n": 4},
            "long-cot": {"name": "long-cot", "tokens": 48, "temperature": 0.0}}  # fmt: skip
    found = {}
    for label, way in ways.items():
        name = way.pop("name")
        done = answer(engine, str(name), few, **{**fields, **way})
        hits = sum(
            correct(one.text, question.row["answer"], "gsm8k-flexible") for one, question in zip(done, few, strict=True)
        )
        found[label] = {"right": hits, "of": len(few), "tokens": sum(one.cost.total for one in done) / len(few)}
    return found


def percent(row: dict[str, Any]) -> str:
    return f"{row['accuracy']:.0%} ({row['low']:.0%} to {row['high']:.0%})"


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    (one,) = seeds
    lines = [
        Line(name, [(p["tokens"], p["accuracy"]) for p in own], [(p["low"], p["high"]) for p in own], shade)
        for shade, (name, own) in enumerate(one["curves"].items())
        if name in ("best-of-n, reward model", "voting", "best-of-n, oracle")
    ]
    for shade, kind in ((5, "tree-search"), (6, "mcts")):
        own = [(row["tokens"], row["accuracy"]) for name, row in one["trees"].items() if name.startswith(kind)]
        lines.append(Line(kind, own, shade=shade))
    lines.append(Line("long-cot", [(r["tokens"], r["accuracy"]) for r in one["budgets"].values()], shade=7))
    chart = line_chart(lines, "tokens a question", "accuracy", "accuracy over tokens")
    sizes = [p["n"] for p in one["curves"]["voting"]]
    curves = []
    for name, own in one["curves"].items():
        cells = {p["n"]: f"{p['accuracy']:.1%}" for p in own}
        curves.append([name, *(cells.get(n, "") for n in sizes)])
    best = one["curves"]["best-of-n, reward model"]
    optimised = [[f"{p['n']}", f"{p['score']:.2f}", percent(p), f"{p['tokens']:.0f}"] for p in best]
    heads = ["", "accuracy (95%)", "prompt", "sampled", "verifier", "tokens a question"]

    def rows(found: dict[str, Any]) -> list[list[str]]:
        names = ("prompt", "sampled", "verifier", "tokens")
        return [[name, percent(row), *(f"{row[part]:.0f}" for part in names)] for name, row in found.items()]

    depths = [
        [steps, *(f"{own[name]['tokens']:.0f} tokens, {own[name]['accuracy']:.0%}" for name in own)]
        for steps, own in one["depths"].items()
    ]
    sections = [
        Section("Accuracy over tokens", [], [table(["samples", *map(str, sizes)], curves)], [chart]),
        Section("Best of N and the reward model's score", [], [
            table(["N", "mean best score", "accuracy (95%)", "tokens a question"], optimised)
        ]),
        Section("Greedy and tree search", [], [table(heads, rows({"greedy": one["greedy"], **one["trees"]}))]),
        Section("Cost over depth", ["Each with n = 4; a problem's steps are its depth."], [
            table(["steps", "best-of-n", "tree-search", "mcts"], depths)
        ]),
        Section("Long reasoning over its budget", ["Greedy; the last row has at least 40 tokens, forced by `Wait`."], [
            table(heads, rows({**{f"{b} tokens": row for b, row in one["budgets"].items()}, "waited": one["waited"]}))
        ]),
    ]  # fmt: skip
    if one["smollm2"]:
        few = [[name, f"{r['right']} of {r['of']}", f"{r['tokens']:.0f}"] for name, r in one["smollm2"].items()]
        sections.append(Section("SmolLM2-135M-Instruct", ["Problems of two steps."], [
            table(["", "right", "tokens a question"], few)
        ]))  # fmt: skip
    return sections


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the text."""
    (one,) = seeds
    smollm2 = "SmolLM2 has four problems, which shows that it runs." if one["smollm2"] else ""
    keys = ("parameters", "questions", "pairs", "preferred", "most")
    return {**{key: one[key] for key in keys}, "trained": one["steps"], "smollm2": smollm2}
