"""The inner loops of lexical retrieval, compiled: add up the weights of a query's postings, keep the best texts.

Both equal the array forms in `tests/references/test_bm25.py`.
"""

# mypy: disable-error-code="call-arg"
# (numba types intrinsics itself)

import functools

import numpy as np

from llmanac.kernels.text import ONE, cached, count_ones, inner

FEW, LIKELY = 500, 0.7  # postings of a word that is read at once; share of `rest` below which a bound is not tried
BLOCK = 256  # scores that are compared with the least one before any is kept
_SIX, _LOW = np.uint64(6), np.uint64(63)


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
def prepare_words(
    starts: np.ndarray, texts: np.ndarray, weights: np.ndarray, words: np.ndarray,
    most: np.ndarray, rows: np.ndarray, bits: np.ndarray, ranks: np.ndarray,
) -> None:  # fmt: skip
    """Find the largest weight of words, and, for those of many texts, a bit for each text.

    Args:
        words: (M,); those whose `most` is not NaN are known already.
        most: (V,) float32 for the largest weight, or the least one of a word with negative ones.
        rows: (V,) the word's row of `bits`, -1 where it has none.
        bits: (D, N // 64 + 1) uint64, zeros: bit t % 64 of entry t // 64 becomes 1 where text t has the word.
        ranks: as bits, uint32: becomes the number of bits in the entries before.
    """
    for word in words:
        if most[word] == most[word]:
            continue
        low, high, row = np.float32(0), np.float32(0), rows[word]
        for p in range(starts[word], starts[word + 1]):
            low, high = min(low, weights[p]), max(high, weights[p])
            if row >= 0:
                text = np.uint64(texts[p])
                bits[row, text >> _SIX] |= ONE << (text & _LOW)
        total = 0
        for i in range(bits.shape[1] if row >= 0 else 0):
            ranks[row, i] = total
            total += count_ones(bits[row, i])
        most[word] = low if low < 0 else high


@inner
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


@inner
def weight_by_bit(weights: np.ndarray, start: int, bits: np.ndarray, ranks: np.ndarray, text: int) -> float:
    """`weight_of` for a word with its rows of bits and ranks, and postings from `start` on; without a branch."""
    number = np.uint64(text)
    entry, place = bits[number >> _SIX], number & _LOW
    before = np.int64(ranks[number >> _SIX]) + np.int64(count_ones(entry & ((ONE << place) - ONE)))
    held = (entry >> place) & ONE
    return np.float64(weights[start + before * np.int64(held)]) * np.float64(held)


@inner
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


