"""A byte n-gram with interpolated modified Kneser-Ney smoothing, counted and applied in whole arrays.

For a context h of k bytes and a next byte w (c = counts at the longest order, and at each shorter one the number of
different bytes seen before h w, Kneser-Ney's continuation counts):

    p_k(w | h) = max(0, c(h w) - D(c(h w))) / c(h .)  +  gamma(h) * p_{k-1}(w | shorter h)
    gamma(h)   = (D1 N1(h) + D2 N2(h) + D3 N3+(h)) / c(h .)
    D1, D2, D3 = the closed form from the counts of counts n1..n4 of that order

ending in the uniform distribution over 256 bytes; an unseen context hands all its mass on. A context is at most seven
bytes, so that context and byte fit one 64-bit integer.

Paper: Chen and Goodman 1998, An empirical study of smoothing techniques for language modeling, section 3.
"""

from __future__ import annotations

import numpy as np

from llmanac.core.errors import DataError


class ByteNgram:
    """Trained on construction.

    Args:
        data: the training bytes.
        context: how many bytes of context, 0 to 7.
    """

    def __init__(self, data: bytes, context: int = 5) -> None:
        if not 0 <= context <= 7:
            raise DataError(f"context: {context} bytes; this n-gram takes 0 to 7")
        if not data:
            raise DataError("an n-gram needs training text; there is none")
        self.context = context
        grams, counts = np.unique(_grams(data, context + 1), return_counts=True)
        self.orders = []
        for length in range(context + 1, 0, -1):
            self.orders.append(_Order(grams, counts, length))
            mask = np.uint64((1 << (8 * (length - 1))) - 1)
            # each distinct gram counts once for the gram without its first byte; grams too short to have one (at the
            # start of the data) were never counted at this order
            grams, counts = np.unique(grams & mask, return_counts=True)
        self.orders.reverse()

    def bits(self, data: bytes) -> np.ndarray:
        """(N,) float64: -log2 p of every byte given those before it (fewer than `context` at the start)."""
        n = len(data)
        p = np.full(n, 1 / 256)
        for order in self.orders:
            start = order.length - 1
            if n > start:
                p[start:] = order.interpolate(_grams(data, order.length), p[start:])
        return -np.log2(p)


def _grams(data: bytes, length: int) -> np.ndarray:
    """(N - length + 1,) uint64: every run of `length` bytes as one integer, the last byte lowest."""
    x = np.frombuffer(data, np.uint8).astype(np.uint64)
    n = max(0, len(x) - length + 1)
    out = np.zeros(n, np.uint64)
    for i in range(length):
        out = (out << np.uint64(8)) | x[i : i + n]
    return out


class _Order:
    """The counts of one order, and one step of the interpolation."""

    def __init__(self, grams: np.ndarray, counts: np.ndarray, length: int) -> None:
        self.length, self.grams = length, grams
        d = _discounts(counts)
        taken = np.minimum(d[np.minimum(counts, 3)], counts)
        contexts = grams >> np.uint64(8)
        first = np.flatnonzero(np.concatenate([[True], contexts[1:] != contexts[:-1]]))
        self.contexts = contexts[first]
        total = np.add.reduceat(counts, first)
        self.gamma = np.add.reduceat(taken, first) / total
        owner = np.searchsorted(self.contexts, contexts)
        self.share = (counts - taken) / total[owner]

    def interpolate(self, grams: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """p at this order, from (N,) grams and (N,) p at the order below."""
        share, seen = _look_up(self.grams, self.share, grams)
        gamma, known = _look_up(self.contexts, self.gamma, grams >> np.uint64(8))
        return np.where(known, np.where(seen, share, 0.0) + gamma * lower, lower)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return values[at], keys[at] == wanted


def _discounts(counts: np.ndarray) -> np.ndarray:
    """(4,) the discount for counts 0, 1, 2 and 3 or more; falls back to 0.5, 1, 1.5 where the counts are too few."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    plain = np.array([0.0, 0.5, 1.0, 1.5])
    if min(n[1:5]) == 0:
        return plain
    y = n[1] / (n[1] + 2 * n[2])
    d = np.array([0.0] + [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)])
    return d if np.all((d[1:] > 0) & (d[1:] <= np.arange(1, 4))) else plain
