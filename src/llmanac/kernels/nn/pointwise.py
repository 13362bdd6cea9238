"""What is no product in a Transformer block, each in one pass over memory: RMSNorm, a gated SiLU, rotations.

    RMSNorm     y = x r w,  r = 1 / sqrt(mean(x^2) + eps)       dx = r (g w - n mean(g w n)), n = x r     dw = sum(g n)
    gated       y = a s(a) b,  s(a) = 1 / (1 + e^-a)            da = g b s (1 + a (1 - s))                db = g a s
    rotation    y = x cos + swapped(x) sin, swapped([u; v]) = [v; u]        backwards with -sin

Training on a CPU in bfloat16 spends as long on these as on the products where they are chains of torch's operations:
each reads and writes all of its numbers, in float32 where a sum is taken. Here numbers are read and written in
bfloat16, computed with in float32 and rounded once. Gradients of parameters are sums of pieces of `ROWS` rows, so that
they do not depend on the number of threads.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba types its functions itself)

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmanac.kernels.nn._exponential import RELAXED, sigmoid
from llmanac.kernels.nn._short import array, in_pieces, kind, narrow, widen
from llmanac.kernels.text import cached

ROWS = 256
ONE = np.float32(1.0)
LOOP = {"nogil": True, "error_model": "numpy", "fastmath": RELAXED}


# ---------------------------------------------------------------- RMSNorm
class FusedRMSNorm(torch.autograd.Function):
    """x (..., D), w (D,), eps -> (..., D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, scale = rms(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> Any:
        return *rms_back(above, *ctx.saved_tensors), None


def rms(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """y (..., D), and r of each row."""
    flat, own = x.contiguous().view(-1, x.shape[-1]), kind(x)
    made = torch.empty_like(flat)
    scale = torch.empty(len(flat), dtype=torch.float64 if own is np.float64 else torch.float32)
    # a copy: sharded training frees the weight's memory, which torch refuses once an array has shown it
    arrays = [array(y) for y in (flat, weight.to(scale.dtype, copy=True).contiguous(), made, scale)]
    in_pieces(_rms, len(flat), flat.shape[1], *arrays, own(1 / flat.shape[1]), own(eps))
    return made.view(x.shape), scale


def rms_back(above: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x (..., D) and of the weight (D,)."""
    flat, given = (y.contiguous().view(-1, x.shape[-1]) for y in (x, above))
    made = torch.empty_like(flat)
    sums = torch.zeros(-(-len(flat) // ROWS), flat.shape[1], dtype=scale.dtype)
    arrays = [array(y) for y in (given, flat, weight.to(scale.dtype, copy=True).contiguous(), scale, made, sums)]
    in_pieces(_rms_back, len(flat), flat.shape[1], *arrays, kind(x)(1 / flat.shape[1]), piece=ROWS)
    return made.view(x.shape), sums.sum(0).to(weight.dtype)


def _rms_loop(start, stop, x, weight, y, scale, share, eps):
    dim = x.shape[1]
    for i in range(start, stop):
        total = share * 0
        for j in range(dim):
            total += widen(x[i, j]) * widen(x[i, j])
        r = ONE / np.sqrt(total * share + eps)
        scale[i] = r
        for j in range(dim):
            y[i, j] = narrow(widen(x[i, j]) * r * weight[j], y[i, j])


def _rms_back_loop(start, stop, above, x, weight, scale, dx, sums, share):
    dim = x.shape[1]
    for i in range(start, stop):
        r, own = scale[i], sums[i // ROWS]
        along = share * 0
        for j in range(dim):
            product = widen(above[i, j]) * widen(x[i, j]) * r
            own[j] += product
            along += product * weight[j]
        along *= share * r
        for j in range(dim):
            dx[i, j] = narrow((widen(above[i, j]) * weight[j] - widen(x[i, j]) * along) * r, dx[i, j])


# ---------------------------------------------------------------- gated SiLU
class GatedSiLU(torch.autograd.Function):
    """a, b (..., F) -> silu(a) b."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return gated(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> Any:
        return gated_back(above, *ctx.saved_tensors)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(a) b."""
    made = torch.empty_like(gate, memory_format=torch.contiguous_format)
    in_pieces(_gated, gate.numel(), 1, *(array(x.reshape(-1)) for x in (gate, up, made)))
    return made


def gated_back(above: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of a and b."""
    made = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (gate, up)]
    in_pieces(_gated_back, gate.numel(), 1, *(array(x.reshape(-1)) for x in (above, gate, up, *made)))
    return made[0], made[1]


# slices from 0 on: an index that numba cannot know to be positive keeps a loop from being vectorised
def _gated_loop(start, stop, gate, up, y):
    gate, up, y = gate[start:stop], up[start:stop], y[start:stop]
    for i in range(len(y)):
        a = widen(gate[i])
        y[i] = narrow(a * sigmoid(a) * widen(up[i]), y[i])


def _gated_back_loop(start, stop, above, gate, up, d_gate, d_up):
    above, gate, up = above[start:stop], gate[start:stop], up[start:stop]
    d_gate, d_up = d_gate[start:stop], d_up[start:stop]
    for i in range(len(above)):
        g, a = widen(above[i]), widen(gate[i])
        s = sigmoid(a)
        d_gate[i] = narrow(g * widen(up[i]) * s * (ONE + a * (ONE - s)), d_gate[i])
        d_up[i] = narrow(g * a * s, d_up[i])


# ---------------------------------------------------------------- rotations
class Rotation(torch.autograd.Function):
    """x (B, T, H, d), cosines and signed sines (B or 1, T, 1, d) -> (B, T, H, d), in memory as (B, H, T, d)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turned(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> Any:
        return turned_back(above, *ctx.saved_tensors), None, None


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, T, H, d) turned, in memory as (B, H, T, d)."""
    made = x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)
    return _turn(x, made, cos, sin, 1)


def turned_back(above: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The gradient of x, in memory as x was."""
    return _turn(above, torch.empty_like(above, memory_format=torch.contiguous_format), cos, sin, -1)


def _turn(x: Tensor, made: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    rows, length, heads, dim = x.shape
    x = x if x.stride(-1) == 1 else x.contiguous()
    tables = [array(y.contiguous().view(-1, dim)) for y in (cos, sin)]
    shape = (rows, length, heads, 0 if len(cos) == 1 else length)
    strides = tuple(int(y.stride(i)) for y in (x, made) for i in range(3))
    in_pieces(_rotate, rows * heads, length * dim, _flat(x), _flat(made), *tables, shape, strides, kind(x)(sign))
    return made


def _flat(x: Tensor) -> Any:
    """The memory from the first number of x on, in one dimension; x is nowhere overlapping."""
    size = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return array(x.detach().as_strided((size,), (1,)))


def _rotate_loop(start, stop, x, y, cos, sin, shape, strides, sign):
    _, length, heads, each = shape
    dim = cos.shape[1]
    half = dim // 2
    for at in range(start, stop):
        row, head = at // heads, at % heads
        for t in range(length):
            a = row * strides[0] + t * strides[1] + head * strides[2]
            b = row * strides[3] + t * strides[4] + head * strides[5]
            u, v, c, s = x[a : a + dim], y[b : b + dim], cos[row * each + t], sin[row * each + t]
            for j in range(half):
                first, second = widen(u[j]), widen(u[half + j])
                v[j] = narrow(first * widen(c[j]) + sign * second * widen(s[j]), v[j])
                v[half + j] = narrow(second * widen(c[half + j]) + sign * first * widen(s[half + j]), v[j])


_rms, _rms_back = cached(_rms_loop, **LOOP), cached(_rms_back_loop, **LOOP)
_gated, _gated_back = cached(_gated_loop, **LOOP), cached(_gated_back_loop, **LOOP)
_rotate = cached(_rotate_loop, **LOOP)
