"""Disentangled positions (DeBERTa): contents are compared with a vector for each range of distances, and it with them.

    score(i, j) = (q_i . k_j + q_i . W_k r_b + k_j . W_q r_b) / sqrt(3 d)        b = bucket(i - j)

r (2 K, D) are shared by all layers, whose own matrices W_q and W_k make queries and keys of them. Distances up to K / 2
have a vector each, larger ones share them in the logarithm up to `max_distance`; without buckets each has its own. The
scores of contents are divided by the attention's own scale, which DeBERTa sets to sqrt(3 d). The bias is (B, H, T, S).
He et al. 2021, arXiv:2006.03654; arXiv:2111.09543 (version 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.models.layers import Embedding
from llmanac.models.norms import NormSpec
from llmanac.models.norms.layernorm import Spec as LayerNorm
from llmanac.models.positions import Position, PositionSpec, Project

CARD = {
    "title": "Disentangled positions (DeBERTa)",
    "paper": "He et al. 2021, arXiv:2006.03654",
    "reference": "DisentangledSelfAttention in transformers",
    "test": "tests/references/test_families.py::test_logits_equal_within_1e_6",
}


@dataclass(frozen=True, kw_only=True)
class Spec(PositionSpec):
    """buckets: K, None for a vector for each distance; max_distance: from which on all share one; norm: of r."""

    any_head_dim: ClassVar[bool] = False
    any_heads: ClassVar[bool] = False
    needs_heads: ClassVar[bool] = True

    buckets: int | None = None
    max_distance: int | None = None
    norm: NormSpec = field(default_factory=LayerNorm)

    ranges = within(COUNT, "buckets max_distance")

    def resolved(self, max_length: int) -> Spec:
        return replace(self, max_distance=self.max_distance or max_length)

    def build(self, *, dim: int, heads: int, head_dim: int, max_length: int, **dims: Any) -> Disentangled:
        most = self.max_distance or max_length
        if self.buckets is not None and not 2 <= self.buckets < 2 * (most - 1):
            raise SpecError(f"buckets: {self.buckets} must be from 2 to below {2 * (most - 1)}")
        return Disentangled(self, dim, heads, head_dim, most)


class Disentangled(Position):
    """See the module."""

    compares = True

    def __init__(self, spec: Spec, dim: int, heads: int, head_dim: int, most: int) -> None:
        super().__init__()
        self.buckets, self.most, self.span = spec.buckets, most, spec.buckets or most
        self.width = heads * head_dim
        self.scale = (3 * head_dim) ** -0.5
        self.rel_embeddings = Embedding(2 * self.span, dim)
        self.norm = spec.norm.build(dim=dim)

    def content_bias(
        self, q: Tensor, k: Tensor, queries: Tensor, keys: Tensor, causal: bool, project: Project
    ) -> Tensor:
        distances = self._bucket(queries[:, :, None] - keys[:, None, :])
        index = (distances + self.span).clamp(0, 2 * self.span - 1)[:, None]
        as_queries, as_keys = project(self.norm(self.rel_embeddings.weight.to(q.dtype)))
        heads = q.shape[1]
        k, as_keys = (x.repeat_interleave(heads // x.shape[-3], -3) for x in (k, as_keys))
        asked = (q @ as_keys.transpose(1, 2)).gather(-1, index.expand(*q.shape[:3], -1))
        back = index.transpose(2, 3).expand(*k.shape[:3], -1)
        return (asked + (k @ as_queries.transpose(1, 2)).gather(-1, back).transpose(2, 3)) * self.scale

    def _bucket(self, distances: Tensor) -> Tensor:
        """Distances -> numbers from -K to K; the logarithm is taken in float32, as the released models were trained."""
        if self.buckets is None:
            return distances
        middle = self.buckets // 2
        far = distances.abs().clamp(min=middle)
        steps = torch.log(far / middle) / math.log((self.most - 1) / middle) * (middle - 1)
        return distances.where(distances.abs() <= middle, distances.sign() * (steps.ceil().long() + middle))

    def flops(self, keys: float) -> float:
        """The products of r are once a pass, which is taken to have as many tokens as a query sees keys."""
        rows = 2 * self.span
        return 4.0 * rows * self.width + 4.0 * self.rel_embeddings.weight.numel() * self.width / max(keys, 1.0)
