"""Layer normalisation: each vector to mean 0 and variance 1, then a learned scale and shift.

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias          over the last axis, (..., D)

The variance is the biased one. Computed in float32 at least. Ba, Kiros & Hinton 2016, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llmanac.models._layers import upcast
from llmanac.models.norms import NormSpec, check_eps

CARD = {
    "title": "LayerNorm",
    "paper": "Ba, Kiros & Hinton 2016, arXiv:1607.06450",
    "reference": "torch.nn.LayerNorm",
}


@dataclass(frozen=True, kw_only=True)
class Spec(NormSpec):
    """eps: added to the variance; bias: a learned one is added, or none (MPT, OLMo, Cohere)."""

    eps: float = 1e-5
    bias: Literal["learned", "none"] = "learned"

    def __post_init__(self) -> None:
        check_eps(self.eps)

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
        # a compiler fuses the formula by itself; weights of several heads (H, d) belong to parts of their own
        if torch.compiler.is_compiling() or self.weight.ndim > 1:
            return layer_norm(x, self.weight, self.bias, self.eps)
        y: Tensor = _LayerNorm.apply(x, self.weight, self.bias, self.eps)
        return y

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.fill_(1.0 if name == "weight" else 0.0)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """The plain formula: (..., D), (D,), (D,) or None -> (..., D)."""
    y = upcast(x)
    centred = y - y.mean(-1, keepdim=True)
    normed = centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt() * weight
    return (normed if bias is None else normed + bias).to(x.dtype)


class _LayerNorm(torch.autograd.Function):
    """The same with its own backward pass, which keeps only x and two numbers a vector.

    With n = (x - m) r:    dx = r (g w - mean(g w) - n mean(g w n))        dw = sum(g n)        db = sum(g)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        y = upcast(x)
        mean = y.mean(-1, keepdim=True)
        centred = y - mean
        scale = centred.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, mean, scale)
        normed = centred.mul_(scale).mul_(weight)
        return (normed if bias is None else normed.add_(bias)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, mean, scale = ctx.saved_tensors
        normed = (upcast(x) - mean).mul_(scale)
        grad = upcast(grad)
        product = (grad * normed).reshape(-1, x.shape[-1])
        dim = x.shape[-1]
        along = (product @ weight.to(product.dtype)).view(scale.shape).div_(dim)
        dx = grad * weight
        dx = dx.sub_(dx.mean(-1, keepdim=True)).sub_(normed.mul_(along)).mul_(scale)
        shift = grad.reshape(-1, dim).sum(0).to(weight.dtype) if ctx.needs_input_grad[2] else None
        return dx.to(x.dtype), product.sum(0).to(weight.dtype), shift, None
