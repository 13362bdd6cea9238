"""Training on at a longer length, by how a model knows positions.

Models of {parameters:,} parameters, trained on {tokens:,} tokens in rows of {length}, are trained on for {more:,}
tokens ({extra:.0%} as many) in rows of {long}; a second run reads as many tokens in rows of {length}, so that what
training as such gives is not taken for what the length gives. Perplexity is that of held-out documents in rows of
{long} tokens; "past" are the positions {length} to {long}. Learned positions have {long} rows, of which the first
training reaches {length}. YaRN (factor {factor}) acts on the trained RoPE model, and stays while it is trained on.

The verdict compares rows of {long} with as many tokens in rows of {length} (YaRN: with before). One small model, little
training, one learning rate and one pair of lengths.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from typing import Any

import torch

from evidence._grid import LENGTH, STATED, model_spec, recipe, text
from evidence._page import with_interval
from evidence.extrapolation import FACTOR, by_position, rows
from llmanac.core.pages import Section, table
from llmanac.core.spec import patch
from llmanac.lab import words
from llmanac.lab.stats import compare_arms, mean
from llmanac.recipes.parts import RecipeParts
from llmanac.train.loop import train

ROWS = ("context/train-longer",)
CLAIM = "training on at a longer length extends the context: it lowers the perplexity past the first training's length"
SEEDS = 3
TOLERANCE = 1e-3  # float32 training
LONG = FACTOR * LENGTH
LAYERS, STEPS = 2, 200  # of the first training, 512 tokens a step
MORE, TOKENS, RATE = 40, 1024, 1e-3  # steps, tokens a step and learning rate of the second training
YARN = {"name": "rope", "scaling": {"type": "yarn", "factor": float(FACTOR)}}
POSITIONS: dict[str, Any] = {
    "rope": "rope", "rope, yarn": YARN, "alibi": "alibi", "learned": {"name": "learned", "rows": LONG},
}  # fmt: skip
WAYS = BEFORE, SAME, LONGER = "before", f"rows of {LENGTH}", f"rows of {LONG}"


def measure(seed: int, size: str) -> dict[str, Any]:
    """Loss by halves of the first length, before and after the second training, by positions."""
    base = recipe(size).train
    length = base.length
    held = rows(size, text(size).report, length)
    full = size == "full"
    first = patch(base, {"steps": STEPS} if full else {})
    second = patch(base, {"batch_tokens": TOKENS, "steps": MORE, "optimizer.lr": RATE} if full else {})
    found: dict[str, Any] = {"losses": {}}
    models: dict[str, Any] = {}
    for name in POSITIONS if full else ("rope", "rope, yarn"):
        position = POSITIONS[name]
        if position is YARN:
            position = {**YARN, "scaling": {**YARN["scaling"], "original_length": length}}
            state = models["rope"].state_dict()
        else:
            state = None
        layers: dict[str, Any] = {"layers": LAYERS} if full else {}
        spec = model_spec(size, position=position, **layers)
        model = _trained(spec, state, None if state else first, seed, size)
        models[name] = model
        found["parameters"] = found.get("parameters", model.parameter_count())  # of RoPE
        losses = {BEFORE: by_position(model, held, length)}
        for way, times in ((SAME, 1), (LONGER, FACTOR)):
            if way == LONGER or (full and state is None):
                asked = patch(second, {"length": times * length})
                losses[way] = by_position(
                    _trained(spec, model.state_dict(), asked, seed + 1000, size), held, length
                )  # fmt: skip
        found["losses"][name] = losses
    return found


def _trained(spec: Any, state: Any, asked: Any, seed: int, size: str) -> Any:
    """A model from these tensors, or its initial ones, after a training, if any."""
    whole = dataclasses.replace(recipe(size), model=spec, **({"train": asked} if asked else {}))
    stages = RecipeParts(whole, text(size), torch.device("cpu"))
    model = stages.model(seed)
    if state is not None:
        model.load_state_dict(state)
    if asked:
        with tempfile.TemporaryDirectory() as folder:
            train(model, stages.rows(seed), stages.objective, asked, folder, seed=seed, report=lambda _: None)
    return model.eval()


def perplexities(seeds: Sequence[dict[str, Any]], name: str, part: slice) -> dict[str, list[float]]:
    """Of each seed over a range of halves of the first length, by way."""
    ways = seeds[0]["losses"][name]
    return {way: [math.exp(mean(one["losses"][name][way][part])) for one in seeds] for way in ways}


PAST, WITHIN = slice(2, None), slice(0, 2)


def _row(seeds: Sequence[dict[str, Any]], name: str, part: slice) -> list[str]:
    found = perplexities(seeds, name, part)
    first = SAME if SAME in found else BEFORE
    cells = [with_interval(found[way], 1) if way in found else "" for way in WAYS]
    (c,) = compare_arms({first: found[first], LONGER: found[LONGER]}, first, better="lower", **STATED)
    return [name, *cells, words.difference(vars(c)), words.interval(vars(c)), words.verdict(vars(c), "seed")]


def lowered(seeds: Sequence[dict[str, Any]], name: str) -> list[float]:
    """The relative change of the perplexity past the first length by longer rows, over as many tokens in short ones."""
    found = perplexities(seeds, name, PAST)
    return [a / b - 1 for a, b in zip(found[LONGER], found[SAME], strict=True)]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    names = list(seeds[0]["losses"])
    heads = ["", *WAYS, "difference", "95% interval", "verdict"]
    text = (
        f"The difference is rows of {LONG} less rows of {LENGTH}, paired by seed; for YaRN, which had no second "
        "training in short rows, less before."
    )
    places = [f"{i * LENGTH // 2}–{(i + 1) * LENGTH // 2}" for i in range(2 * FACTOR)]
    losses = [
        [f"{name}, {way}", *(f"{mean(v):.3f}" for v in zip(*(s["losses"][name][way] for s in seeds), strict=True))]
        for name in names
        for way in seeds[0]["losses"][name]
    ]
    parts = (
        (f"Perplexity past the first length ({LENGTH}–{LONG})", text, PAST),
        (f"Perplexity within it (0–{LENGTH})", f"Whether short texts suffer. {text}", WITHIN),
    )
    shown = [Section(t, [said], [table(heads, [_row(seeds, n, part) for n in names], 0)]) for t, said, part in parts]
    return [
        *shown,
        Section("Loss by position", ["Nats a token, means of the seeds."], [table(["", *places], losses, 0)]),
    ]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    tokens = STEPS * recipe("full").train.batch_tokens
    return {
        "parameters": seeds[0]["parameters"], "tokens": tokens, "length": LENGTH, "long": LONG, "more": MORE * TOKENS,
        "extra": MORE * TOKENS / tokens, "factor": FACTOR,
    }  # fmt: skip
