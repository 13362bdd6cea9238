"""Operations on rows of logits (B, V) that samplers share. Each row is computed by itself; results have its dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def logsumexp(logits: Array) -> Array:
    """(B, V) -> (B, 1); not finite where a row has no finite maximum."""
    top = logits.max(-1, keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf of damaged logits
        total: Array = np.log(np.exp(logits - top).sum(-1, keepdims=True)) + top
    return total


def log_softmax(logits: Array) -> Array:
    """(B, V) -> (B, V)."""
    found: Array = logits - logsumexp(logits)
    return found


def gather(values: Array, ids: Array) -> Array:
    """(B, V) and (B, K) places -> (B, K)."""
    return np.take_along_axis(values, ids, -1)


def largest(values: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest numbers of each row (B, K), largest first, and their places; of equals the first first."""
    size = values.shape[-1]
    if count < size:
        ids = np.sort(np.argpartition(values, size - count, -1)[..., size - count :], -1)
    else:
        ids = np.broadcast_to(np.arange(size), values.shape)
    order = np.argsort(-gather(values, ids), -1, kind="stable")
    ids = gather(ids, order)
    return gather(values, ids), ids


def cut(logits: Array, dropped: Array) -> Array:
    """The logits with -inf where `dropped` (B, V) is true."""
    return np.where(dropped, np.array(-np.inf, logits.dtype), logits)


def nothing(logits: Array) -> Array:
    """(B, V) of -inf."""
    return np.full_like(logits, -np.inf)
