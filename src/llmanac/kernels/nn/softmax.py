"""Softmax of attention scores over one range of keys a query, in the scores' own memory, and its slopes.

    w_j = e^(c z_j) / sum over first <= k < last of e^(c z_k)  for  first <= j < last,  else 0
    dz_j = c w_j (dw_j - sum_k dw_k w_k)

Causal, windowed, packed and bidirectional masks all show a query one range of keys. What is outside is neither read nor
computed, and the scale c costs no pass of its own.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba types its functions itself)

import numpy as np
from torch import Tensor

from llmanac.kernels.nn._exponential import LOG2E, RELAXED
from llmanac.kernels.nn._short import array, exponentials, in_pieces, kind, largest, narrow, store, widen
from llmanac.kernels.text import cached

ONE = np.float32(1.0)
LOOP = {"nogil": True, "error_model": "numpy", "fastmath": RELAXED}


def softmax_(scores: Tensor, first: Tensor, last: Tensor, scale: float) -> Tensor:
    """Scores (B, H, T, S) become weights, in place.

    Args:
        first, last: (B or 1, T) int64, the keys that each query sees: at least one.
    """
    flat, places = _rows(scores, first, last)
    in_pieces(_softmax, len(flat), flat.shape[1], array(flat), *places, kind(scores)(scale * LOG2E))
    return scores


def softmax_slopes_(slopes: Tensor, weights: Tensor, first: Tensor, last: Tensor, scale: float) -> Tensor:
    """Slopes of weights (B, H, T, S) become slopes of scores, in place; `weights` is what `softmax_` gave."""
    flat, places = _rows(slopes, first, last)
    kept = array(weights.view(flat.shape))
    in_pieces(_slopes, len(flat), flat.shape[1], array(flat), kept, *places, kind(slopes)(scale))
    return slopes


def _rows(x: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, tuple[object, object, int]]:
    each = x.shape[1] * x.shape[2] if len(first) > 1 else x.shape[0] * x.shape[1] * x.shape[2]
    return x.view(-1, x.shape[-1]), (array(first), array(last), each)


def _softmax_loop(start, stop, scores, first, last, each, factor):
    queries = first.shape[1]
    made = np.full(scores.shape[1], factor)
    for i in range(start, stop):
        row, query = i // each, i % queries
        begin, end = first[row, query], last[row, query]
        z = scores[i, begin:end]
        total = exponentials(z, made, factor, largest(z) * factor)
        store(z, made, ONE / total)
        scores[i, :begin] = 0
        scores[i, end:] = 0


def _slopes_loop(start, stop, slopes, weights, first, last, each, scale):
    queries = first.shape[1]
    for i in range(start, stop):
        row, query = i // each, i % queries
        begin, end = first[row, query], last[row, query]
        s, w = slopes[i, begin:end], weights[i, begin:end]
        along = scale * 0
        for j in range(len(s)):
            along += widen(s[j]) * widen(w[j])
        for j in range(len(s)):
            s[j] = narrow((widen(s[j]) - along) * widen(w[j]) * scale, s[j])
        slopes[i, :begin] = 0
        slopes[i, end:] = 0


_softmax, _slopes = cached(_softmax_loop, **LOOP), cached(_slopes_loop, **LOOP)
