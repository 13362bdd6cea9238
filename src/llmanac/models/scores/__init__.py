"""Attention scores: how a query and a key are compared, and how values are then read.

From scores to what is read, as the formula has it: softmax over the keys that are seen, then a weighted sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.core.spec import Spec
from llmanac.models.forward import AttentionForm
from llmanac.models.masks import AttentionMask


@dataclass(frozen=True, kw_only=True)
class ScoreSpec(Spec):
    """`build(heads=, head_dim=) -> Score`."""

    kind = "score"

    def build(self, *args: Any, **dims: Any) -> AttentionScore:
        """heads: query heads; head_dim: size of each."""
        raise NotImplementedError


class AttentionScore(nn.Module):
    """Reads values by how queries compare with keys."""

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
        """Queries (B, H, T, d), keys and values (B, H_kv, S, d) with H a multiple of H_kv -> (B, H, T, d).

        Head h reads key-value head h // (H / H_kv). `bias` (B or 1, H, T, S) is added to the scores. `form` chooses
        among computations of the same function.
        """
        raise NotImplementedError

    def flops(self, keys: float) -> float:
        """Matrix-product FLOPs of one query over `keys` keys, all heads, forward."""
        raise NotImplementedError


def read_values(
    scores: Tensor, values: Tensor, mask: AttentionMask, bias: Tensor | None, sinks: Tensor | None = None
) -> Tensor:
    """Scores (B, H, T, S) and values (B, H_kv, S, d) -> (B, H, T, d).

    `bias` (B or 1, H, T, S) is added to the scores; sinks (H,) are further logits that read nothing.
    """
    batch, heads, length, keys = scores.shape
    additive = mask.additive(scores.dtype)
    if additive is not None:
        scores = scores + additive
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    if sinks is not None:
        more = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(batch, -1, length, 1)
        scores = torch.cat([scores, more], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., :keys]  # torch accumulates it in float32 for bfloat16 scores
    read = weights.reshape(batch, values.shape[1], -1, keys) @ values
    return read.view(batch, heads, length, values.shape[-1])
