"""Our recipes against a nanoGPT-style one at equal time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evidence._compared import compared, shown, trained
from llmanac.lab.report import Section

ROWS: tuple[str, ...] = ()  # whole recipes: many things differ on purpose
CLAIM = "the default recipe is better than a nanoGPT-style one at equal training time"
SEEDS, REPLICATE = 1, "measurement"  # each comparison has seeds of its own
TOLERANCE = 1e-3  # float32 training
NAMES = ("nanogpt_style",)


def measure(seed: int, size: str) -> dict[str, Any]:
    return {NAMES[0]: trained(NAMES[0], seed)} if size == "small" else compared(*NAMES)


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    return [section for name, result in seeds[0].items() for section in shown(name, result)]
