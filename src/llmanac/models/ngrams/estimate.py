"""From counts and a smoothing to a trie: order by order, each from the one below."""

from typing import Any

import numpy as np

from llmanac.kernels.ngrams.query import ZERO
from llmanac.models.ngrams.counts import Counts
from llmanac.models.ngrams.trie import Trie


def estimate(counts: Counts, smoothing: Any, about: dict[str, Any] | None = None) -> Trie:
    """Estimate the model from counts with a smoothing.

    Probabilities are estimated in float64 and kept as float32 logarithms.

    Args:
        smoothing: what a Spec of kind `smoothing` builds.
        about: stored with the model, with the discounts and the number of tokens.
    """
    sizes = [len(level) for level in counts.levels]
    nodes, inner = sum(sizes), sum(sizes[:-1])
    words, logs = np.empty(nodes, np.int32), np.empty(nodes, np.float32)
    weights, first = np.zeros(inner, np.float32), np.empty(inner + 1, np.int32)
    lower, at = np.zeros(1), 0
    first[-1] = nodes
    for level, own in enumerate(counts.levels):
        lower, gamma = smoothing.level(counts, level, lower)
        words[at : at + len(own)] = own.words
        logs[at : at + len(own)] = logarithm(lower)
        if level:
            below = at - sizes[level - 1]
            weights[below:at] = logarithm(gamma)
            first[below:at] = at + own.starts[:-1]
        at += len(own)
    starts = tuple(int(n) for n in np.concatenate([[0], np.cumsum(sizes)]))
    made = {"tokens": counts.tokens, "discounts": smoothing.discounts, **(about or {})}
    start = -1 if counts.start is None or counts.predictable()[counts.start] else counts.start
    return Trie(starts, words, logs, weights, first, smoothing.without_backoff, start, made)


def logarithm(p: np.ndarray) -> np.ndarray:
    """log10 p in float32, `ZERO` for 0."""
    with np.errstate(divide="ignore"):
        return np.maximum(np.log10(p), ZERO).astype(np.float32)
