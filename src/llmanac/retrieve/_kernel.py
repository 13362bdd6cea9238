"""The inner loops of lexical retrieval, compiled: add up the weights of a query's postings, keep the best texts.

Both equal the array forms in `tests/references/test_bm25.py`.
"""

from __future__ import annotations

import functools

import numpy as np

from llmanac.kernels.text import cached


@functools.partial(cached, nogil=True)
def add_postings(
    starts: np.ndarray, texts: np.ndarray, weights: np.ndarray, words: np.ndarray, scores: np.ndarray
) -> None:
    """scores (N,) += the weights (P,) of each word's postings, in the order of the words."""
    for word in words:
        for p in range(starts[word], starts[word + 1]):
            scores[texts[p]] += weights[p]


@functools.partial(cached, nogil=True)
def take_best(scores: np.ndarray, places: np.ndarray, kept: np.ndarray) -> int:
    """The k largest scores other than 0, best first, of equal ones the first; every score is set back to 0.

    Args:
        places, kept: (k,) for the positions and their scores.

    Returns:
        how many there are.
    """
    k, size = len(places), 0
    for i in range(len(scores)):
        score = scores[i]
        if score == 0.0:
            continue
        scores[i] = 0.0
        if size == k and score <= kept[k - 1]:
            continue
        at = size if size < k else k - 1
        while at > 0 and kept[at - 1] < score:
            kept[at], places[at] = kept[at - 1], places[at - 1]
            at -= 1
        kept[at], places[at] = score, i
        size = min(size + 1, k)
    return size


@functools.partial(cached, nogil=True)
def merge_best(scores: np.ndarray, first: int, places: np.ndarray, kept: np.ndarray, sizes: np.ndarray) -> None:
    """Merge the scores (B, R) of the texts first, ..., first + R - 1 into each query's best ones.

    Args:
        places, kept: (B, k) positions and scores, best first, of equal ones the first; sizes: (B,) how many there are.
    """
    k = places.shape[1]
    for row in range(scores.shape[0]):
        size = sizes[row]
        least = kept[row, k - 1] if size == k else np.float32(-np.inf)
        for i in range(scores.shape[1]):
            score = scores[row, i]
            if score <= least and size == k:
                continue
            at = size if size < k else k - 1
            while at > 0 and kept[row, at - 1] < score:
                kept[row, at], places[row, at] = kept[row, at - 1], places[row, at - 1]
                at -= 1
            kept[row, at], places[row, at] = score, first + i
            size = min(size + 1, k)
            if size == k:
                least = kept[row, k - 1]
        sizes[row] = size
