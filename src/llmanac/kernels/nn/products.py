"""Products of one input with several matrices, whose gradients are the products that a CPU computes fastest.

    y_k = x W_k^T        dx = sum_k dy_k W_k        dW_k = dy_k^T x = (x^T dy_k)^T        x (N, I), W_k (O_k, I)

A product whose left factor is read down its columns runs at half the rate of one in rows. So x (or dy, where that is
narrower) is written out transposed, once for all matrices, and a gradient's last transposition is made where it is
rounded up to the weights' float32 in any case.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba types its functions itself)
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmanac.kernels.nn._short import array, in_pieces, widen
from llmanac.kernels.text import cached

SIDE = 32  # rows that are transposed together: their part of a column of the result is one or two lines of the cache


class Products(torch.autograd.Function):
    """x (..., I), weights (O_k, I) of any dtype -> (..., O_k) each, computed in the dtype of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        used = [weight.to(x.dtype) for weight in weights]
        ctx.dtypes = [weight.dtype for weight in weights]
        ctx.save_for_backward(x, *used)
        return tuple(F.linear(x, weight) for weight in used)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor) -> Any:
        x, *used = ctx.saved_tensors
        slopes = [slope.reshape(-1, slope.shape[-1]) for slope in above]
        inputs = None
        if ctx.needs_input_grad[0]:
            inputs = slopes[0] @ used[0]
            for slope, weight in zip(slopes[1:], used[1:], strict=True):
                inputs.addmm_(slope, weight)
            inputs = inputs.view(x.shape)
        turned: list[Tensor] = []  # x^T, once it is needed
        grads: list[Tensor | None] = []
        for slope, dtype, wanted in zip(slopes, ctx.dtypes, ctx.needs_input_grad[1:], strict=True):
            grads.append(weight_gradient(slope, x.flatten(0, -2), dtype, turned) if wanted else None)
        return inputs, *grads


def weight_gradient(slope: Tensor, x: Tensor, dtype: torch.dtype, turned: list[Tensor]) -> Tensor:
    """slope^T x (O, I) of slope (N, O) and x (N, I), in `dtype`; `turned` keeps x^T for other slopes of the same x."""
    if slope.shape[1] < x.shape[1]:
        return (transposed(slope) @ x).to(dtype)
    if not turned:
        turned.append(transposed(x))
    out = torch.empty(slope.shape[1], x.shape[1], dtype=dtype)
    return add_transposed_(out, turned[0] @ slope, keep=False)


def transposed(x: Tensor) -> Tensor:
    """x^T (I, N) of x (N, I), in memory of its own."""
    out = x.new_empty(x.shape[1], x.shape[0])
    in_pieces(_transposed, len(x), x.shape[1], array(x.contiguous()), array(out), piece=SIDE)
    return out


def add_transposed_(out: Tensor, x: Tensor, *, keep: bool = True) -> Tensor:
    """out += x^T, or out = x^T, in place: x (I, O) in bfloat16 or the dtype of out (O, I)."""
    in_pieces(_added, len(x), x.shape[1], array(x), array(out), keep, piece=SIDE)
    return out


def _transposed_loop(start, stop, x, y):
    for first in range(start, stop, SIDE):
        rows = x[first : min(first + SIDE, stop)]
        for j in range(x.shape[1]):
            column = y[j, first : first + SIDE]
            if len(rows) == SIDE:
                for i in range(SIDE):
                    column[i] = rows[i, j]
            else:
                for i in range(len(rows)):
                    column[i] = rows[i, j]


def _added_loop(start, stop, x, y, keep):
    for first in range(start, stop, SIDE):
        rows = x[first : min(first + SIDE, stop)]
        for j in range(x.shape[1]):
            column = y[j, first : first + SIDE]
            if keep:
                for i in range(len(rows)):
                    column[i] += widen(rows[i, j])
            else:
                for i in range(len(rows)):
                    column[i] = widen(rows[i, j])


_transposed = cached(_transposed_loop, nogil=True)
_added = cached(_added_loop, nogil=True)
