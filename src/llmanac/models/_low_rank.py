"""A product with a frozen matrix and a low-rank term, as one step of autograd that keeps little for the backward pass.

    y = x W^T + b + s (x' A^T) B^T        x' is x, or x with a share p of its numbers dropped and the rest 1 / (1 - p)

Kept are x, which the gradient of A needs, and which numbers were dropped, a byte each. A cast of W to the dtype of x,
the columns x' A^T and x' itself are computed again. W may be packed: it is dequantized tile by tile in both passes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmanac.models._quantized import Quantized, backward_product


class _LowRank(torch.autograd.Function):
    """See the module."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, dropout: float
    ) -> Tensor:
        if isinstance(weight, Quantized):
            y = weight.form.multiply(x, weight)
            y = y if bias is None else y.add_(bias.to(y.dtype))
        else:
            y = F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        kept = None if not dropout else torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - dropout)
        columns = _read(x, kept, dropout) @ a.t().to(x.dtype) * scale
        y.view(-1, y.shape[-1]).addmm_(columns.flatten(0, -2), b.t().to(x.dtype))
        ctx.save_for_backward(x, a, b, kept)
        ctx.weight, ctx.scale, ctx.dropout = weight, scale, dropout
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> Any:
        x, a, b, kept = ctx.saved_tensors
        scale, dropout = ctx.scale, ctx.dropout
        rows, read = above.flatten(0, -2), _read(x, kept, dropout).flatten(0, -2)
        below = rows @ b.to(rows.dtype) * scale  # of the columns
        grads: list[Tensor | None] = [None] * 7
        if ctx.needs_input_grad[3]:
            grads[3] = (below.t() @ read).to(a.dtype)
        if ctx.needs_input_grad[4]:
            grads[4] = (rows.t() @ (read @ a.t().to(read.dtype) * scale)).to(b.dtype)
        del read
        if ctx.needs_input_grad[0]:
            inputs = backward_product(rows, ctx.weight)
            if kept is None:
                inputs.addmm_(below, a.to(below.dtype))
            else:
                inputs.add_(
                    (below @ a.to(below.dtype)).view(x.shape).mul_(kept).flatten(0, -2), alpha=1 / (1 - dropout)
                )
            grads[0] = inputs.view(x.shape)
        if ctx.needs_input_grad[2]:
            grads[2] = rows.sum(0)
        return tuple(grads)


def _read(x: Tensor, kept: Tensor | None, dropout: float) -> Tensor:
    return x if kept is None else x * kept / (1 - dropout)


def low_rank(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, dropout: float = 0.0
) -> Tensor:
    """y (..., outputs) of x (..., inputs), W (outputs, inputs) without a gradient, A (r, inputs) and B (outputs, r).

    Args:
        dropout: p, of x' alone.
    """
    found: Tensor = _LowRank.apply(x, weight, bias, a, b, scale, dropout)
    return found
