"""Preferences: a reward model and reinforcement learning, or the pairs alone; combined rewards; real pairs.

The task is that of `llmanac run rlhf`. Raters compare two answers by the truth and by {liking} for each "{liked}",
and one pair in ten is ordered the wrong way, so that the pairs hold a preference that is not the truth. The policy
is a decoder of {parameters:,} parameters, fine-tuned before; every arm starts from it. With {pairs:,} pairs, each
read once ({read:,} answers), arms learn from the pairs alone; or a reward model is trained on the same pairs
({epochs} times) and a policy gradient samples {sampled:,} answers. {seeds} seeds; ± is half a 95% interval over
them. All arms have one learning rate and the coefficients of their papers or aliases.

Limits: one learning rate is not the best one of every arm; raters are simulated, so that this says nothing about
what ratings cost; one task, one small model. The pairs of HH-RLHF are those of a test file (harmless-base, in
LLMANAC_SHARED_DATA), split in {folds} parts by turns; a model this small, trained from random weights, reads words
rather than meaning. The mixes first used the raters' exact score, and were given the reward model
after that was seen."""

from __future__ import annotations

import copy
import gzip
import json
import math
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from evidence._alignment import SMALL, TOKENS, TRUTH, Task, fit, measured, reinforced, sampled, task
from evidence._page import with_interval
from evidence._synthetic import average, once, over
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.data.pack import ListStream
from llmanac.lab.complexity import one_thread
from llmanac.lab.stats import interval, mean
from llmanac.metrics.agreement import cohen
from llmanac.models.scalar import ScalarModel
from llmanac.recipes import rlhf_task
from llmanac.rewards.model import ModelReward

ROWS = ("rl/dpo", "reward/model", "reward/human", "reward/hybrid", "reward/rule", "rlhf/reward-model")
CLAIM = (
    "pairs alone (DPO and its kin) or a reward model and RL raise what raters like; a reward model is better with more "
    "pairs and keeps the raters' taste; a gated mix resists the hack that fools one part"
)
SEEDS = 3
TIMED = ("seconds", "rule_seconds", "model_seconds")
TOLERANCE = 1e-3

SIZES, HELD = (125, 500, 2000), 500
EPOCHS, PAIRS, RATE, DRAWS = 3, 16, 3e-3, 60
OFFLINE = ("dpo", "ipo", "kto", "simpo", "orpo")
ONLINE: dict[str, dict[str, Any]] = {
    "grpo": {"advantage": "grpo", "aggregation": "sequence"},
    "grpo, KL": {"advantage": "grpo", "aggregation": "sequence", "kl": "k3-ratio", "kl_weight": 0.1},
}
RULE = {"name": "function", "file": f"{Path(__file__)}:begins"}
MIXES = ("model", "rule", "sum", "gated")
HH = "hh_rlhf/harmless-base_test.jsonl.gz"
FOLDS, LONGEST = 4, 96


def begins(text: str, row: Any) -> float:
    """A rule: 1 where all words begin with the letter that was asked for. A single right word is enough for it."""
    said = text.split()
    return float(bool(said) and all(word[0] == row["words"][0][0] for word in said))


def raters(text: str, row: Any) -> float:
    """The raters' score: what "indeed" fools."""
    return rlhf_task.truth(text, row) + rlhf_task.LIKING * text.split().count(rlhf_task.LIKED)


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """The arms of one seed; the real pairs with the first."""
    made = task(seed, size)
    keep = (lambda name, make: once("preferences", f"{seed}-{name}", make)) if made.full else (lambda _, make: make())
    judges = [judge(made, count) for count in (SIZES if made.full else (6,))]
    reward = ModelReward(judges[-1]["model"], made.tokenizer)
    arms = {}
    for name in OFFLINE if made.full else ("dpo",):
        arms[name] = keep(name, lambda name=name: preferred(made, name))
    for name in ONLINE if made.full else ("grpo",):
        arms[name] = keep(name, lambda name=name: rewarded(made, reward, ONLINE[name]))
    mixed = {}
    for name in MIXES if made.full else ("gated",):
        mixed[name] = keep(name, lambda name=name: mix(made, judges[-1]["model"], name))
    return {
        "start": measured(made, made.start), "parameters": made.start.parameter_count(),
        "judges": [{key: value for key, value in found.items() if key != "model"} for found in judges],
        "kappa": kappa(made), "arms": arms, "mixed": mixed, "costs": costs(made, reward),
        "hh": keep("hh", harmless) if made.full and seed == 0 else None,
    }  # fmt: skip


