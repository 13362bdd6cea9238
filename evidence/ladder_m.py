"""The ladder, scale M: 0.9M parameters without embeddings, 4M tokens of a standard library.

As `ladder_s`, about five times as large. Rates are swept for the base and the optimizers; any other arm's rate is its
rate at scale S, moved as far as the base's was. A verdict asks that the base is below the 5-gram of the same tokens.
"""

from __future__ import annotations

from evidence._ladder import OPTIMIZERS, Scale, study

ROWS: tuple[str, ...] = ()
CLAIM = "what each change of the base does to the loss, at twenty times the smallest scale"
SEEDS, MARGIN, METRIC, PARTIAL = 5, 0.01, "bits per byte", True
TOLERANCE = 1e-3  # float32 training
ARMS = ("base", "relu", "learned", "layernorm", "post-norm", "none", "grouped-query", "window", "gru", "linear",
        "sinusoidal", "geglu", "feedforward", "muon", "sgd", "bpe-dropout", "no deduplication")  # fmt: skip
SWEEP = "factors 1/2, 1, 2 of the base's rate (1/3, 1, 3 of SGD's and Muon's), further ones while an edge is the best"
SWEPT = ("base", *OPTIMIZERS)
PIECES = ("count", *(f"sweep {name}" for name in SWEPT), *ARMS)
cells, measure, text_hash, show = study(Scale("m", 128, 5, 4_000_000, 4096, 4e-3, ARMS, SWEPT, below="s"))
