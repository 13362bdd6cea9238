"""The base of the ladder's scale M at half its rate: is ReLU ahead because of its rate?

In `ladder_m` the base (SwiGLU) has the rate that its sweep of one seed found, and lies in two groups; ReLU's rate,
which scale S found, is half of it, and ReLU is ahead. This is the control that was missing: the base at ReLU's rate, on
the same text and seeds, each compared with the cell of `ladder_m` of the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evidence import _cells, ladder_m
from evidence._ladder import METRIC, best, small, text, trained
from evidence._page import with_interval
from llmanac.core.pages import Section, table
from llmanac.lab.complexity import one_thread

ROWS: tuple[str, ...] = ("ffn/swiglu",)
CLAIM = "at ReLU's rate, SwiGLU has a lower loss than ReLU at equal parameters (1.0M, 4M tokens)"
ARMS, SEEDS, MARGIN, METRIC = ("base at half its rate",), 5, 0.01, METRIC
TOLERANCE = ladder_m.TOLERANCE
text_hash = ladder_m.text_hash


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    if size == "small":
        return {METRIC: trained("base", *small(ladder_m.SCALE), seed, 0.5, small(ladder_m.SCALE)[1].report)[METRIC]}
    recipe, prepared = text(ladder_m.SCALE)
    return {"seed": seed} | trained("base", recipe, prepared, seed, best("base", "m") / 2, prepared.report)


def against(seeds: Sequence[dict[str, Any]], arm: str) -> list[float]:
    """The relative difference to an arm of `ladder_m`, seed by seed."""
    other = {cell["cell"]: cell["values"] for cell in _cells.pooled(ladder_m, _cells.PAGES / "ladder_m")[0]}
    return [one[METRIC] / other[f"{arm}.{one['seed']}"][METRIC] - 1 for one in seeds if f"{arm}.{one['seed']}" in other]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    rows = [[arm, f"{with_interval([100 * one for one in against(seeds, arm)], 2)}%"] for arm in ("base", "relu")]
    each = [[str(one["seed"]), f"{one[METRIC]:.3f}"] for one in seeds]
    return [
        Section("Against the arms of `ladder_m`", [], [table(["arm", f"{METRIC}, relative difference"], rows)]),
        Section("Each seed", [], [table(["seed", METRIC], each)]),
    ]
