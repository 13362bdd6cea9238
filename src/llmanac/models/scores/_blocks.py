"""Block-causal attention with its own backward pass: ordinary matrix products over the keys that a block can see.

For queries i .. i+n the keys are 0 .. i+n under a causal mask (from i - window + 1 under a window), so about half of
the score matrix is never computed. The weights of each block are kept for the backward pass, in the compute dtype:

    dV += A^T dO        dS = A * (dA - rowsum(dA * A)),  dA = dO V^T        dQ = s dS K        dK += dS^T (s Q)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def _spans(length: int, keys: int, block: int, bound: tuple[bool, int | None]) -> Iterator[tuple[int, int, int, int]]:
    """For each block of queries: its first and last query, and the first and last key that any of them sees."""
    causal, window = bound
    for first in range(0, length, block):
        last = min(first + block, length)
        stop = last if causal else keys
        start = 0 if window is None or not causal else max(0, first - window + 1)
        yield first, last, start, stop


class BlockAttention(torch.autograd.Function):
    """Queries (B, H, T, d), keys (B, H_kv, S, d), values (B, H_kv, S, e) -> (B, H, T, e).

    `mask` (B or 1, 1, T, S) is additive.

    `bound` is (causal, window): what may be skipped. Without a mask the causal rule is applied on the diagonal blocks.
    Softmax and its slope are torch's own, which work in float32 inside whatever the dtype; with `ranges`, the first key
    that each query sees and the one after its last (B or 1, T), they are those of `kernels/nn/softmax.py`, without `mask`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        bound: tuple[bool, int | None],
        scale: float,
        block: int,
        ranges: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        batch, heads, length, dim = queries.shape
        kv_heads = keys.shape[1]
        q = queries if ranges else queries * scale
        q = q.reshape(batch, kv_heads, heads // kv_heads, length, dim)
        k, v = keys.contiguous(), values.contiguous()
        out = v.new_empty(*q.shape[:4], v.shape[-1])
        triangle = torch.full((block, block), float("-inf"), dtype=q.dtype, device=q.device).triu_(1)
        kept = []
        for first, last, start, stop in _spans(length, keys.shape[2], block, bound):
            rows = last - first
            part = q[:, :, :, first:last].reshape(batch, kv_heads, -1, dim)
            scores = part @ k[:, :, start:stop].transpose(-1, -2)
            grid = scores.view(batch, heads, rows, stop - start)
            if ranges:
                _loops().softmax_(grid, *_seen(ranges, first, last, start), scale)
            elif mask is not None:
                grid += mask[:, :, first:last, start:stop]
            elif bound[0]:
                grid[..., first - start :] += triangle[:rows, :rows]
            weights = scores if ranges else torch.softmax(scores, dim=-1)
            out[:, :, :, first:last] = (weights @ v[:, :, start:stop]).view(batch, kv_heads, -1, rows, v.shape[-1])
            kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.settings = (bound, scale, block, ranges)
        return out.view(batch, heads, length, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, *kept = ctx.saved_tensors
        bound, scale, block, ranges = ctx.settings
        batch, kv_heads, group, length, dim = q.shape
        grad = grads[0].reshape(*q.shape[:4], -1)
        accumulate = torch.float64 if q.dtype == torch.float64 else torch.float32
        dq = torch.empty_like(q)
        spans = list(_spans(length, k.shape[2], block, bound))
        dk, dv = (_Sum(x, accumulate, len(spans) == 1) for x in (k, v))
        for (first, last, start, stop), weights in zip(spans, kept, strict=True):
            rows = last - first
            part = grad[:, :, :, first:last].reshape(batch, kv_heads, -1, v.shape[-1])
            asked = q[:, :, :, first:last].reshape(batch, kv_heads, -1, dim)
            dv.add(start, stop, weights.transpose(-1, -2) @ part)
            slope = part @ v[:, :, start:stop].transpose(-1, -2)
            if ranges:
                grid = (batch, kv_heads * group, rows, stop - start)
                _loops().softmax_slopes_(slope.view(grid), weights.view(grid), *_seen(ranges, first, last, start), scale)
            else:
                slope = torch._softmax_backward_data(slope, weights, -1, slope.dtype)
            dq[:, :, :, first:last] = (slope @ k[:, :, start:stop]).view(batch, kv_heads, group, rows, dim)
            dk.add(start, stop, slope.transpose(-1, -2) @ asked)
        dq = dq.view(batch, kv_heads * group, length, dim)
        return dq if ranges else dq.mul_(scale), dk.total, dv.total, None, None, None, None, None


def _loops() -> Any:
    from llmanac.kernels.nn import softmax  # what is not trained needs no numba

    return softmax


def _seen(ranges: tuple[Tensor, Tensor], first: int, last: int, start: int) -> tuple[Tensor, Tensor]:
    """Of a block of queries, the keys that each sees, counted from key `start`."""
    begin, end = (x[:, first:last] - start for x in ranges)
    return begin, end


class _Sum:
    """The sum of what blocks give to ranges of keys; of a single block it is what that gives."""

    def __init__(self, like: Tensor, dtype: torch.dtype, once: bool) -> None:
        self.dtype = like.dtype
        self.made = None if once else torch.zeros(like.shape, dtype=dtype, device=like.device)

    def add(self, start: int, stop: int, part: Tensor) -> None:
        if self.made is None:
            self.made = part
        else:
            self.made[:, :, start:stop] += part

    @property
    def total(self) -> Tensor | None:
        return None if self.made is None else self.made.to(self.dtype)
