"""Scaled dot-product attention.

    A = softmax(c(Q K^T / sqrt(d)) + M)        O = A V        Q (B, H, T, d), K and V (B, H_kv, S, d), A (B, H, T, S)

M is 0 where a key may be seen and -inf where not. Dividing by sqrt(d) keeps the variance of the scores at 1 for every
d, so the softmax neither saturates nor loses its gradient. Vaswani et al. 2017, section 3.2.1.

c is the identity, or a soft cap c(x) = a tanh(x / a), which bounds the scores (Gemma 2, arXiv:2408.00118). With learned
sinks every head has one more logit in the softmax that reads nothing, so that a head may attend to no token (Xiao et
al. 2023, arXiv:2309.17453; as gpt-oss has it).

One function in four forms, chosen at run time by what is fastest: `sdpa` is torch's kernel (never holds A), `plain`
is the formula, `blocks` walks over blocks of queries, reads only the keys that each can see, and has its own
backward pass (`_compiled.py`): half the work of `plain` under a causal mask; `flash` never holds A either, and skips
what a window or packed documents hide (`kernels/nn/flash.py`). What a form cannot do another one does: torch's kernel
knows neither caps nor sinks, and would hold the mask of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.ranges import POSITIVE, within
from llmanac.kernels.nn.flash import flash_attention
from llmanac.kernels.nn.takes import fused, operation
from llmanac.models._tiles import tiles_of
from llmanac.models.forward import AttentionForm
from llmanac.models.masks import AttentionMask
from llmanac.models.scores import AttentionScore, ScoreSpec, read_values
from llmanac.models.scores._compiled import BlockAttention

CARD = {
    "title": "Scaled dot product",
    "paper": "Vaswani et al. 2017, arXiv:1706.03762",
    "reference": "torch.nn.functional.scaled_dot_product_attention",
    "aliases": {"soft-capped": {"softcap": 50.0}, "with-sinks": {"sinks": "learned"}},
}

BLOCK = 128  # queries a block: large enough for full-speed products, small enough to skip most of the mask
TILE = 256  # queries and keys a tile of `flash`; half as many under a window, whose edges are computed in vain
LONG = 4  # a row of more windows than this is read by tiles: its mask would be mostly empty


@dataclass(frozen=True, kw_only=True)
class Spec(ScoreSpec):
    """softcap: a, the bound of the scores, None for none; sinks: none, or a learned logit a head.

    scale: what products are multiplied by, None for 1 / sqrt(head_dim).
    """

    scale: float | None = None
    softcap: float | None = None
    sinks: Literal["none", "learned"] = "none"

    ranges = within(POSITIVE, "scale softcap")

    def build(self, *, heads: int, head_dim: int, **dims: Any) -> ScaledDot:
        return ScaledDot(heads, head_dim, scale=self.scale, softcap=self.softcap, sinks=self.sinks)


class ScaledDot(AttentionScore):
    """See the module."""

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Literal["none", "learned"] = "none",
    ) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.scale = head_dim**-0.5 if scale is None else scale
        self.softcap = softcap
        self.sinks = nn.Parameter(torch.empty(heads)) if sinks == "learned" else None

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: AttentionMask,
        *,
        bias: Tensor | None = None,
        form: AttentionForm = "plain",
    ) -> Tensor:
        length = queries.shape[2]
        simple = self.softcap is None and self.sinks is None
        if bias is not None or length == 1:
            usable = form == "sdpa" and simple
            return (self._sdpa if usable else self._plain)(queries, keys, values, mask, bias)
        if form == "plain":
            return self._plain(queries, keys, values, mask, bias)
        sparse = mask.window is not None and length > LONG * mask.window
        if form == "flash" or not simple or sparse:
            side = TILE if mask.window is None else TILE // 2
            tiles = tiles_of(mask, side, side)
            return flash_attention(
                queries, keys, values, tiles, scale=self.scale, softcap=self.softcap, sinks=self.sinks
            )  # fmt: skip
        if form == "blocks":
            bound = (mask.causal, mask.window)
            if torch.compiler.is_compiling():
                found, known = operation("blocks", queries), mask.plans.get("ranges")
                if found is not None and known is not None:
                    y: Tensor = found(queries, keys, values, *known, *bound, self.scale, 2 * BLOCK)[0]
                    return y
                return self._plain(queries, keys, values, mask, bias)
            ranges = mask.ranges() if fused(queries, keys, values) else None
            if ranges is not None:
                side = BLOCK if queries.dtype == torch.bfloat16 else BLOCK // 2
                return BlockAttention.apply(queries, keys, values, None, bound, self.scale, side, ranges)
            causal_only = mask.causal and mask.allowed is None
            additive = None if causal_only else mask.additive(queries.dtype)
            return BlockAttention.apply(queries, keys, values, additive, bound, self.scale, BLOCK)
        return self._sdpa(queries, keys, values, mask, None)

    def _sdpa(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, bias: Tensor | None) -> Tensor:
        grouped = q.shape[1] != k.shape[1]
        wide = q.shape[-1] - v.shape[-1]
        if wide > 0 and q.shape[2] > 1:  # torch's fused kernel takes one width only, and else holds all scores
            return self._sdpa(q, k, F.pad(v, (0, wide)), mask, bias)[..., : v.shape[-1]]
        if grouped and q.shape[2] == 1:  # heads that share keys become rows of one product; torch would copy the keys
            rows = q.reshape(len(q), k.shape[1], -1, q.shape[-1])
            folded = None if bias is None else bias.reshape(len(bias), k.shape[1], -1, bias.shape[-1])
            return self._sdpa(rows, k, v, mask, folded).reshape(*q.shape[:3], -1)
        if bias is None and mask.causal and mask.allowed is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped, scale=self.scale)
        added: Tensor | None = mask.allowed
        if bias is not None:
            additive = mask.additive(q.dtype)
            added = bias.to(q.dtype) if additive is None else additive + bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=added, enable_gqa=grouped, scale=self.scale)

    def _plain(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, bias: Tensor | None) -> Tensor:
        batch, heads, length, dim = q.shape
        kv_heads, keys = k.shape[1], k.shape[2]
        # the query heads that share a key-value head become further rows of one product
        folded = (q * self.scale).reshape(batch, kv_heads, -1, dim)
        scores = (folded @ k.transpose(-1, -2)).view(batch, heads, length, keys)
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        return read_values(scores, v, mask, bias, self.sinks)

    def flops(self, keys: float) -> float:
        return 4.0 * self.heads * self.head_dim * keys

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.zero_()
