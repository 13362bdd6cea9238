"""The inner loops of lexical retrieval, compiled: add up the weights of a query's postings, keep the best texts.

Both equal the array forms in `tests/references/test_bm25.py`.
"""

from __future__ import annotations

import functools

import numpy as np

from llmanac.kernels.text import cached


@functools.partial(cached, nogil=True)
def count_texts(ids: np.ndarray, ends: np.ndarray, words: int) -> np.ndarray:
    """(V,) int64: how many texts hold each word. Text i is ids[ends[i - 1] : ends[i]]."""
    found, last = np.zeros(words, np.int64), np.full(words, -1, np.int32)
    start = 0
    for text in range(len(ends)):
        for p in range(start, ends[text]):
            word = ids[p]
            found[word] += last[word] != text
            last[word] = text
        start = ends[text]
    return found


@functools.partial(cached, nogil=True)
def fill_postings(
    ids: np.ndarray, ends: np.ndarray, starts: np.ndarray, idf: np.ndarray, relative: np.ndarray,
    k1: float, gain: float, shift: float, least: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The text, int32, and the weight, float32, of each (word, text) pair, (P,) both, ordered by word and then by text.

    A pair of count f weighs idf * (gain * r / (k1 + r) - least) with r = f / relative + shift.

    Args:
        starts: (V+1,) where each word's pairs begin; idf: (V,); relative: (N,) what the length of a text divides by.
    """
    texts, weights = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    after, counts = starts[:-1].copy(), np.zeros(len(starts) - 1, np.int32)
    start = 0
    for text in range(len(ends)):
        for p in range(start, ends[text]):
            counts[ids[p]] += 1
        for p in range(start, ends[text]):
            word = ids[p]
            if counts[word]:
                raised = counts[word] / relative[text] + shift
                at = after[word]
                texts[at], weights[at] = text, idf[word] * (gain * raised / (k1 + raised) - least)
                after[word] = at + 1
                counts[word] = 0
        start = ends[text]
    return texts, weights


@functools.partial(cached, nogil=True)
def add_postings(
    starts: np.ndarray, texts: np.ndarray, weights: np.ndarray, words: np.ndarray, scores: np.ndarray
) -> None:
    """scores (N,) += the weights (P,) of each word's postings, in the order of the words."""
    for word in words:
        for p in range(starts[word], starts[word + 1]):
            scores[texts[p]] += weights[p]


@functools.partial(cached, nogil=True)
def weight_of(texts: np.ndarray, weights: np.ndarray, low: int, high: int, text: int) -> float:
    """The weight of `text` among the postings low, ..., high - 1, which are ordered by text; 0 where it is none."""
    end = high
    while low < high:
        middle = (low + high) >> 1
        if texts[middle] < text:
            low = middle + 1
        else:
            high = middle
    return np.float64(weights[low]) if low < end and texts[low] == text else 0.0


@functools.partial(cached, nogil=True)
def insert(places: np.ndarray, kept: np.ndarray, size: int, text: int, score: float) -> int:
    """Put a score into the k best, of equal ones the first text before the others; returns how many there are now."""
    k = len(places)
    if size == k and (score < kept[k - 1] or (score == kept[k - 1] and text > places[k - 1])):
        return size
    at = size if size < k else k - 1
    while at > 0 and (kept[at - 1] < score or (kept[at - 1] == score and places[at - 1] > text)):
        kept[at], places[at] = kept[at - 1], places[at - 1]
        at -= 1
    kept[at], places[at] = score, text
    return min(size + 1, k)


@functools.partial(cached, nogil=True)
def _still_possible(scores: np.ndarray, seen: np.ndarray, count: int, least: float) -> int:
    """Keep the texts of seen[:count] whose sum reaches `least`, set the sums of the others to 0; how many are kept."""
    kept = 0
    for i in range(count):
        text = seen[i]
        seen[kept] = text
        score = scores[text]
        keep = score >= least
        kept += keep
        scores[text] = score if keep else 0.0
    return kept


@functools.partial(cached, nogil=True)
def best_of_query(
    starts: np.ndarray,
    texts: np.ndarray,
    weights: np.ndarray,
    most: np.ndarray,
    words: np.ndarray,
    scores: np.ndarray,
    seen: np.ndarray,
    places: np.ndarray,
    kept: np.ndarray,
) -> int:
    """The k texts of the largest scores other than 0, best first, of equal ones the first; leaves scores at 0.

    Words of few texts are added up first. Once the k-th best sum is above all that the other words could give (`most`;
    MaxScore, Turtle & Flood 1995), only texts already seen can be among the best. Those that still can look up their
    weights for the other words, or, where they are many, the other postings are added to them alone.

    Args:
        most: (V,) the largest weight of each word, below 0 where the word has a negative one, which rules skipping out.
        words: (M,) of few texts first.
        scores: (N,) zeros; seen: (N,) memory for text numbers.
        places, kept: (k,) for the texts and their scores.

    Returns:
        how many there are.
    """
    k, count, size, done = len(places), 0, 0, 0
    rest = 0.0
    for word in words:
        rest += most[word]
        if most[word] < 0.0:
            rest = np.inf
    least = -np.inf
    while done < len(words):
        word = words[done]
        length = starts[word + 1] - starts[word]
        if count >= k and length > count and rest < np.inf:
            # is it worth reading this word's postings?
            size = 0
            for i in range(count):
                score = scores[seen[i]]
                if size < k or score > kept[k - 1]:
                    size = insert(places, kept, size, seen[i], score)
            # what those texts have in the end is at least what the best have
            least = np.inf
            for i in range(k):
                score = kept[i]
                for j in range(done, len(words)):
                    score += weight_of(texts, weights, starts[words[j]], starts[words[j] + 1], places[i])
                least = min(least, score)
            if rest < least:
                break
        if count + length > len(scores) >> 2:
            least = -np.inf
            break
        for p in range(starts[word], starts[word + 1]):
            text = texts[p]
            seen[count] = text
            count += scores[text] == 0.0
            scores[text] += weights[p]
        rest -= most[word]
        done += 1
    if done == len(words) or rest < least:
        for j in range(done, len(words)):
            count = _still_possible(scores, seen, count, least - rest - 1e-9 * abs(rest))
            word = words[j]
            low, high = starts[word], starts[word + 1]
            if 32 * count < high - low:
                for i in range(count):
                    scores[seen[i]] += weight_of(texts, weights, low, high, seen[i])
            else:
                for p in range(low, high):
                    score = scores[texts[p]]
                    scores[texts[p]] = score + (np.float64(weights[p]) if score != 0.0 else 0.0)
            rest -= most[word]
        size = 0
        for i in range(count):
            score = scores[seen[i]]
            scores[seen[i]] = 0.0
            if score != 0.0 and (size < k or score >= kept[k - 1]):
                size = insert(places, kept, size, seen[i], score)
        return size
    add_postings(starts, texts, weights, words[done:], scores)
    size, least = 0, -np.inf
    for i in range(len(scores)):
        score = scores[i]
        scores[i] = 0.0
        if score > least and score != 0.0:
            size = insert(places, kept, size, i, score)
            if size == k:
                least = kept[k - 1]
    return size


@functools.partial(cached, nogil=True)
def best_of_queries(
    starts: np.ndarray,
    texts: np.ndarray,
    weights: np.ndarray,
    most: np.ndarray,
    words: np.ndarray,
    bounds: np.ndarray,
    scores: np.ndarray,
    seen: np.ndarray,
    places: np.ndarray,
    kept: np.ndarray,
    found: np.ndarray,
) -> None:
    """`best_of_query` for Q queries: their words one after the other, query q from bounds[q] to bounds[q + 1].

    Args:
        places, kept: (Q, k); found: (Q,) for how many there are.
    """
    for q in range(len(found)):
        own = words[bounds[q] : bounds[q + 1]].copy()
        lengths = starts[own + 1] - starts[own]
        own = own[np.argsort(lengths)]
        found[q] = best_of_query(starts, texts, weights, most, own, scores, seen, places[q], kept[q])


@functools.partial(cached, nogil=True, fastmath={"reassoc", "contract"})
def inner_products(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(B, R) float32: the products of queries (B, D) and vectors (R, D). For few queries: memory is read in order."""
    out = np.empty((queries.shape[0], vectors.shape[0]), np.float32)
    for i in range(vectors.shape[0]):
        for b in range(queries.shape[0]):
            total = np.float32(0)
            for j in range(vectors.shape[1]):
                total += vectors[i, j] * queries[b, j]
            out[b, i] = total
    return out


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
