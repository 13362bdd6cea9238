"""Min-p sampling: tokens with at least a fraction of the best token's probability stay.

    V = {v : p(v) >= m max_u p(u)}

The cut scales with how sure the model is, and needs no sum or sort. Logits (B, V) in and out, with `-inf` for what was
dropped.
"""

import math
from dataclasses import dataclass
from typing import Any

from llmanac.core.ranges import FRACTION, within
from llmanac.generate.decoding import Array, DecodingSpec, LogitsProcessor, Sequences, cut

CARD = {
    "title": "Min-p sampling",
    "paper": "https://arxiv.org/abs/2407.01082",
    "reference": "transformers MinPLogitsWarper",
    "test": "tests/references/test_decoding_methods.py::test_min_p_equals_transformers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(DecodingSpec):
    """`m` in [0, 1]: 0 keeps all, 1 keeps the best token and what ties with it."""

    m: float = 0.05

    ranges = within(FRACTION, "m")

    def build(self, **dims: Any) -> LogitsProcessor:
        if self.m == 0:
            return lambda logits, sequences=(): logits
        least = math.log(self.m)

        def keep(logits: Array, sequences: Sequences = ()) -> Array:
            return cut(logits, logits < logits.max(-1, keepdims=True) + least)

        return keep
