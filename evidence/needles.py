"""Lost in the middle: a needle at every depth of longer and longer texts.

The model is {model}. A sentence with a seven-digit number is hidden in filler sentences at a depth of 0 to 1, and the
model is asked for the number by its chat template; lengths are the model's own tokens. With "multi-key" eight such
sentences have keys of their own. Greedy decoding, {samples} prompts a cell.

- At {longest:,} tokens of "single" recall is {ends:.2f} at the two ends and {middle:.2f} between them.
- Over all lengths and tasks: {all_ends:.2f} at the ends, {all_middle:.2f} between. {verdict}
- Recall over all depths is {short:.2f} at {shortest:,} tokens and {long:.2f} at {longest:,}.

One small model and few prompts a cell: a difference of one prompt is {grain:.2f}, and no interval is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from evidence._pretrained import WHERE, smollm2
from llmanac.core.errors import DataError
from llmanac.core.spec import make_method
from llmanac.evaluate.needles import DEPTHS, grid
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.lab._svg import heat_map
from llmanac.lab.report import Section, table
from llmanac.tokenizers.load import train_tokenizer

ROWS = ("context/lost-in-the-middle",)
CLAIM = "what is in the middle of a long text is found worst"
SEEDS = 1


def measure(seed: int, size: str) -> dict[str, Any]:
    """The cells of the grids."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if size == "full":
            place = smollm2()
            if place is None:
                raise DataError(f"needles: {WHERE}")
            engine, samples = load_engine(place, device="cpu", runner="native"), 3
            asked = [("single", (512, 1024)), ("multi-key", (512,))]
        else:
            tokenizer = train_tokenizer("utf8", [])
            spec = make_method("lm", {"name": "transformer", "dim": 16, "layers": 1, "max_length": 700})
            engine = Engine(spec.build(vocab_size=tokenizer.vocab_size).initialise(seed).eval(), tokenizer)
            samples, asked = 1, [("single", (600,))]
        depths = DEPTHS if size == "full" else (0.0, 1.0)
        cells = [
            asdict(cell)
            for task, lengths in asked
            for cell in grid(engine, tasks=[task], lengths=lengths, depths=depths, samples=samples, seed=seed)
        ]
        return {"model": "SmolLM2-135M-Instruct (Q4_1)", "samples": samples, "cells": cells}
    finally:
        torch.set_num_threads(threads)


def _recall(cells: Sequence[dict[str, Any]], **chosen: Any) -> float:
    found = [cell["recall"] for cell in cells if all(cell[key] in value for key, value in chosen.items())]
    return sum(found) / max(1, len(found))


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    cells, out = seeds[0]["cells"], []
    for task in dict.fromkeys(cell["task"] for cell in cells):
        by = {(cell["length"], cell["depth"]): cell for cell in cells if cell["task"] == task}
        lengths, depths = ([*dict.fromkeys(key[i] for key in by)] for i in (0, 1))
        rows = [
            [f"{depth:.0%}", *(f"{by[n, depth]['recall']:.2f} / {by[n, depth]['exact']:.2f}" for n in lengths)]
            for depth in depths
        ]
        drawn = heat_map(
            [f"{n:,}" for n in lengths], [f"{d:.0%}" for d in depths],
            [[by[n, d]["recall"] for n in lengths] for d in depths], "tokens", "depth", f"{task}: recall",
        )  # fmt: skip
        head = ["depth", *(f"{n:,} tokens" for n in lengths)]
        out.append(
            Section(
                f"{task}: recall / exact match", [], [table(head, rows)], [{"caption": f"{task}: recall", "svg": drawn}]
            )
        )
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
    return {
        "model": seeds[0]["model"], "samples": seeds[0]["samples"], "longest": lengths[-1], "shortest": lengths[0],
        "ends": _recall(cells, depth=outer, **last), "middle": _recall(cells, depth=inner, **last), "all_ends": ends,
        "all_middle": middle, "verdict": verdict, "short": _recall(cells, task=("single",), length=lengths[:1]),
        "long": _recall(cells, **last), "grain": 1 / seeds[0]["samples"],
    }  # fmt: skip
