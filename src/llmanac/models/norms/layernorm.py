"""Layer normalisation: each vector to mean 0 and variance 1, then a learned scale and shift.

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias          over the last axis, (..., D)

The variance is the biased one. Computed in float32 at least. Ba, Kiros & Hinton 2016, section 3.
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
    """eps: added to the variance; bias: a learned one is added, or none (MPT, OLMo, Cohere)."""

    eps: float = 1e-5
    bias: Literal["learned", "none"] = "learned"

    ranges = within(INSIDE, "eps")

    def build(self, *, dim: int | tuple[int, ...], **dims: Any) -> LayerNorm:
        return LayerNorm(dim, self.eps, self.bias == "learned")


class LayerNorm(nn.Module):
    """See the module."""

    def __init__(self, dim: int | tuple[int, ...], eps: float, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D) in the dtype of `x`."""
        if self.weight.ndim > 1:  # weights of several heads (H, d) belong to parts of their own
            return layer_norm(x, self.weight, self.bias, self.eps)
        y = upcast(x)  # torch's kernel is the same formula, 5 times as fast with its backward pass
        weight, bias = (None if p is None else p.to(y.dtype) for p in (self.weight, self.bias))
        return F.layer_norm(y, self.weight.shape, weight, bias, self.eps).to(x.dtype)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.fill_(1.0 if name == "weight" else 0.0)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """The plain formula: (..., D), (D,), (D,) or None -> (..., D)."""
    y = upcast(x)
    centred = y - y.mean(-1, keepdim=True)
    normed = centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt() * weight
    return (normed if bias is None else normed + bias).to(x.dtype)
