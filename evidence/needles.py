"""Lost in the middle: a needle at every depth of longer and longer texts.

The model is {model}. A sentence with a seven-digit number is hidden in filler sentences at a depth of 0 to 1, and the
model is asked for the number by its chat template; lengths are the model's own tokens. With "multi-key" eight such
sentences have keys of their own. Greedy decoding; prompts a cell by length: {prompts}. Every prompt has keys and
numbers of its own.

The ends are depths 0% and 100%. A cell has few prompts, so that two cells can hardly be told apart. With "multi-key"
the sentence that is asked for is at the ends also the first or last of the eight. One model.

The same for models of our own, by how they know positions: those of `growing_text` (two blocks of width {dim}, a place
is a sentence), trained on texts of {trained} sentences, which the {compared} compared here exceed. "Single" is one
statement, "multi-key" {many}, of which one is asked for; texts a cell, each drawn for it: {texts}. The task does not
depend on order, which favors a model without positions. One training each: the intervals are over texts, not over
trainings.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from evidence import growing_text
from evidence._facts import draw
from evidence._intervals import newcombe_interval
from evidence._pretrained import needed
from evidence._synthetic import once
from evidence._verdicts import Estimate
from evidence.growing_text import TRAINED, answers, read, trained
from llmanac.core.pages import Section, heat_map, table
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.evaluate.needles import DEPTHS, MANY, grid
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.lab.complexity import one_thread
from llmanac.tokenizers.load import train_tokenizer

ROWS = ("context/lost-in-the-middle",)
CLAIM = "what is in the middle of a long text is found worst"
SEEDS = 1
TOLERANCE = 0.05  # float32 training
SAMPLES = {"single": {512: 2, 1024: 2, 2048: 1, 4096: 1}, "multi-key": {512: 6, 1024: 6, 2048: 2, 4096: 1}}  # a cell
FEWER = {600: (0.0, 1.0), 4096: (0.0, 0.5, 1.0)}  # depths of a length, where not all
POSITIONS = ("none", "alibi", "rope")
ENDS = (0.0, 1.0)
OWN = {"full": {64: 24, 256: 24, 1024: 12, 4096: 4}, "small": {16: 2}}  # texts a cell, by length


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """The cells of the grids."""
    if size == "full":
        engine, samples = load_engine(needed(), device="cpu", runner="native"), SAMPLES
    else:
        tokenizer = train_tokenizer("utf8", [])
        spec = make_method("lm", {"name": "transformer", "dim": 16, "layers": 1, "max_length": 700})
        engine = Engine(spec.build(vocab_size=tokenizer.vocab_size).initialise(seed).eval(), tokenizer)
        samples = {"single": {600: 1}}
    cells = []
    for task, length, count in [(task, *pair) for task, counts in samples.items() for pair in counts.items()]:
        chosen = {"tasks": [task], "lengths": [length], "depths": FEWER.get(length, DEPTHS), "samples": count}
        made = functools.partial(_cells, engine, chosen, seed)
        cells += once("needles", f"{task}-{length}", made) if size == "full" else made()
    own = {}
    for name in POSITIONS if size == "full" else POSITIONS[:1]:
        part = functools.partial(by_position, name, seed, size)
        own[name] = once("needles", f"own-{name}", part) if size == "full" else part()
    return {"model": "SmolLM2-135M-Instruct (Q4_1)", "cells": cells, "own": own}


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


def _counts(cells: Sequence[dict[str, Any]], task: str, ends: bool) -> tuple[int, int]:
    """Right answers and prompts of a task, at the ends or between them."""
    chosen = [cell for cell in cells if cell["task"] == task and (cell["depth"] in ENDS) is ends]
    return sum(round(cell["recall"] * cell["samples"]) for cell in chosen), sum(cell["samples"] for cell in chosen)


def middle_against_ends(seeds: Sequence[dict[str, Any]], task: str) -> Estimate:
    """The share of needles found in the middle less that at the ends, by Newcombe."""
    middle, ends = (_counts(seeds[0]["cells"], task, at_ends) for at_ends in (False, True))
    return Estimate(*newcombe_interval(*middle, *ends), n=middle[1] + ends[1])


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
        out.append(Section(f"{task}: recall / exact match", [], [table(head, rows)], [drawn]))
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
    prompts = [
        f"{', '.join(f'{count} of {length:,} tokens' for length, count in counts.items())} ({task})"
        for task, counts in SAMPLES.items()
    ]
    past = [f"{length:,}" for length in OWN["full"] if length > max(TRAINED)]
    return {
        "model": seeds[0]["model"], "prompts": "; ".join(prompts),
        "many": MANY, "dim": growing_text.SIZES["full"]["dim"], "trained": f"{min(TRAINED)} to {max(TRAINED)}",
        "texts": ", ".join(f"{count} of {length:,} sentences" for length, count in OWN["full"].items()),
        "compared": f"{', '.join(past[:-1])} and {past[-1]}",
    }  # fmt: skip
