"""From scores to what is read, as the formula has it: softmax over the keys that are seen, then a weighted sum."""

from __future__ import annotations

import torch
from torch import Tensor

from llmanac.models.masks import AttentionMask


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
