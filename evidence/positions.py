"""Where position enters: rotary, learned and sinusoidal positions, and none, at equal tokens."""

from __future__ import annotations

from evidence._compared import comparisons

ROWS = ("position/rope", "position/learned", "position/sinusoidal")
CLAIM = "how position enters decides the loss: rotary positions against learned and sinusoidal ones, and none"
SEEDS, REPLICATE = 1, "measurement"  # each comparison has seeds of its own
TOLERANCE = 1e-3  # float32 training
PIECES = ("positions_small", "positions_medium")
measure, show = comparisons(*PIECES)
