"""Feed-forward layers at equal parameters: ReLU, SwiGLU and GeGLU."""

from __future__ import annotations

from evidence._compared import comparisons

ROWS = ("ffn/swiglu", "ffn/geglu", "ffn/relu")
CLAIM = "gated feed-forward layers beat ReLU at equal parameters"
SEEDS, REPLICATE = 1, "measurement"  # each comparison has seeds of its own
TOLERANCE = 1e-3  # float32 training
PIECES = ("feed_forward_small", "feed_forward_medium")
measure, show = comparisons(*PIECES)
