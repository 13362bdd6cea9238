"""Locally typical sampling: tokens whose surprise is nearest to the expected surprise, until their mass reaches p.

    H = -sum_v p(v) log p(v);  sort by |-log p(v) - H| ascending;  token i stays  iff  sum_{j < i} p_j < p,
    and so does every token as near to H as the last of these

Very probable tokens may be dropped where the distribution is flat: text then carries about as much information a token
as the model expects. Logits (B, V) in, logits (B, V) out, with `-inf` for what was dropped.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.ranges import SOME, within
from llmanac.generate.decoding import Array, DecodingSpec, LogitsProcessor, Sequences, cut, gather, log_softmax

CARD = {
    "title": "Locally typical sampling",
    "paper": "https://arxiv.org/abs/2202.00666",
    "reference": "transformers TypicalLogitsWarper",
    "test": "tests/references/test_decoding_methods.py::test_typical_equals_transformers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(DecodingSpec):
    """`p` in (0, 1]: 1 keeps all."""

    p: float = 0.9

    ranges = within(SOME, "p")

    def build(self, **dims: Any) -> LogitsProcessor:
        p = self.p

        def keep(logits: Array, sequences: Sequences = ()) -> Array:
            if p == 1:
                return logits
            logs = log_softmax(logits)
            mass = np.exp(logs)
            entropy = -(mass * np.where(mass > 0, logs, 0)).sum(-1, keepdims=True)
            distance = np.abs(-logs - entropy)
            order = np.argsort(distance, -1, kind="stable")
            last = (gather(mass, order).cumsum(-1) < p).sum(-1, keepdims=True)
            furthest = gather(distance, gather(order, np.minimum(last, logits.shape[-1] - 1)))
            return cut(logits, distance > furthest)

        return keep
