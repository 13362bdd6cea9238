"""Optimizers: SGD, Adam, AdamW, Lion, Muon and 8-bit AdamW, each at the best rate of its own sweep.

Models of {parameters:,} parameters on the documentation of Python, {tokens:,} tokens of training for AdamW. Every
optimizer has its defaults but the rate: its rates (Muon has two, which move together) are swept by factors of two,
under a seed and on held-out texts that the result does not use, until the best rate has a worse one on both sides.
{inside}

Equal time: steps are chosen so that each optimizer takes AdamW's CPU time, by step times measured in turns: a step
takes {times} of AdamW's.

**Limits.** A model this small spends a large part of a step in the optimizer, which a large one does not: the times
speak for this size alone (Muon's products and the rounding of 8-bit AdamW weigh most here; 8-bit AdamW is there for
its memory, and computes one tensor after another). One schedule, one batch size, {steps} steps; momentum and decay
were not swept. The rate was chosen for equal steps, under one seed, and used for equal time as well; that of SGD is
the least certain, since its losses are not smooth in the rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import torch

from evidence._compared import WORK
from evidence._grid import bits, model_spec, paced, recipe, text, trained, verdicts
from llmanac.core.errors import TrainingError
from llmanac.core.pages import Section, table
from llmanac.core.spec import dump, make_method
from llmanac.lab.runner import TUNING_SEED
from llmanac.recipes.parts import RecipeParts
from llmanac.train.step import Stepper

ROWS = ("optim/sgd", "optim/adam")
CLAIM = "Adam is the standard in NLP: a lower loss than SGD's at equal steps"
SEEDS = 3
TIMED = ("ratio", "steps")
TOLERANCE = 1e-3  # float32 training
ARMS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.25},
    "adam": {"name": "adamw", "lr": 8e-3, "weight_decay": 0.0},
    "adamw": {"name": "adamw", "lr": 8e-3},
    "lion": {"name": "lion", "lr": 1e-3},
    "muon": {"name": "muon", "precision": "float32"},
    "adamw-8bit": {"name": "adamw-8bit", "lr": 8e-3},
}
STEPS = 200
MOST = 6  # rates on one side of the first
ROUNDS = 30


def at(name: str, power: int) -> Any:
    """An optimizer with its rates times 2 ** power."""
    spec = make_method("optimizer", dict(ARMS[name]))
    rates = {
        f.name: getattr(spec, f.name) * 2.0**power
        for f in fields(spec) if f.name.endswith("lr") and getattr(spec, f.name) is not None
    }  # fmt: skip
    return make_method("optimizer", {**ARMS[name], **rates})


def loss(optimizer: Any, seed: int, size: str, steps: int | None = None, texts: str = "report") -> float:
    """Held-out bits per byte of a model that was trained with this optimizer; infinite where training diverges."""
    changes = {"train.optimizer": dump(optimizer)} | ({} if size == "small" else {"train.steps": steps or STEPS})
    try:
        return bits(trained(model_spec(size), seed, size, changes), size, texts)["bits per byte"]
    except TrainingError:
        return float("inf")


@cache
def swept(name: str, size: str) -> dict[str, Any]:
    """Powers of two of the first rate with their losses, until the best is inside."""
    found: dict[int, float] = {}
    best, edges = 0, [-1, 0, 1]
    while edges:
        found |= {power: loss(at(name, power), TUNING_SEED, size, texts="tuning") for power in edges}
        best = min(found, key=lambda power: found[power])
        edges = [power for power in (best - 1, best + 1) if power not in found and abs(power) <= MOST]
    shown = [[at(name, power).lr, found[power]] for power in sorted(found)]
    return {"best": best, "inside": {best - 1, best + 1} <= set(found), "rates": shown}


@cache
def step_times(size: str) -> dict[str, float]:
    """CPU time of a training step against AdamW's, medians of rounds in which all take turns."""
    asked, runs = recipe(size), {}
    stages = RecipeParts(asked, text(size), torch.device("cpu"))
    for name in ("adamw", *(name for name in ARMS if name != "adamw")):
        model = model_spec(size).build(vocab_size=text(size).tokenizer.vocab_size).train()
        stepper = Stepper(
            model, stages.objective, at(name, 0).build(model=model), micro_batch=asked.train.rows, clip=1.0,
            dtype=torch.float32, folder=WORK,
        )  # fmt: skip
        rows = next(stages.rows(0))
        runs[name] = lambda s=stepper, r=rows: s(r, 1.0, 1)
    return {name: one["ratio"] for name, one in paced(runs, ROUNDS).items()}


def measure(seed: int, size: str) -> dict[str, Any]:
    """The sweep is the same for every seed; its runs are kept. A small measurement takes a few steps with each."""
    if size == "small":
        return {"equal steps": {name: loss(at(name, 0), seed, size) for name in ARMS}}
    sweeps = {name: swept(name, size) for name in ARMS}
    times = step_times(size)
    steps = {name: 10 * round(STEPS / 10 / ratio) for name, ratio in times.items()}
    best = {name: at(name, sweeps[name]["best"]) for name in ARMS}
    return {
        "parameters": model_spec(size).build(vocab_size=text(size).tokenizer.vocab_size).parameter_count(),
        "sweep": sweeps, "ratio": times, "steps": steps,
        "equal steps": {name: loss(optimizer, seed, size) for name, optimizer in best.items()},
        "equal time": {name: loss(optimizer, seed, size, steps[name]) for name, optimizer in best.items()},
    }  # fmt: skip


def values(seeds: Sequence[dict[str, Any]], what: str, *names: str) -> dict[str, list[float]]:
    return {name: [one[what][name] for one in seeds] for name in names or ("adamw", *(n for n in ARMS if n != "adamw"))}


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    sweeps = seeds[0]["sweep"]
    outside = [name for name, one in sweeps.items() if not one["inside"]]
    return {
        "parameters": seeds[0]["parameters"], "steps": STEPS, "tokens": STEPS * recipe("full").train.batch_tokens,
        "inside": f"The best of {', '.join(outside)} is at the edge." if outside else "It was inside for all of them.",
        "times": ", ".join(
            f"{name} {seeds[0]['ratio'][name]:.2f}" for name in ARMS if name != "adamw"
        ),
    }  # fmt: skip


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    sweep = [
        [name, *(f"{rate:.3g}: {'diverged' if bits == float('inf') else f'{bits:.3f}'}" for rate, bits in one["rates"])]
        for name, one in seeds[0]["sweep"].items()
    ]
    longest = max(map(len, sweep))
    rows = [[*row, *[""] * (longest - len(row))] for row in sweep]
    steps = [[name, f"{seeds[0]['ratio'][name]:.2f}", f"{seeds[0]['steps'][name]}"] for name in ARMS]
    return [
        Section("Bits per byte, held out, at equal steps", [], [verdicts(values(seeds, "equal steps"))]),
        Section("Bits per byte, held out, at equal time", [], [verdicts(values(seeds, "equal time"))]),
        Section("A step's CPU time, and the steps that equal time gives",
                [f"Against AdamW's; medians of {ROUNDS} rounds, one thread, on a busy machine; steps in tens."],
                [table(["", "time of AdamW's", "steps"], steps)]),
        Section("The sweeps", ["Rate: bits per byte on the tuning texts, one seed."],
                [table(["", *[""] * (longest - 1)], rows)]),
    ]  # fmt: skip
