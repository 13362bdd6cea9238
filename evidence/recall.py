"""Associative recall over distance: full, windowed, sparse and linear attention.

A row has {facts} facts, then filler, and asks for all of them {blocks} times, with more filler before each time. A fact
is one place, the sum of the embeddings of a key and of a value (of {keys} each); a question is a key, and its answer
the value that came with it. What counts is the distance from the fact to the question. In half of the rows the facts
come first, in the others after {before} places of filler. Models of two blocks of width {dim} and {parameters:,}
parameters, {steps} steps of {rows} rows (AdamW at {lr}, cosine), the same rows for all. What writes to the residual
stream does not start at 0 here. Guessing is right in {chance:.0%}. The window is {window} places, so that two layers
reach {reach}; sparse attention adds {globals} global tokens, which are the first of a row, and big-bird two random
blocks of 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from evidence._page import with_interval
from evidence._synthetic import Rows, fit, once, over, percent, right, writing
from llmanac.core.pages import Section, table
from llmanac.core.rng import numpy_generator, torch_generator
from llmanac.core.spec import make_method
from llmanac.core.types import IGNORE, Batch, OutputRequest
from llmanac.lab.stats import mean

ROWS = ("attention/sliding-window", "attention/sparse-patterns", "attention/linear", "lm/transformer")
CLAIM = (
    "attention reaches any distance, a window only as far as its layers reach, global tokens what is in them; linear "
    "attention recalls less than softmax, and random features approach softmax as their number grows"
)
SEEDS = 3
TOLERANCE = 0.05  # float32 training; a place more or less

WINDOW, GLOBALS, KEYS, BEFORE = 16, 16, 8, 16
SPARSE = {"window": WINDOW, "global_tokens": GLOBALS, "block": 8, "random_blocks": 2}
ATTENTION: dict[str, dict[str, Any]] = {
    "full": {"name": "softmax"}, "sliding-window": {"name": "sliding-window", "window": WINDOW},
    "longformer": {"name": "longformer", **SPARSE, "random_blocks": 0}, "big-bird": {"name": "big-bird", **SPARSE},
    "linear": {"name": "linear"}, "random-features": {"name": "random-features", "count": 32},
    "linear-longer": {"name": "linear"},
}  # fmt: skip
SIZES = {"full": {"dim": 32, "rows": 16, "steps": 320},
         "small": {"dim": 16, "rows": 4, "steps": 3}}  # fmt: skip
LONGER = 3  # times the steps
FFN = {"name": "swiglu", "width": 161}
LR, NONE, FILLER = 5e-3, 2 * KEYS, (2 * KEYS + 1, 2 * KEYS + 3)
BINS = ((1, 15), (16, 30), (31, 80))  # distances; two windows reach 30
BLOCKS = ((0, 6), (6, 14), (24, 36))  # filler before each time that the facts are asked for
COUNTS, SPREADS = (8, 16, 32, 64, 128, 256, 512), (0.25, 1.0)  # features; standard deviations of the scores


def draw(rng: np.random.Generator, rows: int, facts: int, before: int) -> tuple[Rows, np.ndarray]:
    """Rows of two ids a place, and the distance of every place from the fact that it asks for."""

    def filler(count: int) -> np.ndarray:
        return np.stack([rng.integers(*FILLER, (rows, count)), np.full((rows, count), NONE)], 2)

    keys = rng.random((rows, KEYS)).argsort(1)[:, :facts]
    values = rng.integers(KEYS, 2 * KEYS, keys.shape)
    parts, targets = [filler(before), np.stack([keys, values], 2)], [np.full((rows, before + facts), IGNORE)]
    distances, at = [np.zeros((rows, before + facts), int)], before + facts
    for low, high in BLOCKS:
        gap, order = int(rng.integers(low, high + 1)), rng.random(keys.shape).argsort(1)
        asked = np.take_along_axis(keys, order, 1)
        parts += [filler(gap), np.stack([asked, np.full_like(asked, NONE)], 2)]
        targets += [np.full((rows, gap), IGNORE), np.take_along_axis(values, order, 1)]
        distances += [np.zeros((rows, gap), int), at + gap + np.arange(facts) - before - order]
        at += gap + facts
    ids = np.concatenate(parts, 1).reshape(rows, -1)
    return (ids, np.concatenate(targets, 1)), np.concatenate(distances, 1)


def trained(name: str, seed: int, size: str) -> dict[str, Any]:
    """Accuracy by distance and by number of facts."""
    chosen = SIZES[size]
    spec = {"name": "transformer", "dim": chosen["dim"], "layers": 2, "max_length": 256,
            "blocks": [{"name": "pre-norm", "mixer": ATTENTION[name], "ffn": FFN}]}  # fmt: skip
    model = writing(make_method("lm", spec).build(vocab_size=FILLER[1]).initialise(seed), seed)
    model.attention_form = "plain"

    def rows(rng: np.random.Generator) -> Rows:
        return draw(rng, chosen["rows"], int(rng.choice([1, 2, 4, 8])), int(rng.choice([0, BEFORE])))[0]

    losses = fit(
        model,
        rows,
        chosen["steps"] * (LONGER if name == "linear-longer" else 1),
        lr=LR,
        schedule={"name": "cosine", "warmup": 0.1},
        seed=seed,
    )
    found: dict[str, Any] = {"parameters": model.parameter_count(), "loss": float(np.mean(losses[-50:]))}
    rng = numpy_generator(seed, "test")
    for place, facts, before in (("later", 4, BEFORE), ("first", 4, 0), ("many", 8, BEFORE)):
        tests = [draw(rng, 4 * chosen["rows"], facts, before) for _ in range(6)]
        said = np.concatenate([right(model, test).ravel() for test, _ in tests])
        far = np.concatenate([distance.ravel() for _, distance in tests])
        found[place] = {f"{a}-{b}": float(np.nanmean(said[(far >= a) & (far <= b)])) for a, b in BINS}
    return found


@torch.no_grad()
def approximation(seed: int, counts: Sequence[int]) -> dict[str, dict[str, float]]:
    """Relative error of one layer of random features against softmax attention with the same weights."""
    x = torch.randn(4, 64, 32, generator=torch_generator(seed, "tokens"))

    def read(mixer: dict[str, Any], spread: float) -> torch.Tensor:
        spec = {"name": "transformer", "dim": 32, "layers": 1, "position": "none",
                "blocks": [{"name": "pre-norm", "mixer": mixer, "ffn": "none"}]}  # fmt: skip
        model = make_method("lm", spec).build(vocab_size=8).initialise(seed)
        attention = model.model.layers[0].self_attn
        attention.o_proj.weight.copy_(torch.eye(32))
        attention.q_proj.weight.mul_(spread)
        found: torch.Tensor = model(Batch(embeddings=x), want=OutputRequest(layers=(1,))).layers[0] - x
        return found

    out = {}
    for spread in SPREADS:
        exact = read({"name": "softmax"}, spread)
        for count in counts:
            mixers = [{"name": "random-features", "count": count, "seed": drawn} for drawn in range(8)]
            errors = [float((read(mixer, spread) - exact).norm() / exact.norm()) for mixer in mixers]
            out.setdefault(str(spread), {})[str(count)] = mean(errors)
    return out


def measure(seed: int, size: str) -> dict[str, Any]:
    """Every arm."""
    if size == "small":
        arms = {name: trained(name, seed, size) for name in ("full", "sliding-window", "linear")}
        return {"arms": arms, "errors": approximation(seed, COUNTS[:3])}
    arms = {name: once("recall", f"{name}-{seed}", lambda n=name: trained(n, seed, size))
            for name in ATTENTION}  # fmt: skip
    return {"arms": arms, "errors": approximation(seed, COUNTS)}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    arms, bins = list(seeds[0]["arms"]), [f"{a}-{b}" for a, b in BINS]
    parts = []
    for place, title in (("later", f"4 facts, after {BEFORE} places of filler"), ("first", "4 facts, first in the row"),
                         ("many", f"{KEYS} facts, after {BEFORE} places of filler")):  # fmt: skip
        rows = [[name, *(percent(over(seeds, "arms", name, place, b)) for b in bins)] for name in arms]
        parts.append(Section(f"# {title}", [], [table(["percent right at distance", *bins], rows)]))
    spreads = list(seeds[0]["errors"])
    rows = [[m, *(with_interval(over(seeds, "errors", s, m)) for s in spreads)] for m in seeds[0]["errors"][spreads[0]]]
    head = ["features", *(f"scores of deviation {s}" for s in spreads)]
    error = (
        "Norm of the difference over the norm of softmax attention's output, heads of width 8, one layer, no training."
    )
    return [
        Section("Percent right", ["Means and half of the 95% t interval over the seeds."]), *parts,
        Section("Random features against softmax", [error], [table(head, rows)]),
    ]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the text."""
    chance, reach, full = 1 / KEYS, 2 * (WINDOW - 1), SIZES["full"]
    return {
        **full, "parameters": seeds[0]["arms"]["full"]["parameters"],
        "facts": "1, 2, 4 or 8", "blocks": len(BLOCKS), "keys": KEYS, "before": BEFORE, "lr": LR,
        "chance": chance, "window": WINDOW, "reach": reach, "globals": GLOBALS,
    }  # fmt: skip
