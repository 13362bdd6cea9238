"""Root-mean-square normalisation: LayerNorm without the mean and the shift.

    y = x / sqrt(mean(x^2) + eps) * weight          over the last axis, (..., D)

`offset=1` stores the weight as its distance from 1 (Gemma's form): the same function, other parameters, so weight
decay pulls the scale to 1 instead of 0. Computed in float32 at least. Zhang & Sennrich 2019, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.models._layers import wide
from llmanac.models.norms import NormSpec, check_eps

CARD = {
    "title": "RMSNorm",
    "paper": "Zhang & Sennrich 2019, arXiv:1910.07467",
    "reference": "torch.nn.RMSNorm; GemmaRMSNorm in transformers for offset = 1",
}


@dataclass(frozen=True, kw_only=True)
class Spec(NormSpec):
    """eps: added to the mean square; offset: what is added to the stored weight (0 for Llama, 1 for Gemma)."""

    eps: float = 1e-6
    offset: float = 0.0

    def __post_init__(self) -> None:
        check_eps(self.eps)

    def build(self, *, dim: int, **dims: Any) -> RMSNorm:
        return RMSNorm(dim, self.eps, self.offset)


class RMSNorm(nn.Module):
    """See the module."""

    def __init__(self, dim: int, eps: float, offset: float) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.full((dim,), 1.0 - offset))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D) in the dtype of `x`."""
        y = wide(x)
        weight = self.weight if self.offset == 0 else self.weight + self.offset
        return (y * (y.square().mean(-1, keepdim=True) + self.eps).rsqrt() * weight).to(x.dtype)

    @torch.no_grad()
    def draw(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.fill_(1.0 - self.offset)
