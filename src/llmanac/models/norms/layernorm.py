"""Layer normalisation: each vector to mean 0 and variance 1, then a learned scale and shift.

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias          over the last axis, (..., D)

The variance is the biased one. Computed in float32 at least. Ba, Kiros & Hinton 2016, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.models._layers import wide
from llmanac.models.norms import NormSpec, check_eps

CARD = {
    "title": "LayerNorm",
    "paper": "Ba, Kiros & Hinton 2016, arXiv:1607.06450",
    "reference": "torch.nn.LayerNorm",
}


@dataclass(frozen=True, kw_only=True)
class Spec(NormSpec):
    """eps: added to the variance."""

    eps: float = 1e-5

    def __post_init__(self) -> None:
        check_eps(self.eps)

    def build(self, *, dim: int, **dims: Any) -> LayerNorm:
        return LayerNorm(dim, self.eps)


class LayerNorm(nn.Module):
    """See the module."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D) in the dtype of `x`."""
        y = wide(x)
        centred = y - y.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return (centred * scale * self.weight + self.bias).to(x.dtype)

    @torch.no_grad()
    def draw(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.fill_(1.0 if name == "weight" else 0.0)
