"""Relative position buckets (T5): a learned number a head for each range of distances, added to attention scores.

    score(i, j) = q_i . k_j / sqrt(d) + b[head, bucket(i - j)]

Half of the buckets are one distance each; the others grow in the logarithm up to `max_distance`, and all that is
further shares the last one. With `directions = "both"` keys before and after the query have half of the buckets each;
with `"past"` keys after it share bucket 0. The bias is (B or 1, H, T, S), the table (buckets, H), one for all layers.

Raffel et al. 2020, section 2.1; Shaw et al. 2018 for the idea. T5 itself does not divide the scores by sqrt(d).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.models.layers import Embedding
from llmanac.models.positions import Position, PositionSpec

CARD = {
    "title": "Relative position buckets (T5)",
    "paper": "Raffel et al. 2020, arXiv:1910.10683",
    "reference": "T5Attention.compute_bias in transformers",
    "test": "tests/references/test_relative_positions.py::test_t5_bias_equals_transformers",
    "claim": "docs/evidence/extrapolation/page.md",
}


@dataclass(frozen=True, kw_only=True)
class Spec(PositionSpec):
    """buckets: how many ranges of distances; max_distance: where the last one begins.

    directions: which keys have buckets: `past`, or `both` sides; by default both in an encoder and the past elsewhere.
    absolute: a further method that is added to the embeddings (MPNet's learned positions), or None.
    """

    any_heads: ClassVar[bool] = False
    needs_heads: ClassVar[bool] = True

    buckets: int = 32
    max_distance: int = 128
    directions: Literal["past", "both"] | None = None
    absolute: PositionSpec | None = None

    def __post_init__(self) -> None:
        if self.buckets < 4 or self.buckets % 4:
            raise SpecError(f"buckets: {self.buckets} must be a multiple of 4")
        if self.max_distance <= self.buckets // 2:
            raise SpecError(f"max_distance: {self.max_distance} must be above half of buckets, {self.buckets // 2}")

    def resolved(self, max_length: int) -> Spec:
        return self if self.absolute is None else replace(self, absolute=self.absolute.resolved(max_length))

    def build(self, *, dim: int, heads: int, encoder: bool = False, **dims: Any) -> Buckets:
        both = self.directions == "both" or (self.directions is None and encoder)
        absolute = None if self.absolute is None else self.absolute.build(dim=dim, heads=heads, **dims)
        return Buckets(self, both, dim, heads, absolute)


class Buckets(Position):
    """See the module."""

    compares = True

    def __init__(self, spec: Spec, both: bool, dim: int, heads: int, absolute: Position | None = None) -> None:
        super().__init__()
        self.absolute, self.limit = absolute, None if absolute is None else absolute.limit
        self.both, self.buckets, self.max_distance = both, spec.buckets, spec.max_distance
        self.relative_attention_bias = Embedding(spec.buckets, heads, std=dim**-0.5)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x if self.absolute is None else self.absolute.embed(x, positions)

    def bias(self, queries: Tensor, keys: Tensor) -> Tensor:
        distances = queries[:, :, None] - keys[:, None, :]
        chosen = bucket(distances, self.buckets, self.max_distance, self.both)
        return self.relative_attention_bias(chosen).permute(0, 3, 1, 2).contiguous()


def bucket(distances: Tensor, buckets: int, max_distance: int, both: bool) -> Tensor:
    """How far keys are before their query (negative: after it) -> the number of their bucket; the same shape.

    The logarithm is taken in float32, as the released models were trained: a boundary may be one off in float64.
    """
    after = torch.zeros_like(distances)
    if both:
        buckets //= 2
        after = (distances < 0) * buckets
        distances = distances.abs()
    else:
        distances = distances.clamp(min=0)
    exact = buckets // 2
    ratio = torch.log(distances.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return after + torch.where(distances < exact, distances, far)
