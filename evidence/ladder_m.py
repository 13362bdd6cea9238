"""The ladder, scale M: 0.9M parameters without embeddings, 4M tokens of a standard library.

As `ladder_s`, about five times as large. Rates are swept for the base and the optimizers; any other arm's rate is its
rate at scale S, moved as far as the base's was. A verdict asks that the base is below the 5-gram of the same tokens,
which it is in every seed.

Seeds of one arm lie further apart than at S, and in two groups: the base has 1.45 to 1.52 in four seeds and 1.30 in
one, ReLU about 1.22 in four and 1.54 in one. Learned positions have one group. ReLU's rate is half of
the base's, as at S; at that rate the base is no better ([control](../ladder_m_half/page.md)), so it is not the reason.
An interval of five such values is a rough one.
"""

from __future__ import annotations

from evidence._ladder import OPTIMIZERS, Scale, grown, study

__all__ = ["grown"]  # claims measure it
ROWS: tuple[str, ...] = ("position/learned", "position/rope", "ffn/swiglu")
CLAIM = "what each change of the base does to the loss, at twenty times the smallest scale"
SEEDS, MARGIN, METRIC, PARTIAL = 5, 0.01, "bits per byte", True
TOLERANCE = 1e-3  # float32 training
ARMS = ("base", "relu", "learned", "layernorm", "post-norm", "none", "grouped-query", "window", "gru", "linear",
        "sinusoidal", "geglu", "feedforward", "muon", "sgd", "bpe-dropout", "no deduplication")  # fmt: skip
SWEEP = "factors 1/2, 1, 2 of the base's rate (1/3, 1, 3 of SGD's and Muon's), further ones while an edge is the best"
SWEPT = ("base", *OPTIMIZERS)
PIECES = ("count", *(f"sweep {name}" for name in SWEPT), *ARMS)
SCALE = Scale("m", 128, 5, 4_000_000, 4096, 4e-3, ARMS, SWEPT, below="s")
cells, measure, text_hash, show = study(SCALE)
