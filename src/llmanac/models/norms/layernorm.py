"""Layer normalisation: each vector to mean 0 and variance 1, then a learned scale and shift.

    y = (x - mean(x)) / sqrt(var(x) + eps) * (weight + offset) + bias          over the last axis, (..., D)

The variance is the biased one. Computed in float32 at least. Ba, Kiros & Hinton 2016, section 3; without parameters,
OLMo (2024, arXiv:2402.00838); with an offset of 1, Nemotron-4 (2024, arXiv:2402.16819).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.ranges import INSIDE, within
from llmanac.models.layers import upcast
from llmanac.models.norms import NormSpec

CARD = {"title": "LayerNorm", "paper": "Ba, Kiros & Hinton 2016, arXiv:1607.06450", "reference": "torch.nn.LayerNorm"}


@dataclass(frozen=True, kw_only=True)
class Spec(NormSpec):
    """eps: added to the variance; weight, bias: learned, or none; offset: what is added to the stored weight."""

    eps: float = 1e-5
    weight: Literal["learned", "none"] = "learned"
    bias: Literal["learned", "none"] = "learned"
    offset: float = 0.0

    ranges = within(INSIDE, "eps")

    def build(self, *, dim: int | tuple[int, ...], **dims: Any) -> LayerNorm:
        return LayerNorm(dim, self.eps, self.bias == "learned", self.weight == "learned", self.offset)


class LayerNorm(nn.Module):
    """See the module."""

    def __init__(
        self, dim: int | tuple[int, ...], eps: float, bias: bool = True, weight: bool = True, offset: float = 0.0
    ) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.shape = (dim,) if isinstance(dim, int) else dim
        self.weight = nn.Parameter(torch.full(self.shape, 1.0 - offset)) if weight else None
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D) in the dtype of `x`."""
        own = self.weight if self.weight is None or self.offset == 0 else self.weight + self.offset
        if own is not None and own.ndim > 1:  # weights of several heads (H, d) belong to parts of their own
            return layer_norm(x, own, self.bias, self.eps)
        y = upcast(x)  # torch's kernel is the same formula, 5 times as fast with its backward pass
        weight, bias = (None if p is None else p.to(y.dtype) for p in (own, self.bias))
        return F.layer_norm(y, self.shape, weight, bias, self.eps).to(x.dtype)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.fill_(1.0 - self.offset if name == "weight" else 0.0)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """The plain formula: (..., D), (D,), (D,) or None -> (..., D)."""
    y = upcast(x)
    centred = y - y.mean(-1, keepdim=True)
    normed = centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt() * weight
    return (normed if bias is None else normed + bias).to(x.dtype)
