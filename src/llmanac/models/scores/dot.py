"""Dot-product attention without a scale.

    A = softmax(Q K^T + M)        O = A V        Q (B, H, T, d), K and V (B, H_kv, S, d), A (B, H, T, S)

Queries and keys of unit variance give scores of variance d, so with wide heads the softmax puts all weight on one key
and passes hardly any gradient: what the scale 1 / sqrt(d) of scaled-dot is for. Luong et al. 2015, section 3.1 (dot).
"""

from dataclasses import dataclass
from typing import Any

from llmanac.models.scores import ScoreSpec
from llmanac.models.scores.scaled_dot import ScaledDot

CARD = {
    "title": "Dot product",
    "paper": "Luong et al. 2015, arXiv:1508.04025",
    "reference": "torch.nn.functional.scaled_dot_product_attention with a scale of 1",
}


@dataclass(frozen=True, kw_only=True)
class Spec(ScoreSpec):
    """Nothing to choose."""

    def build(self, *, heads: int, head_dim: int, **dims: Any) -> ScaledDot:
        return ScaledDot(heads, head_dim, scale=1.0)
