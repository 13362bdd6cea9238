"""Our recipes against a nanoGPT-style one at equal time."""

from __future__ import annotations

from evidence._compared import comparisons

ROWS: tuple[str, ...] = ()  # complete recipes: many things differ on purpose
CLAIM = "the default recipe is better than a nanoGPT-style one at equal training time"
SEEDS, REPLICATE = 1, "measurement"  # each comparison has seeds of its own
TOLERANCE = 1e-3  # float32 training
PIECES = ("nanogpt_style",)
measure, show = comparisons(*PIECES)
