"""Attention by tiles with an online softmax: memory linear in the length, forward and backward.

    for each tile of keys:   S = c(s Q K^T)      m' = max(m, max S)      P = exp(S - m')
                             l = l e^(m - m') + sum P                    O = O e^(m - m') + P V
    out = O / l              L = m + log l       kept for the backward pass, which computes P = exp(S - L) again:
    dV += P^T dO             dS = P (dO V^T - D) with D = rowsum(dO out)         dQ += s dS K         dK += s dS^T Q

Q (B, H, T, d), K (B, H_kv, S, d), V (B, H_kv, S, d_v); no tensor of size T S exists at any time, and tiles that a mask
hides are never computed. c is the identity or a soft cap, c(x) = a tanh(x / a). A sink is a learned logit of a head
that takes part in the softmax and has no value: it starts m at the sink and l at 1.

Dao et al. 2022, arXiv:2205.14135, algorithms 1 and 4; Milakov & Gimelshein 2018 for the online softmax.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from llmanac.kernels.nn.uncompiled import uncompiled

Tiling = Iterable[tuple[slice, list[tuple[Any, Tensor | None]]]]


@uncompiled  # which tiles there are depends on values
def flash_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    tiles: Tiling,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Queries (B, H, T, d), keys (B, H_kv, S, d), values (B, H_kv, S, d_v) -> (B, H, T, d_v).

    Args:
        tiles: for each range of queries, its tiles: keys (a range, or indices (s,) without repeats) and which of them
            are seen, (B or 1, 1, t, s) bool or None for all. Together the ranges cover all queries once, and a
            query's tiles hold a key at most once. Read again by the backward pass.
        sinks: (H,). A query that sees no key reads 0.
    """
    out: Tensor = _Flash.apply(queries, keys, values, sinks, tiles, scale, softcap)
    return out


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        sinks: Tensor | None,
        tiles: Tiling,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        batch, heads, length, dim = queries.shape
        kv_heads = keys.shape[1]
        exact = torch.float64 if queries.dtype == torch.float64 else torch.float32
        lowest = torch.finfo(exact).min / 2  # exp(-inf - lowest) is 0, where -inf - -inf would be nan
        q = (queries * scale).reshape(batch, kv_heads, -1, length, dim)
        out = values.new_empty(*q.shape[:4], values.shape[-1])
        logsum = q.new_empty(q.shape[:4], dtype=exact)
        for rows, parts in tiles:
            asked = q[:, :, :, rows].reshape(batch, kv_heads, -1, dim)
            shape = (batch, heads, rows.stop - rows.start, -1)
            top = asked.new_full((*asked.shape[:3], 1), lowest, dtype=exact)
            total = torch.zeros_like(top)
            if sinks is not None:
                top = _sink_rows(sinks, asked, shape[2], exact)
                total = torch.ones_like(top)
            read = asked.new_zeros(*asked.shape[:3], values.shape[-1], dtype=exact)
            for columns, seen in parts:
                scores = _scores(asked, keys[:, :, columns], seen, shape, softcap, exact)
                new = torch.maximum(top, scores.amax(-1, keepdim=True))
                weights = scores.sub_(new).exp_()
                shrink = top.sub_(new).exp_()
                top = new
                total = total.mul_(shrink).add_(weights.sum(-1, keepdim=True))
                read = read.mul_(shrink).add_(weights.to(values.dtype) @ values[:, :, columns])
            total.clamp_(min=torch.finfo(exact).tiny)
            out[:, :, :, rows] = read.div_(total).view(batch, kv_heads, -1, shape[2], values.shape[-1])
            logsum[:, :, :, rows] = total.log_().add_(top).view(batch, kv_heads, -1, shape[2])
        ctx.save_for_backward(q, keys, values, sinks, out, logsum)
        ctx.settings = (tiles, scale, softcap)
        return out.view(batch, heads, length, -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, keys, values, sinks, out, logsum = ctx.saved_tensors
        tiles, scale, softcap = ctx.settings
        batch, kv_heads, group, length, dim = q.shape
        heads, exact = kv_heads * group, logsum.dtype
        above = grads[0].reshape(out.shape)
        down = (above.to(exact) * out).sum(-1)
        dq = torch.empty_like(q)
        dk = torch.zeros(keys.shape, dtype=exact, device=q.device)
        dv = torch.zeros(values.shape, dtype=exact, device=q.device)
        for rows, parts in tiles:
            asked, came = (x[:, :, :, rows].reshape(batch, kv_heads, -1, x.shape[-1]) for x in (q, above))
            norm, inner = (x[:, :, :, rows].reshape(batch, kv_heads, -1, 1) for x in (logsum, down))
            shape = (batch, heads, rows.stop - rows.start, -1)
            asked_slope = torch.zeros(asked.shape, dtype=exact, device=q.device)
            for columns, seen in parts:
                k, v = keys[:, :, columns], values[:, :, columns]
                scores = _scores(asked, k, seen, shape, softcap, exact)
                bend = None if softcap is None else 1 - (scores / softcap).square().nan_to_num_(posinf=1.0)
                weights = scores.sub_(norm).exp_()
                dv[:, :, columns] += weights.to(came.dtype).transpose(-1, -2) @ came
                slope = (came @ v.transpose(-1, -2)).to(exact).sub_(inner).mul_(weights)
                low = (slope if bend is None else slope.mul_(bend)).to(k.dtype)
                asked_slope += low @ k
                dk[:, :, columns] += low.transpose(-1, -2) @ asked
            dq[:, :, :, rows] = asked_slope.mul_(scale).view(batch, kv_heads, group, -1, dim)
        d_sinks = None
        if sinks is not None:
            weight = (sinks.to(exact).view(1, kv_heads, group, 1) - logsum).exp_()
            d_sinks = -(weight * down).sum((0, 3)).flatten().to(sinks.dtype)
        return dq.view(batch, heads, length, dim), dk.to(keys.dtype), dv.to(values.dtype), d_sinks, None, None, None


def _sink_rows(sinks: Tensor, asked: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """(H,) -> (B, H_kv, G t, 1), in the order of the folded queries."""
    batch, kv_heads = asked.shape[:2]
    spread = sinks.to(dtype).view(1, kv_heads, -1, 1).expand(batch, -1, -1, rows)
    return spread.reshape(batch, kv_heads, -1, 1).clone()


def _scores(
    asked: Tensor, keys: Tensor, seen: Tensor | None, shape: tuple[int, ...], softcap: float | None, dtype: torch.dtype
) -> Tensor:
    """(B, H_kv, G t, s): capped scores of one tile, -inf where a key is not seen."""
    scores = (asked @ keys.transpose(-1, -2)).to(dtype)
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    if seen is not None:
        scores.view(shape).masked_fill_(~seen, float("-inf"))
    return scores
