"""Kneser-Ney: one discount is subtracted from every count, and shorter contexts count the different contexts of a word.

    p_k(w | h) = max(a(h w) - D, 0) / a(h .)  +  D N(h .) / a(h .)  p_{k-1}(w | h')       D = n1 / (n1 + 2 n2)

a is the count at the highest order; at the others it is the number of different tokens seen before h w ("Francisco" is
frequent, but only after "San"). N(h .) is the number of different tokens after h; n1 and n2 are how many n-grams of the
order have a = 1 and a = 2. Where one of them is 0 the discount is 1/2.

Shapes: a (n,) of one order -> p (n,), gamma (contexts,). Kneser & Ney 1995; Chen & Goodman 1998, section 2.7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.ranges import FRACTION, within
from llmanac.models.smoothing import Interpolated, SmoothingSpec, counts_of_counts

CARD = {
    "title": "Kneser-Ney (interpolated, one discount)",
    "paper": "Kneser & Ney 1995, Improved backing-off for m-gram language modeling",
    "reference": "the formula over dictionaries in float64; nltk.lm.KneserNeyInterpolated at order 2",
    "test": "tests/references/test_ngram_smoothing.py::test_kneser_ney_equals_its_definition",
}


@dataclass(frozen=True, kw_only=True)
class Spec(SmoothingSpec):
    """discount: D of every order; estimated from the counts where it is not given."""

    discount: float | None = None

    ranges = within(FRACTION, "discount")

    def build(self, **dims: Any) -> KneserNey:
        return KneserNey(self.discount)


class KneserNey(Interpolated):
    """See the module."""

    def __init__(self, fixed: float | None) -> None:
        super().__init__()
        self.fixed = fixed

    def discount(self, counts: np.ndarray) -> np.ndarray:
        n = counts_of_counts(counts, 2)
        d = n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] else 0.5
        d = d if self.fixed is None else self.fixed
        return np.array([0.0, d, d, d])
