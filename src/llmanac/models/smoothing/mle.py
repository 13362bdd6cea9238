"""Maximum likelihood: relative frequencies, and 0 for unseen n-grams.

    p(w | h) = c(h w) / c(h .)

The probabilities under which the training text is most likely. What did not occur in a context h that did gets 0
(written as 10^-99, as ARPA files do); for a context that never occurred the shorter one is used.

Shapes: counts (n,) of one order -> p (n,), gamma (contexts,). Jelinek 1976; Jurafsky & Martin, chapter 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.models.ngrams.counts import Counts
from llmanac.models.smoothing import Smoothing, SmoothingSpec, totals

CARD = {
    "title": "Maximum likelihood (no smoothing)",
    "paper": "Jelinek 1976, Continuous speech recognition by statistical methods",
    "reference": "nltk.lm.MLE",
    "test": "tests/references/test_ngram_smoothing.py::test_mle_equals_nltk",
}


@dataclass(frozen=True, kw_only=True)
class Spec(SmoothingSpec):
    """Nothing to choose."""

    def build(self, **dims: Any) -> MaximumLikelihood:
        return MaximumLikelihood()


class MaximumLikelihood(Smoothing):
    """See the module."""

    def level(self, counts: Counts, level: int, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = counts.levels[level]
        total = totals(own, own.counts)
        p = own.counts / np.maximum(np.repeat(total, np.diff(own.starts)), 1.0)
        return p, (total == 0).astype(np.float64)
