"""Operations on rows of logits (B, V) that samplers share. Each row is computed by itself; results have its dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
PIECE = 64


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
    count = min(count, values.shape[-1])
    ids = np.array([_largest(row, count) for row in values], np.int64).reshape(len(values), count)
    return gather(values, ids), ids


def _largest(row: Array, count: int) -> Array:
    """Places (K,) in one row (V,): among what is at least as large as the K-th largest maximum of pieces of it."""
    pieces, tops = len(row) // PIECE, row
    if pieces > count:
        tops = row[: pieces * PIECE].reshape(pieces, PIECE).max(-1)
    least = np.partition(tops, -count)[-count]
    if least > -np.inf:
        at = np.flatnonzero(row >= least)
    else:  # most of the row was ruled out
        at = np.concatenate([np.flatnonzero(row > least), np.flatnonzero(row == least)[:count]])
    found: Array = at[np.argsort(-row[at], kind="stable")[:count]]
    return found


def cut(logits: Array, dropped: Array) -> Array:
    """The logits with -inf where `dropped` (B, V) is true."""
    return np.where(dropped, np.array(-np.inf, logits.dtype), logits)


def nothing(logits: Array) -> Array:
    """(B, V) of -inf."""
    return np.full_like(logits, -np.inf)
