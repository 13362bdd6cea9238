"""Additive attention scores, made for a few queries at a time.

    e_ts = v^T tanh(q_t + k_s)            q (B, H, T, n), k (B, H, S, n), v (H, n), e (B, H, T, S)
    dv = sum g_ts tanh(.)       dq_t = v * sum_s g_ts (1 - tanh^2)       dk_s = v * sum_t g_ts (1 - tanh^2)

The backward pass makes the tanh again, so that no (B, H, T, S, n) exists in either pass.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 20  # numbers of the tanh held at a time


def additive_scores(queries: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """Queries (B, H, T, n), keys (B, H, S, n) and v (H, n) -> (B, H, T, S)."""
    out: Tensor = _Additive.apply(queries, keys, vector)
    return out


def _size(queries: Tensor, keys: Tensor) -> int:
    """Queries a chunk."""
    return max(1, CHUNK // max(1, queries.shape[0] * queries.shape[1] * keys.shape[2] * keys.shape[3]))


class _Additive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
        ctx.save_for_backward(queries, keys, vector)
        column = vector[:, None, :, None]  # one product a head
        parts = []
        for part in queries.split(_size(queries, keys), dim=2):
            inside = torch.tanh(part[:, :, :, None] + keys[:, :, None])
            parts.append((inside @ column).squeeze(-1))
        return torch.cat(parts, dim=2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        queries, keys, vector = ctx.saved_tensors
        exact = torch.float64 if queries.dtype == torch.float64 else torch.float32
        size = _size(queries, keys)
        d_keys = torch.zeros(keys.shape, dtype=exact, device=keys.device)
        d_vector = torch.zeros(vector.shape, dtype=exact, device=keys.device)
        d_queries = []
        for part, above in zip(queries.split(size, dim=2), grads[0].split(size, dim=2), strict=True):
            inside = torch.tanh(part[:, :, :, None] + keys[:, :, None]).to(exact)
            above = above.to(exact)[..., None]
            d_vector += (inside * above).sum((0, 2, 3))
            slope = inside.square_().neg_().add_(1).mul_(above)
            d_queries.append(slope.sum(3))
            d_keys += slope.sum(2)
        by_head = vector.to(exact)[:, None]
        d_q = (torch.cat(d_queries, dim=2) * by_head).to(queries.dtype)
        return d_q, (d_keys * by_head).to(keys.dtype), d_vector.to(vector.dtype)