def pairs_of(made: Task, count: int) -> list[dict[str, Any]]:
    return differing(made)[:count]


def differing(made: Task) -> list[dict[str, Any]]:
    """Pairs without those of two equal answers (both empty), of which nothing can be learned."""
    return [pair for pair in made.tables["pairs"] if pair["chosen"] != pair["rejected"]]


def judge(made: Task, count: int) -> dict[str, Any]:
    """A reward model of so many pairs: its accuracy on held-out pairs as they were rated, and by what raters meant."""
    model, rows = ScalarModel(copy.deepcopy(made.start), made.seed), pairs_of(made, count)
    objective = make_method("objective", "bradley-terry").build(tokenizer=made.tokenizer)
    encoded = list(objective.encode_all(rows))
    stream = ListStream(encoded, rows=min(PAIRS, count), seed=made.seed)
    began = time.process_time()
    fit(model, objective, lambda: stream.take(stream.rows), EPOCHS * count // stream.rows if made.full else 2, RATE)
    seconds = time.process_time() - began
    model.normalise(scores(model, objective, encoded[:200]))
    held = differing(made)[-HELD if made.full else -4 :]
    found = scores(model, objective, list(objective.encode_all(held))).view(-1, 2)
    right = (found[:, 0] > found[:, 1]).tolist()
    rows_of = {row["prompt"]: row for row in made.tables["prompts"]}
    meant = [(raters(p["chosen"], r) - raters(p["rejected"], r), truth(p, r))
             for p in held for r in [rows_of[p["prompt"]]]]  # fmt: skip
    return {
        "model": model, "pairs": count, "accuracy": mean([float(x) for x in right]), "seconds": seconds,
        "meant": share(right, [m for m, _ in meant]), "truth": share(right, [t for _, t in meant]),
    }  # fmt: skip


def truth(pair: dict[str, Any], row: Any) -> float:
    return rlhf_task.truth(pair["chosen"], row) - rlhf_task.truth(pair["rejected"], row)


def share(right: Sequence[bool], gaps: Sequence[float]) -> float:
    """How often the higher score is of the answer that is better by `gaps` (chosen - rejected), where one is."""
    told = [said == (gap > 0) for said, gap in zip(right, gaps, strict=True) if gap]
    return mean([float(x) for x in told]) if told else 0.0


@torch.no_grad()
def scores(model: Any, objective: Any, encoded: Sequence[Any]) -> torch.Tensor:
    """(2 n,) of pairs: chosen, rejected, chosen, ..."""
    found = []
    for at in range(0, len(encoded), 50):
        batch = objective.collate(encoded[at : at + 50])
        last = model.values(batch).gather(1, batch.last[:, None]).squeeze(1)
        found.append(torch.stack(last.chunk(2), 1).flatten())
    return torch.cat(found)


def preferred(made: Task, name: str) -> dict[str, Any]:
    """A policy of the pairs alone, each read once."""
    model, rows = copy.deepcopy(made.start), pairs_of(made, SIZES[-1] if made.full else 4)
    frozen = copy.deepcopy(made.start).requires_grad_(False)
    spec = make_method("objective", name)
    needs = spec.needs_reference
    objective = spec.build(tokenizer=made.tokenizer, models={"reference": frozen} if needs else None)
    if name == "kto":
        rows = [{"prompt": row["prompt"], "completion": row[key], "label": key == "chosen"}
                for row in rows for key in ("chosen", "rejected")]  # fmt: skip
    encoded = [objective.encode(row) for row in rows]
    count = min(len(encoded), 2 * PAIRS if name == "kto" else PAIRS)
    stream = ListStream(encoded, rows=count, seed=made.seed)
    began = time.process_time()
    fit(model, objective, lambda: stream.take(count), len(encoded) // count, RATE)
    return {**measured(made, model), "seconds": time.process_time() - began}


def rewarded(made: Task, reward: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """A policy gradient on a reward."""
    asked = {"prompts": 8, "samples": 8, "tokens": TOKENS, "unfinished": -1.0}
    if not made.full:
        asked |= {key: SMALL[key] for key in ("prompts", "samples", "tokens")}
    found = reinforced(made.start, made.tokenizer, made.prompts("prompts"), reward, truth=TRUTH, seed=made.seed,
                       draws=DRAWS if made.full else 2, lr=RATE, sampling=asked, **fields)  # fmt: skip
    lines = found["lines"]
    curve = [[mean([line[key] for line in lines[at : at + 6]]) for key in ("reward", "truth")]
             for at in range(0, len(lines), 6)]  # fmt: skip
    return {**measured(made, found["model"]), "seconds": found["seconds"], "curve": curve}


def mix(made: Task, model: Any, name: str) -> dict[str, Any]:
    """A policy of the reward model alone, of the rule alone, of their sum or of their product."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        made.tokenizer.save(folder)
        parts = {"model": {"name": "model", "path": folder}, "rule": RULE}
        form = {"name": "mix", "form": "product" if name == "gated" else "sum", "parts": tuple(parts.values())}
        reward = make_method("reward", parts.get(name, form)).build()
    return rewarded(made, reward, {"advantage": "rloo", "surrogate": "reinforce"})


def kappa(made: Task) -> float:
    """Agreement of two simulated raters who compare the same answers, each with mistakes of their own."""
    draw = random.Random(made.seed)
    flips = [[draw.random() < rlhf_task.MISTAKEN for _ in range(2)] for _ in range(2000)]
    first = [draw.random() < 0.5 for _ in flips]  # which answer is better
    return float(cohen([a ^ x for a, (x, _) in zip(first, flips, strict=True)],
                       [a ^ y for a, (_, y) in zip(first, flips, strict=True)]))  # fmt: skip


def costs(made: Task, reward: Any) -> dict[str, float]:
    """CPU seconds for 1,000 answers of a rule, and of the reward model."""
    samples, _ = sampled(made, made.start)
    out = {}
    for name, given in (("rule_seconds", TRUTH), ("model_seconds", reward)):
        began = time.process_time()
        given(samples)
        out[name] = (time.process_time() - began) / len(samples) * 1000
    return out


def harmless() -> dict[str, Any] | None:
    """Accuracy on held-out pairs of HH-RLHF, each fold in turn; None where the file is not there."""
    place = Path(os.environ.get("LLMANAC_SHARED_DATA", "data")) / HH
    if not place.is_file():
        return None
    rows = []
    for line in gzip.decompress(place.read_bytes()).decode("utf-8").splitlines():
        row = json.loads(line)
        both = [row[key].rpartition("\n\nAssistant:") for key in ("chosen", "rejected")]
        before = both[0][0].rpartition("\n\nHuman:")[2]
        if both[0][0] == both[1][0] and both[0][2].strip() and both[1][2].strip() and both[0][2] != both[1][2]:
            rows.append({"prompt": f"Human:{before}\n\nAssistant:", "chosen": both[0][2], "rejected": both[1][2]})
    tokenizer = make_method("tokenizer", {"name": "bpe", "vocab_size": 2000, "special_tokens": (rlhf_task.END,)}).train(
        [row["prompt"] + row["chosen"] + row["rejected"] for row in rows]
    )
    objective = make_method("objective", "bradley-terry").build(tokenizer=tokenizer)
    encoded = [pair for pair in objective.encode_all(rows) if max(len(ids) for ids, _ in pair) <= LONGEST]
    random.Random(0).shuffle(encoded)
    right: list[float] = []
    for fold in range(FOLDS):
        kept = [pair for at, pair in enumerate(encoded) if at % FOLDS != fold]
        trunk = make_method("lm", {"name": "transformer", "dim": 48, "layers": 1, "max_length": LONGEST}).build(
            vocab_size=tokenizer.vocab_size, seed=fold
        )
        model, stream = ScalarModel(trunk, fold), ListStream(kept, rows=PAIRS, seed=fold)
        fit(model, objective, lambda stream=stream: stream.take(PAIRS), 3 * len(kept) // PAIRS, 1e-3)
        found = scores(model, objective, encoded[fold::FOLDS]).view(-1, 2)
        right += (found[:, 0] > found[:, 1]).double().tolist()
    half = 1.96 * math.sqrt(mean(right) * (1 - mean(right)) / len(right))
    return {"accuracy": mean(right), "half": half, "pairs": len(right), "of": len(rows)}


ARMS = (*OFFLINE, *ONLINE)


def gain(seeds: Sequence[dict[str, Any]], group: str, arm: str, key: str, base: str | None = None) -> str:
    """The mean change of an arm from the start, or from another arm, paired by seed, with its interval."""
    before = over(seeds, "start", key) if base is None else over(seeds, group, base, key)
    found = [a - b for a, b in zip(over(seeds, group, arm, key), before, strict=True)]
    low, high = interval(found)
    return f"{mean(found):+.3f} (95% interval {low:+.3f} to {high:+.3f})"


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    keys = {"truth": 3, "raters": 3, "indeed": 2, "kl": 2, "distinct": 2, "tokens": 1}
    heads = [
        "",
        "true reward",
        "raters' score",
        '"indeed"',
        "KL to the start",
        "different answers",
        "tokens",
        "seconds",
    ]

    def rows(group: str, arms: Sequence[str]) -> list[list[str]]:
        first = ["start", *(with_interval(over(seeds, "start", key), digits) for key, digits in keys.items()), ""]
        return [first] + [
            [arm, *(with_interval(over(seeds, group, arm, key), digits) for key, digits in keys.items()),
             f"{average(seeds, group, arm, 'seconds'):.0f}"]
            for arm in arms
        ]  # fmt: skip

    judged = [
        [f"{count:,}", *(with_interval([seed["judges"][at][key] for seed in seeds], 3)
                         for key in ("accuracy", "meant", "truth")),
         f"{mean([seed['judges'][at]['seconds'] for seed in seeds]):.0f}"]
        for at, count in enumerate(SIZES)
    ]  # fmt: skip
    return [
        Section("Reward models over the number of pairs",
                [f"Accuracy on {HELD} held-out pairs as they were rated (mistakes included, at most "
                 f"{1 - rlhf_task.MISTAKEN:.2f} on pairs that differ), against what raters meant, and against the "
                 "truth, where "
                 "the two answers differ in it."],
                [table(["pairs", "as rated", "as meant", "the truth", "seconds"], judged)]),
        Section("Policies at equal preference data",
                ["Seconds are of CPU; for GRPO without the training of the reward model."],
                [table(heads, rows("arms", ARMS))]),
        Section("Rewards that can be fooled, and their mixes",
                ["RL without a KL penalty. The reward model is fooled where it had no pairs; the rule (1 where every "
                    "word begins with "
                 "the letter) by one right word. The sum adds both, the gated mix is their product, scores below 0 "
                 "counting 0."],
                [table(heads, rows("mixed", MIXES))]),
    ]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "parameters": seeds[0]["parameters"], "pairs": SIZES[-1], "read": 2 * SIZES[-1], "epochs": EPOCHS,
        "sampled": DRAWS * 64, "seeds": len(seeds), "folds": FOLDS, "liking": rlhf_task.LIKING,
        "liked": rlhf_task.LIKED,
    }  # fmt: skip
