"""The ladder, scale S: 0.2M parameters without embeddings, 2M tokens of a standard library.

As `ladder_xs`, four times as large, with a sweep of each arm's rate of its own.
"""

from __future__ import annotations

from evidence._ladder import ARMS as EVERY
from evidence._ladder import Scale, study

ROWS: tuple[str, ...] = ("ffn/geglu",)  # of the others the top scale speaks
CLAIM = "what each change of the base does to the loss, at four times the smallest scale"
SEEDS, MARGIN, METRIC, PARTIAL = 5, 0.01, "bits per byte", True
TOLERANCE = 1e-3  # float32 training
ARMS = tuple(EVERY)
SWEEP = "factors 1/2, 1, 2 of the rate (1/3, 1, 3 of SGD's and Muon's), further ones while an edge is the best"
PIECES = ("count", *(f"sweep {name}" for name in ARMS), *ARMS)
cells, measure, text_hash, show = study(Scale("s", 64, 4, 2_000_000, 2048, 4e-3, ARMS, ARMS))
