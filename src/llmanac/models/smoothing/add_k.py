"""Add-k (Lidstone; Laplace for k = 1): k is added to the count of every n-gram.

    p(w | h) = (c(h w) + k) / (c(h .) + k V)

V counts the token that begins a text too, as NLTK's does. Shorter contexts are not used: all tokens not seen
after h are equally likely, and an unseen context gives 1/V. With a vocabulary of thousands this subtracts far
too much from what was seen; it is the baseline of the other methods.

Shapes: counts (n,) of one order -> p (n,), gamma (contexts,). Lidstone 1920; Gale & Church 1994.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.errors import SpecError
from llmanac.models.ngrams.counts import Counts
from llmanac.models.smoothing import Smoothing, SmoothingSpec, totals

CARD = {
    "title": "Add-k smoothing (Lidstone)",
    "paper": "Gale & Church 1994, What's wrong with adding one?",
    "reference": "nltk.lm.Lidstone",
    "test": "tests/references/test_ngram_smoothing.py::test_add_k_equals_nltk",
    "aliases": {"laplace": {"k": 1.0}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(SmoothingSpec):
    """k: what is added to every count."""

    k: float = 0.1

    def __post_init__(self) -> None:
        if not (self.k > 0 and math.isfinite(self.k)):
            raise SpecError(f"k: {self.k} must be above 0; for 0 use smoothing = mle")

    def build(self, **dims: Any) -> AddK:
        return AddK(self.k)


class AddK(Smoothing):
    """See the module."""

    without_backoff = True

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k

    def level(self, counts: Counts, level: int, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own, size = counts.levels[level], self.k * counts.vocab_size
        total = totals(own, own.counts)
        p = (own.counts + self.k) / (np.repeat(total, np.diff(own.starts)) + size)
        return p, size / (total + size)
