"""Lost in the middle: a needle at every depth of longer and longer texts.

The model is {model}. A sentence with a seven-digit number is hidden in filler sentences at a depth of 0 to 1, and the
model is asked for the number by its chat template; lengths are the model's own tokens. With "multi-key" eight such
sentences have keys of their own. Greedy decoding, {samples} prompts a cell.

- At {longest:,} tokens of "single" recall is {ends:.2f} at the two ends and {middle:.2f} between them.
- Over all lengths and tasks: {all_ends:.2f} at the ends, {all_middle:.2f} between. {verdict}
- Recall over all depths is {short:.2f} at {shortest:,} tokens and {long:.2f} at {longest:,}.

One small model and few prompts a cell: a difference of one prompt is {grain:.2f} (at {longest:,} tokens 1), and no
interval is given.

The same for models of our own, by how they know positions: those of `growing_text` (two blocks of width {dim}, a place
is a sentence), trained on texts of {trained} sentences. "Single" is one statement, "multi-key" {many}, of which one is
asked for. The task does not depend on order, which favors a model without positions. {own}
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from evidence import growing_text
from evidence._facts import draw
from evidence._pretrained import WHERE, smollm2
from evidence._synthetic import once
from evidence.growing_text import TRAINED, answers, read, trained
from llmanac.core.errors import DataError
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.evaluate.needles import DEPTHS, MANY, grid
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.lab._svg import heat_map
from llmanac.lab.report import Section, table
from llmanac.lab.stats import mean
from llmanac.tokenizers.load import train_tokenizer

ROWS = ("context/lost-in-the-middle",)
CLAIM = "what is in the middle of a long text is found worst"
SEEDS = 1
TOLERANCE = 0.05  # float32 training
SAMPLES = {512: 2, 1024: 2, 2048: 2, 4096: 1}  # prompts a cell, by length
FEWER = {600: (0.0, 1.0), 4096: (0.0, 0.5, 1.0)}  # depths of a length, where not all
POSITIONS = ("none", "alibi", "rope")
OWN = {"full": {64: 24, 256: 24, 1024: 12, 4096: 4}, "small": {16: 2}}  # texts a cell, by length


def measure(seed: int, size: str) -> dict[str, Any]:
    """The cells of the grids."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if size == "full":
            place = smollm2()
            if place is None:
                raise DataError(f"needles: {WHERE}")
            engine, samples = load_engine(place, device="cpu", runner="native"), SAMPLES
            asked = [(task, tuple(SAMPLES)) for task in ("single", "multi-key")]
        else:
            tokenizer = train_tokenizer("utf8", [])
            spec = make_method("lm", {"name": "transformer", "dim": 16, "layers": 1, "max_length": 700})
            engine = Engine(spec.build(vocab_size=tokenizer.vocab_size).initialise(seed).eval(), tokenizer)
            samples, asked = {600: 1}, [("single", (600,))]
        cells = []
        for task, length in [(task, length) for task, lengths in asked for length in lengths]:
            chosen = {
                "tasks": [task], "lengths": [length], "depths": FEWER.get(length, DEPTHS), "samples": samples[length],
            }  # fmt: skip
            made = functools.partial(_cells, engine, chosen, seed)
            cells += once("needles", f"{task}-{length}", made) if size == "full" else made()
        own = {}
        for name in POSITIONS if size == "full" else POSITIONS[:1]:
            part = functools.partial(by_position, name, seed, size)
            own[name] = once("needles", f"own-{name}", part) if size == "full" else part()
        return {"model": "SmolLM2-135M-Instruct (Q4_1)", "samples": max(samples.values()), "cells": cells, "own": own}
    finally:
        torch.set_num_threads(threads)


