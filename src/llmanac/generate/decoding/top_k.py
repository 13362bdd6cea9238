"""Top-k sampling: only the k most probable tokens stay.

    V_k = {v : z_v >= the k-th largest z},    p'(v) = p(v) / sum_{u in V_k} p(u) for v in V_k, else 0

A fixed cut: where the distribution is flat it drops good tokens, where it is peaked it keeps bad ones. Tokens that tie
with the k-th all stay, as in transformers, so that the result does not depend on an order of sorting. Logits (B, V) in,
logits (B, V) out, with `-inf` for what was dropped.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.ranges import COUNT, within
from llmanac.generate.decoding import Array, DecodingSpec, LogitsProcessor, Sequences, cut

CARD = {
    "title": "Top-k sampling",
    "paper": "Fan, Lewis & Dauphin 2018, Hierarchical Neural Story Generation, section 5.2",
    "reference": "transformers TopKLogitsWarper",
}


@dataclass(frozen=True, kw_only=True)
class Spec(DecodingSpec):
    """`k` tokens stay; a k beyond the vocabulary keeps everything."""

    k: int = 50

    ranges = within(COUNT, "k")

    def build(self, **dims: Any) -> LogitsProcessor:
        k = self.k

        def keep(logits: Array, sequences: Sequences = ()) -> Array:
            place = logits.shape[-1] - k
            if place <= 0:
                return logits
            smallest_kept = np.partition(logits, place, -1)[..., place, None]
            return cut(logits, logits < smallest_kept)

        return keep
