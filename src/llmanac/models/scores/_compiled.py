"""Block attention as one operation of a compiled graph: torch.compile sees its shapes and calls its loops as they are.

Importing this module registers it; `models/compiling.py` does so before a model is compiled.

Block-causal attention with its own backward pass: ordinary matrix products over the keys that a block can see.

For queries i .. i+n the keys are 0 .. i+n under a causal mask (from i - window + 1 under a window), so about half of
the score matrix is never computed. The weights of each block are made again in the backward pass where a query sees few
keys beside the layer's width, so that this is little work; else they are kept for it, in the compute dtype:

    dV += A^T dO        dS = A * (dA - rowsum(dA * A)),  dA = dO V^T        dQ = s dS K        dK += dS^T (s Q)
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmanac.kernels.nn.takes import OPERATIONS

Ranges = tuple[Tensor, Tensor]  # the first key that each query sees and the one after its last, (B or 1, T)
Bound = tuple[bool, int | None]  # causal, window


def _spans(length: int, keys: int, block: int, bound: Bound) -> Iterator[tuple[int, int, int, int]]:
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
    Softmax and its slope are torch's own, which work in float32 inside whatever the dtype. With `ranges` they are those
    of `kernels/nn/softmax.py`, and `mask` is None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        bound: Bound,
        scale: float,
        block: int,
        ranges: Ranges | None = None,
    ) -> Tensor:
        work = 4 * weights_size(queries, keys, bound, block)  # beside products that a short dtype makes twice as fast
        again = work <= queries.element_size() * queries.shape[1] * queries.numel()
        out, weights = read_blocks(queries, keys, values, mask, bound, scale, block, ranges, keep=not again)
        ctx.save_for_backward(queries, keys, values, None if again else weights, mask, *(ranges or ()))
        ctx.settings = bound, scale, block
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        queries, keys, values, weights, mask, *others = ctx.saved_tensors
        ranges = (others[0], others[1]) if others else None
        bound, scale, block = ctx.settings
        made = read_back(grads[0], queries, keys, values, weights, bound, scale, block, ranges, mask)
        return *made, None, None, None, None, None


def weights_size(queries: Tensor, keys: Tensor, bound: Bound, block: int) -> int:
    """How many weights `read_blocks` keeps."""
    spans = _spans(queries.shape[2], keys.shape[2], block, bound)
    area = sum((last - first) * (stop - start) for first, last, start, stop in spans)
    return queries.shape[0] * queries.shape[1] * area


def read_blocks(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, bound: Bound, scale: float, block: int,
    ranges: Ranges | None, *, keep: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What is read (B, H, T, e), and all weights, block after block; not to `keep` them, those of some block."""
    batch, heads, length, dim = queries.shape
    kv_heads = keys.shape[1]
    q = (queries if ranges else queries * scale).reshape(batch, kv_heads, heads // kv_heads, length, dim)
    k, v = keys.contiguous(), values.contiguous()
    out = v.new_empty(*q.shape[:4], v.shape[-1])
    kept, at = q.new_empty((weights_size if keep else _block_size)(queries, keys, bound, block)), 0
    for first, last, start, stop in _spans(length, keys.shape[2], block, bound):
        rows = last - first
        part = q[:, :, :, first:last].reshape(batch * kv_heads, -1, dim)
        weights = _piece(kept, at, batch * kv_heads, part.shape[1], stop - start)
        _weigh(weights, part, k, (first, last, start, stop), mask, bound, scale, ranges)
        read = weights @ v[:, :, start:stop].flatten(0, 1)
        out[:, :, :, first:last] = read.view(batch, kv_heads, -1, rows, v.shape[-1])
        at += weights.numel() if keep else 0
    return out.view(batch, heads, length, -1), kept


def _block_size(queries: Tensor, keys: Tensor, bound: Bound, block: int) -> int:
    """How many weights a block has at most."""
    spans = _spans(queries.shape[2], keys.shape[2], block, bound)
    return queries.shape[0] * queries.shape[1] * max((b - a) * (d - c) for a, b, c, d in spans)


def _weigh(
    weights: Tensor, part: Tensor, k: Tensor, span: tuple[int, int, int, int], mask: Tensor | None, bound: Bound,
    scale: float, ranges: Ranges | None,
) -> None:  # fmt: skip
    """Fill in the weights (B H_kv, G n, keys) of a block of n queries, `part` (B H_kv, G n, d)."""
    first, last, start, stop = span
    scores = weights if ranges else torch.empty_like(weights)
    torch.bmm(part, k[:, :, start:stop].flatten(0, 1).transpose(-1, -2), out=scores)
    grid = scores.view(len(k), -1, last - first, stop - start)
    if ranges:
        _loops().softmax_(grid, *_seen(ranges, first, last, start), scale)
        return
    if mask is not None:
        grid += mask[:, :, first:last, start:stop]
    elif bound[0]:
        grid[..., first - start :] += grid.new_full((last - first, last - first), float("-inf")).triu_(1)
    torch.softmax(scores, dim=-1, out=weights)


def read_back(
    above: Tensor, queries: Tensor, keys: Tensor, values: Tensor, weights: Tensor | None, bound: Bound, scale: float,
    block: int, ranges: Ranges | None, mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of queries, keys and values. Weights that are None are made again."""
    batch, heads, length, dim = queries.shape
    kv_heads = keys.shape[1]
    q = queries if ranges else queries * scale
    q, grad = (x.reshape(batch, kv_heads, heads // kv_heads, length, -1) for x in (q, above))
    k, v = keys.contiguous(), values.contiguous()
    accumulate = torch.float64 if q.dtype == torch.float64 else torch.float32
    dq, at = torch.empty_like(q, memory_format=torch.contiguous_format), 0
    spans = list(_spans(length, k.shape[2], block, bound))
    kept = q.new_empty(_block_size(queries, keys, bound, block)) if weights is None else weights
    dk, dv = (_BlockSum(x, accumulate, len(spans) == 1) for x in (k, v))
    for first, last, start, stop in spans:
        rows = last - first
        part = grad[:, :, :, first:last].reshape(batch * kv_heads, -1, v.shape[-1])
        asked = q[:, :, :, first:last].reshape(batch * kv_heads, -1, dim)
        w = _piece(kept, at, batch * kv_heads, part.shape[1], stop - start)
        if weights is None:
            _weigh(w, asked, k, (first, last, start, stop), mask, bound, scale, ranges)
        dv.add(start, stop, w.transpose(-1, -2) @ part)
        slope = part @ v[:, :, start:stop].flatten(0, 1).transpose(-1, -2)
        if ranges:
            grid = (batch, heads, rows, stop - start)
            _loops().softmax_slopes_(slope.view(grid), w.view(grid), *_seen(ranges, first, last, start), scale)
        else:
            slope = torch._softmax_backward_data(slope, w, -1, slope.dtype)
        dq[:, :, :, first:last] = (slope @ k[:, :, start:stop].flatten(0, 1)).view(batch, kv_heads, -1, rows, dim)
        dk.add(start, stop, slope.transpose(-1, -2) @ asked)
        at += 0 if weights is None else w.numel()
    dq = dq.view(queries.shape)
    return dq if ranges else dq.mul_(scale), dk.total, dv.total


def _piece(flat: Tensor, at: int, *shape: int) -> Tensor:
    return flat[at : at + shape[0] * shape[1] * shape[2]].view(shape)


def _loops() -> Any:
    from llmanac.kernels.nn import softmax  # what is not trained needs no numba

    return softmax


def _seen(ranges: Ranges, first: int, last: int, start: int) -> Ranges:
    """Of a block of queries, the keys that each sees, counted from key `start`."""
    begin, end = (x[:, first:last] - start for x in ranges)
    return begin, end


class _BlockSum:
    """The sum of what blocks give to ranges of keys; of a single block it is what that gives."""

    def __init__(self, like: Tensor, dtype: torch.dtype, once: bool) -> None:
        self.like = like
        self.made = None if once else torch.zeros(like.shape, dtype=dtype, device=like.device)
        self.only: Tensor | None = None

    def add(self, start: int, stop: int, part: Tensor) -> None:
        if self.made is None:
            self.only = part.view(self.like.shape)
        else:
            self.made[:, :, start:stop] += part.view(*self.like.shape[:2], stop - start, -1)

    @property
    def total(self) -> Tensor:
        made = self.only if self.made is None else self.made
        assert made is not None
        return made.to(self.like.dtype)


@torch.library.custom_op("llmanac::block_attention", mutates_args=())
def block_attention(
    queries: Tensor, keys: Tensor, values: Tensor, first: Tensor, last: Tensor, causal: bool, window: int | None,
    scale: float, block: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What `BlockAttention` gives with ranges, and the weights that its backward pass needs."""
    return read_blocks(queries, keys, values, None, (causal, window), scale, block, (first, last))


@torch.library.custom_op("llmanac::block_attention_back", mutates_args=())
def block_attention_back(
    above: Tensor, queries: Tensor, keys: Tensor, values: Tensor, weights: Tensor, first: Tensor, last: Tensor,
    causal: bool, window: int | None, scale: float, block: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return read_back(above, queries, keys, values, weights, (causal, window), scale, block, (first, last))


@block_attention.register_fake
def _(queries, keys, values, first, last, causal, window, scale, block):
    shape = (*queries.shape[:3], values.shape[-1])
    return queries.new_empty(shape), queries.new_empty(weights_size(queries, keys, (causal, window), block))


@block_attention_back.register_fake
def _(above, queries, keys, values, *rest):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (queries, keys, values))


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, causal, window, scale, block = inputs
    ctx.save_for_backward(*tensors[:3], output[1], *tensors[3:])
    ctx.settings = causal, window, scale, block


def _back(ctx: Any, above: Tensor, _: Any) -> Any:
    return *block_attention_back(above, *ctx.saved_tensors, *ctx.settings), None, None, None, None, None, None


block_attention.register_autograd(_back, setup_context=_keep)
OPERATIONS["blocks"] = block_attention
