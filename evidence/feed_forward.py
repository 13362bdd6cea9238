"""Feed-forward layers at equal parameters: ReLU, SwiGLU and GeGLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evidence._compared import compared, shown, trained
from llmanac.lab.report import Section

ROWS = ("ffn/swiglu", "ffn/geglu", "ffn/relu")
CLAIM = "gated feed-forward layers beat ReLU at equal parameters"
SEEDS, REPLICATE = 1, "measurement"  # each comparison has seeds of its own
TOLERANCE = 1e-3  # float32 training
NAMES = ("feed_forward_small", "feed_forward_medium")


def measure(seed: int, size: str) -> dict[str, Any]:
    return {NAMES[0]: trained(NAMES[0], seed)} if size == "small" else compared(*NAMES)


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    return [section for name, result in seeds[0].items() for section in shown(name, result)]