@inner
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
    starts: np.ndarray, texts: np.ndarray, weights: np.ndarray,
    most: np.ndarray, rows: np.ndarray, bits: np.ndarray, ranks: np.ndarray,
    words: np.ndarray, scores: np.ndarray, seen: np.ndarray, places: np.ndarray, kept: np.ndarray,
) -> int:  # fmt: skip
    """The k texts of the largest scores other than 0, best first, of equal ones the first; leaves scores at 0.

    Words of few texts are added up first. Once the k-th best sum is above all that the other words could give (`most`;
    MaxScore, Turtle & Flood 1995), only texts already seen can be among the best. Those that still can look up their
    weights for the other words, by bits or by bisection, or, where they are many, the other postings are added to them
    alone.

    Args:
        most, rows, bits, ranks: of `prepare_words`; a negative `most` rules skipping out.
        words: (M,) of few texts first.
        scores: (N,) zeros; seen: (N,) memory for text numbers.
        places, kept: (k,) for the texts and their scores.

    Returns:
        how many there are.
    """
    k, count, done = len(places), 0, 0
    rest, least = 0.0, -np.inf
    for word in words:
        rest += most[word]
        if most[word] < 0.0:
            rest = np.inf
    while done < len(words):
        word = words[done]
        start, stop = starts[word], starts[word + 1]
        # reading a word of few texts costs less than comparing the sums
        if count >= k and stop - start > count // 2 + FEW and rest < np.inf:
            size = 0
            for i in range(count):
                score = scores[seen[i]]
                if size < k or score > kept[k - 1]:
                    size = insert(places, kept, size, seen[i], score)
            if size == k and kept[k - 1] >= LIKELY * rest:
                # what these texts have in the end is at least what the best have
                least = np.inf
                for i in range(k):
                    score = kept[i]
                    for other in words[done:]:
                        if rows[other] >= 0:
                            row = rows[other]
                            score += weight_by_bit(weights, starts[other], bits[row], ranks[row], places[i])
                        else:
                            score += weight_of(texts, weights, starts[other], starts[other + 1], places[i])
                    least = min(least, score)
                if rest < least:
                    break
        if count + stop - start > len(scores) >> 2:
            add_postings(starts, texts, weights, words[done:], scores)
            return best_of_all(scores, places, kept)
        for p in range(start, stop):
            text = texts[p]
            seen[count] = text
            count += scores[text] == 0.0
            scores[text] += weights[p]
        rest -= most[word]
        done += 1
    while done < len(words) and rows[words[done]] < 0:
        word = words[done]
        count = _still_possible(scores, seen, count, least - rest - 1e-9 * abs(rest))
        low, high = starts[word], starts[word + 1]
        if 32 * count < high - low:
            for i in range(count):
                scores[seen[i]] += weight_of(texts, weights, low, high, seen[i])
        else:
            for p in range(low, high):
                score = scores[texts[p]]
                scores[texts[p]] = score + (np.float64(weights[p]) if score != 0.0 else 0.0)
        rest -= most[word]
        done += 1
    sums = np.empty(count, np.float64)
    for i in range(count):
        sums[i], scores[seen[i]] = scores[seen[i]], 0.0
    for j in range(done, len(words)):
        bound, held = least - rest - 1e-9 * abs(rest), 0
        for i in range(count):
            seen[held], sums[held] = seen[i], sums[i]
            held += sums[i] >= bound
        count, word = held, words[j]
        start, row, rank = starts[word], bits[rows[word]], ranks[rows[word]]
        for i in range(count):
            sums[i] += weight_by_bit(weights, start, row, rank, seen[i])
        rest -= most[word]
    size = 0
    for i in range(count):
        if sums[i] != 0.0 and (size < k or sums[i] >= kept[k - 1]):
            size = insert(places, kept, size, seen[i], sums[i])
    return size


@inner
def best_of_all(scores: np.ndarray, places: np.ndarray, kept: np.ndarray) -> int:
    """The k largest of all scores (N,) other than 0 into places and kept; leaves scores at 0, says how many."""
    k, size, least = len(places), 0, -np.inf
    for first in range(0, len(scores), BLOCK):
        stop = min(first + BLOCK, len(scores))
        above = 0
        for i in range(first, stop):
            above += (scores[i] > least) & (scores[i] != 0.0)
        for i in range(first, stop if above else first):
            score = scores[i]
            if score > least and score != 0.0:
                size = insert(places, kept, size, i, score)
                if size == k:
                    least = kept[k - 1]
        scores[first:stop] = 0.0
    return size


@functools.partial(cached, nogil=True)
def best_of_queries(
    starts: np.ndarray, texts: np.ndarray, weights: np.ndarray,
    most: np.ndarray, rows: np.ndarray, bits: np.ndarray, ranks: np.ndarray,
    words: np.ndarray, bounds: np.ndarray, scores: np.ndarray, seen: np.ndarray,
    places: np.ndarray, kept: np.ndarray, found: np.ndarray,
) -> None:  # fmt: skip
    """`best_of_query` for Q queries: their words one after the other, query q from bounds[q] to bounds[q + 1].

    Args:
        places, kept: (Q, k); found: (Q,) for how many there are.
    """
    for q in range(len(found)):
        own = words[bounds[q] : bounds[q + 1]].copy()
        own = own[np.argsort(starts[own + 1] - starts[own])]
        found[q] = best_of_query(starts, texts, weights, most, rows, bits, ranks, own, scores, seen, places[q], kept[q])


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
