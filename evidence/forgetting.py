"""Fine-tuning: overfitting by rows, and what is forgotten, with all weights, some, or adapters.

The base model ({parameters:,} parameters) has learned a made-up language of {tokens} tokens and is tuned on another
one that has {known} of them (`_languages.py`; the study of adapters has the same). Numbers are divergences from a
language's own table in nats a token: on new rows of the new language, and on the old language where one of the last
two tokens is none of the new language's. Tuning says nothing about those places, so what is lost there is forgotten,
not corrected. Tuning takes {steps} steps of {batch} rows; the base has {before:.2f} on the new language and {old:.3f}
on those places of the old one.

Limits: one small model, one shift, {seeds} seeds (new languages, base and rows); one rate, {lr}, except where it says a
tenth, which is high for few rows; the old rows that are mixed in are drawn from the old language itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evidence._languages import KNOWN, SIZES, TOKENS, base, best, divergence, draw, languages, source, tune
from evidence._languages import ROWS as BATCH
from evidence._page import with_interval
from evidence._synthetic import Rows, once
from evidence.adapters import lora
from llmanac.core.pages import Section, table
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.lab.stats import mean
from llmanac.models.freeze import freeze

ROWS = ("finetune/standard",)
CLAIM = (
    "standard fine-tuning is simple, overfits few rows, and forgets what its rows do not show; less change forgets less"
)
SEEDS = 3
TOLERANCE = 0.02  # float32 training

TIMES = 2  # as many steps as in the study of adapters
LR, LORA_LR, MIXED = 1e-2, 1e-2, 0.25
COUNTS: dict[str, int | None] = {"8 rows": 8, "128 rows": 128, "new rows each step": None}
WAYS = ("all weights", "a tenth of the rate", "last block", "LoRA, rank 8", "a quarter old rows")


def mixed(new: Callable[[np.random.Generator], Rows], old: np.ndarray) -> Callable[[np.random.Generator], Rows]:
    """A quarter of the rows of each step are of the old language."""

    def rows(rng: np.random.Generator) -> Rows:
        parts = new(rng), draw(old, rng, round(BATCH * MIXED / (1 - MIXED)))
        ids, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
        return ids, targets

    return rows


def tuned(seed: int, size: str, way: str, count: int | None) -> dict[str, list[float]]:
    """Both divergences, every few steps."""
    old, new = languages(seed)
    model, rng = base(seed, size), numpy_generator(seed, "held out")
    feed = source(new, seed, count)
    test, before = draw(new, rng, 48)[0], draw(old, rng, 96)[0]
    lr = LR / 10 if way == "a tenth of the rate" else LR
    if way == "last block":
        freeze(model, trained=("model.layers.1.*",))
    elif way.startswith("LoRA"):
        lr = LORA_LR
        make_method("adapter", lora(int(way[-1]))).build(seed=seed).apply(model)
    elif way == "a quarter old rows":
        feed = mixed(feed, old)
    found: dict[str, list[float]] = {"new": [], "old": []}

    def look(_: int) -> None:
        found["new"].append(divergence(model, new, test))
        found["old"].append(divergence(model, old, before, only=lambda pairs: (pairs >= KNOWN).any(-1)))

    look(0)
    tune(model, feed, lr, seed, size, look, times=TIMES)
    return found


def measure(seed: int, size: str) -> dict[str, Any]:
    """Every number of rows, and every way with 128 rows."""
    if size == "small":
        return {"rows": {"8 rows": tuned(seed, size, "all weights", 8)},
                "ways": {way: tuned(seed, size, way, 32) for way in WAYS[2:]}}  # fmt: skip

    def kept(way: str, name: str) -> Any:
        run = f"{seed}-{way}-{name}".replace(" ", "-").replace(",", "")
        return once("forgetting", run, lambda: tuned(seed, size, way, COUNTS[name]))

    return {"parameters": base(seed, size).parameter_count(),
            "rows": {name: kept(WAYS[0], name) for name in COUNTS},
            "ways": {way: kept(way, "128 rows") for way in WAYS}}  # fmt: skip


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    steps = [0, *range(SIZES["full"]["every"], SIZES["full"]["tune"] * TIMES + 1, SIZES["full"]["every"])]
    chosen = [steps.index(at) for at in (0, 20, 40, 80, 160, 240)]
    head = ["divergence after steps", *(f"{steps[at]}" for at in chosen)]
    parts = []
    for kind in ("rows", "ways"):
        for name in seeds[0][kind]:
            lines = [[what, *(with_interval([one[kind][name][what][at] for one in seeds]) for at in chosen)]
                     for what in ("new", "old")]  # fmt: skip
            title = f"{name}, all weights" if kind == "rows" else f"{name}, 128 rows"
            if kind == "rows" or name != WAYS[0]:
                parts.append(Section(f"# {title}", [], [table(head, lines)]))
    return [Section("Over the steps", ["Means and half of the 95% t interval over the seeds."]), *parts]


def at_best(seeds: Sequence[dict[str, Any]], kind: str, name: str, what: str) -> list[float]:
    """A divergence of each seed at the step that is best on new rows of the new language."""
    return [one[kind][name][what][best(one[kind][name]["new"])] for one in seeds]


def overfitted(seeds: Sequence[dict[str, Any]], name: str) -> list[float]:
    """How much larger the divergence on new rows is at the end than at the step that is best on them."""
    ends, lowest = [one["rows"][name]["new"][-1] for one in seeds], at_best(seeds, "rows", name, "new")
    return [a / b - 1 for a, b in zip(ends, lowest, strict=True)]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the text."""
    return {
        "parameters": seeds[0]["parameters"], "tokens": TOKENS, "known": KNOWN, "batch": BATCH, "seeds": len(seeds),
        "steps": SIZES["full"]["tune"] * TIMES, "before": mean([one["rows"]["8 rows"]["new"][0] for one in seeds]),
        "old": mean([one["rows"]["8 rows"]["old"][0] for one in seeds]), "lr": LR,
    }  # fmt: skip