def by_position(position: str, seed: int, size: str) -> dict[str, Any]:
    """Right answers of a model of our own by task, length and depth."""
    model, out = trained("full window", seed, size, position), {}
    for task, count in (("single", 1), ("multi-key", MANY)):
        for length, rows in OWN[size].items():
            for depth in (0.0, 0.5, 1.0):
                texts = draw(numpy_generator(seed, f"{task} {length} {depth}"), rows, length, count, depth=depth)
                said = answers(model, read(model, texts.places), texts.subjects[:, :1]).numpy()
                value = float((said == texts.values[:, :1]).mean())
                out.setdefault(task, {}).setdefault(str(length), {})[f"{depth:.0%}"] = value
    return out


def _cells(engine: Engine, chosen: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    return [asdict(cell) for cell in grid(engine, **chosen, seed=seed)]


def _recall(cells: Sequence[dict[str, Any]], **chosen: Any) -> float:
    found = [cell["recall"] for cell in cells if all(cell[key] in value for key, value in chosen.items())]
    return sum(found) / max(1, len(found))


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    cells, out = seeds[0]["cells"], []
    for task in dict.fromkeys(cell["task"] for cell in cells):
        by = {(cell["length"], cell["depth"]): cell for cell in cells if cell["task"] == task}
        lengths, depths = ([*dict.fromkeys(key[i] for key in by)] for i in (0, 1))
        head = ["depth", *(f"{n:,} tokens" for n in lengths)]
        rows = [
            [
                f"{depth:.0%}",
                *("{recall:.2f} / {exact:.2f}".format(**by[n, depth]) if (n, depth) in by else "" for n in lengths),
            ]
            for depth in depths
        ]
        lengths = [n for n in lengths if all((n, depth) in by for depth in depths)]
        drawn = heat_map(
            [f"{n:,}" for n in lengths], [f"{d:.0%}" for d in depths],
            [[by[n, d]["recall"] for n in lengths] for d in depths], "tokens", "depth", f"{task}: recall",
        )  # fmt: skip
        out.append(
            Section(
                f"{task}: recall / exact match", [], [table(head, rows)], [{"caption": f"{task}: recall", "svg": drawn}]
            )
        )
    for task in ("single", "multi-key"):
        own = {name: found[task] for name, found in seeds[0]["own"].items()}
        lengths = list(next(iter(own.values())))
        rows = [
            [name, *(" / ".join(f"{v:.2f}" for v in found[n].values()) for n in lengths)] for name, found in own.items()
        ]
        depths = ", ".join(next(iter(own.values()))[lengths[0]])
        out.append(
            Section(
                f"Models of our own, {task}: right at depths {depths}", [],
                [table(["positions", *(f"{int(n):,} sentences" for n in lengths)], rows)],
            )
        )  # fmt: skip
    return out


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    cells = seeds[0]["cells"]
    lengths = sorted({cell["length"] for cell in cells if cell["task"] == "single"})
    outer, inner = (0.0, 1.0), [d for d in DEPTHS if 0 < d < 1]
    last = {"task": ("single",), "length": lengths[-1:]}
    ends, middle = _recall(cells, depth=outer), _recall(cells, depth=inner)
    verdict = (
        "The claim holds here." if middle < ends else "The claim does not hold here: the middle is not found worse."
    )
    own = {
        name: [mean([mean(list(found[task][n].values())) for task in found]) for n in found["single"]]
        for name, found in seeds[0]["own"].items()
    }
    said = "; ".join(f"{name} {v[0]:.2f} to {v[-1]:.2f}" for name, v in own.items())
    fewest, *_, most = OWN["full"]
    return {
        "own": f"Right over both tasks and all depths, from {fewest} to {most:,} sentences: {said}.", "many": MANY,
        "dim": growing_text.SIZES["full"]["dim"], "trained": f"{min(TRAINED)} to {max(TRAINED)}",
        "model": seeds[0]["model"], "samples": seeds[0]["samples"], "longest": lengths[-1], "shortest": lengths[0],
        "ends": _recall(cells, depth=outer, **last), "middle": _recall(cells, depth=inner, **last), "all_ends": ends,
        "all_middle": middle, "verdict": verdict, "short": _recall(cells, task=("single",), length=lengths[:1]),
        "long": _recall(cells, **last), "grain": 1 / seeds[0]["samples"],
    }  # fmt: skip
