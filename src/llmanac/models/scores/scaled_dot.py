"""Scaled dot-product attention.

    A = softmax(Q K^T / sqrt(d) + M)        O = A V        Q (B, H, T, d), K and V (B, H_kv, S, d), A (B, H, T, S)

M is 0 where a key may be seen and -inf where not. Dividing by sqrt(d) keeps the variance of the scores at 1 for every
d, so the softmax neither saturates nor loses its gradient. Vaswani et al. 2017, section 3.2.1.

One function in three forms, chosen at run time by what is fastest: `sdpa` is torch's kernel (never holds A), `plain`
is the formula, and `blocks` walks over blocks of queries, reads only the keys that each can see, and has its own
backward pass (`_blocks.py`): half the work of `plain` under a causal mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.models._context import AttentionForm
from llmanac.models._masks import AttentionMask
from llmanac.models.scores import Score, ScoreSpec
from llmanac.models.scores._blocks import BlockAttention

CARD = {
    "title": "Scaled dot product",
    "paper": "Vaswani et al. 2017, arXiv:1706.03762",
    "reference": "torch.nn.functional.scaled_dot_product_attention",
}

BLOCK = 128  # queries a block: large enough for full-speed products, small enough to skip most of the mask


@dataclass(frozen=True, kw_only=True)
class Spec(ScoreSpec):
    """Nothing to choose: the scale is 1 / sqrt(head_dim)."""

    def build(self, *, heads: int, head_dim: int, **dims: Any) -> ScaledDot:
        return ScaledDot(heads, head_dim)


class ScaledDot(Score):
    """See the module."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.scale = head_dim**-0.5

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
        if form == "sdpa":
            return self._sdpa(queries, keys, values, mask, bias)
        if form == "blocks" and bias is None and queries.shape[2] > 1:
            causal_only = mask.causal and mask.allowed is None
            additive = None if causal_only else mask.additive(queries.dtype)
            bound = (mask.causal, mask.window)
            return BlockAttention.apply(queries, keys, values, additive, bound, self.scale, BLOCK)
        return self._plain(queries, keys, values, mask, bias)

    def _sdpa(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, bias: Tensor | None) -> Tensor:
        grouped = q.shape[1] != k.shape[1]
        if bias is None and mask.causal and mask.allowed is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped, scale=self.scale)
        allowed: Tensor | None = mask.allowed
        if bias is not None:
            additive = mask.additive(q.dtype)
            allowed = bias.to(q.dtype) if additive is None else additive + bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=grouped, scale=self.scale)

    def _plain(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, bias: Tensor | None) -> Tensor:
        batch, heads, length, dim = q.shape
        kv_heads, keys = k.shape[1], k.shape[2]
        # the query heads that share a key-value head become further rows of one product
        folded = (q * self.scale).reshape(batch, kv_heads, -1, dim)
        scores = (folded @ k.transpose(-1, -2)).view(batch, heads, length, keys)
        additive = mask.additive(scores.dtype)
        if additive is not None:
            scores = scores + additive
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        weights = torch.softmax(scores, dim=-1)  # torch accumulates it in float32 for bfloat16 scores
        read = weights.view(batch, kv_heads, -1, keys) @ v
        return read.view(batch, heads, length, v.shape[-1])

    def flops(self, keys: float) -> float:
        return 4.0 * self.heads * self.head_dim * keys
