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
from torch.autograd.function import once_differentiable

from llmanac.core.ranges import INSIDE, within
from llmanac.kernels.nn.takes import fused, operation, remade
from llmanac.models.layers import upcast
from llmanac.models.norms import NormSpec

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

    ranges = within(INSIDE, "eps")

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
        weight = self.weight if self.offset == 0 else self.weight + self.offset
        if torch.compiler.is_compiling():
            made: Tensor = (operation("rms", x) or rms_norm)(x, weight, self.eps)
            return made
        if fused(x, weight):
            from llmanac.kernels.nn.pointwise import FusedRMSNorm, rms  # what is not trained needs no numba

            trained: Tensor = FusedRMSNorm.apply(x, weight, self.eps)
            return remade(trained, lambda x, weight: rms(x, weight, self.eps)[0], x, weight)
        y: Tensor = _RMSNorm.apply(x, weight, self.eps)
        return y

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.fill_(1.0 - self.offset)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The plain formula: (..., D), (D,) -> (..., D)."""
    y = upcast(x)
    return (y * (y.square().mean(-1, keepdim=True) + eps).rsqrt() * weight).to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    """The same with its own backward pass, which keeps only x and one number a vector.

    With n = x r, r = 1 / sqrt(mean(x^2) + eps):    dx = r (g w - n mean(g w n))        dw = sum(g n)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y = upcast(x)
        scale = y.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (y * scale).mul_(weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        normed = upcast(x) * scale
        grad = upcast(grad)
        product = (grad * normed).reshape(-1, x.shape[-1])
        along = (product @ weight.to(product.dtype)).view(scale.shape).div_(x.shape[-1])
        dx = (grad * weight).sub_(normed.mul_(along)).mul_(scale)
        return dx.to(x.dtype), product.sum(0).to(weight.dtype), None
