"""The ladder, scale XS: 0.05M parameters without embeddings, 0.5M tokens of a standard library.

One base (rope, RMSNorm, pre-norm, SwiGLU, full multi-head attention, AdamW, WSD, deduplicated text), one change an arm;
feed-forward layers at equal parameters. Each arm's rate is swept on other documents with a seed that is no replicate.
"""

from __future__ import annotations

from evidence._ladder import ARMS as EVERY
from evidence._ladder import Scale, study

ROWS: tuple[str, ...] = ()  # the top scale speaks for the rows
CLAIM = "what each change of the base does to the loss, at the smallest scale"
SEEDS, MARGIN, METRIC, PARTIAL = 5, 0.01, "bits per byte", True
TOLERANCE = 1e-3  # float32 training
ARMS = tuple(EVERY)
SWEEP = "factors 1/2, 1, 2 of the rate (1/3, 1, 3 of SGD's and Muon's), further ones while an edge is the best"
PIECES = ("count", *(f"sweep {name}" for name in ARMS), *ARMS)
cells, measure, text_hash, show = study(Scale("xs", 32, 4, 500_000, 1024, 6e-3, ARMS, ARMS))
