"""Greedy decoding: the most probable token, every time.

    y_t = argmax_v p(v | x, y_<t)

Only the arg max of each row of logits (B, V) stays finite; of equal maxima the lowest id stays, as in every peer. The
sequence it builds need not be the most probable one: a good continuation may start with a token that is second best.
No random number is used.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from llmanac.generate.decoding import Array, DecodingSpec, LogitsProcessor, Sequences, gather, nothing

CARD = {
    "title": "Greedy decoding",
    "paper": "Sutskever et al. 2014, Sequence to Sequence Learning with Neural Networks, section 3.2 (beam of one)",
    "reference": "transformers generate(do_sample=False)",
}


@dataclass(frozen=True, kw_only=True)
class Spec(DecodingSpec):
    """Greedy decoding has no choices."""

    stochastic: ClassVar[bool] = False

    def build(self, **dims: Any) -> LogitsProcessor:
        return keep_best


def keep_best(logits: Array, sequences: Sequences = ()) -> Array:
    """Logits (B, V) with everything but each row's first maximum at `-inf`."""
    best, kept = logits.argmax(-1)[..., None], nothing(logits)
    np.put_along_axis(kept, best, gather(logits, best), -1)
    return kept
