"""Modified Kneser-Ney: Kneser-Ney with a discount each for n-grams seen once, twice, and three times or more.

    p_k(w | h) = (a(h w) - D(a(h w))) / a(h .)  +  gamma(h) p_{k-1}(w | h')
    gamma(h)   = (D1 N1(h .) + D2 N2(h .) + D3 N3+(h .)) / a(h .)
    Di = i - (i + 1) Y n_{i+1} / n_i,   Y = n1 / (n1 + 2 n2)

a is the count at the highest order; at the others the number of different tokens seen before h w, or the count where
h w begins a sequence. n_i is how many n-grams of the order have a = i. The best of the classical smoothings. Where the
counts do not allow the closed form (some n_1 .. n_3 is 0, or a discount falls outside 0 .. i) they are 1/2, 1 and 3/2:
what KenLM does under --discount_fallback.

Shapes: a (n,) of one order -> p (n,), gamma (contexts,). Chen & Goodman 1998, section 3, equation 26.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.models.smoothing import Interpolated, SmoothingSpec, counts_of_counts

CARD = {
    "title": "Modified Kneser-Ney (interpolated)",
    "paper": "Chen & Goodman 1998, An empirical study of smoothing techniques for language modeling",
    "reference": "KenLM: lmplz --discount_fallback and query",
    "test": "tests/references/test_ngram_kenlm.py::test_discounts_and_perplexities_are_those_of_kenlm",
}
FALLBACK = np.array([0.0, 0.5, 1.0, 1.5])


@dataclass(frozen=True, kw_only=True)
class Spec(SmoothingSpec):
    """Nothing to choose: the discounts follow from the counts."""

    def build(self, **dims: Any) -> ModifiedKneserNey:
        return ModifiedKneserNey()


class ModifiedKneserNey(Interpolated):
    """See the module."""

    def discount(self, counts: np.ndarray) -> np.ndarray:
        n = counts_of_counts(counts, 4)
        if not n[1:4].all():
            return FALLBACK
        y = n[1] / (n[1] + 2 * n[2])
        found = np.array([0.0, *(i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3))])
        allowed = bool(((found >= 0) & (found <= np.arange(4))).all())
        return found if allowed else FALLBACK
