"""Checks of the values of a mapped trie, to detect a damaged file.

A model may be far larger than the memory and opens at once because its pages are not read, so opening makes
neither a pass over all values nor a checksum. It checks where each level's children begin and end, all tokens (the list
of words is read anyway), and `SAMPLES` evenly spaced ranges of each longer level, which is all of a level of up to
`SAMPLES * STRETCH` nodes. `llmanac ngram convert` checks every value. A model that is damaged between the ranges opens;
the kernels follow no index out of its array.
"""

from collections.abc import Iterator

import numpy as np

from llmanac.models.ngrams.trie import Trie

SAMPLES, STRETCH = 16, 4096
WHOLE = 1 << 20  # nodes that are checked together in a full check
# A back-off weight divides by the probability that longer n-grams leave over. Files give probabilities to about seven
# digits, so the rest is at least 1e-7 or 0: no weight is above 10^7.
LARGEST_WEIGHT = 7.0
ROUNDED = 1e-3  # log10 p above 0 that rounding explains


def check_levels(trie: Trie) -> None:
    """Raises ValueError where the levels' children do not begin and end where the levels do."""
    for level in range(1, trie.order):
        if int(trie.first[trie.starts[level - 1]]) != trie.starts[level]:
            raise ValueError(f"the {level + 1}-grams do not begin where they should")
    if trie.order > 1 and int(trie.first[-1]) != trie.starts[-1]:
        raise ValueError("the longest n-grams do not end where they should")


def check_values(trie: Trie, full: bool) -> None:
    """Raises ValueError for an impossible value; `full` checks every one, else a sample of each level."""
    for level in range(1, trie.order + 1):
        for start, stop in _stretches(trie.starts[level - 1], trie.starts[level], full or level == 1):
            _check_nodes(trie, level, start, stop)


def _stretches(start: int, stop: int, full: bool) -> Iterator[tuple[int, int]]:
    if full or stop - start <= SAMPLES * STRETCH:
        for at in range(start, stop, WHOLE):
            yield at, min(at + WHOLE, stop)
        return
    for at in np.linspace(start, stop - STRETCH, SAMPLES).astype(np.int64).tolist():
        yield at, at + STRETCH


def _check_nodes(trie: Trie, level: int, start: int, stop: int) -> None:
    """The nodes from `start` to `stop`, all of one level."""
    logs = trie.logs[start:stop]
    if not (np.isfinite(logs).all() and logs.max() <= ROUNDED):
        raise ValueError(f"a {level}-gram's probability is not a number up to 1")
    if level < trie.order:
        weights, first = trie.weights[start:stop], trie.first[start : stop + 1]
        if not (np.isfinite(weights).all() and weights.max() <= LARGEST_WEIGHT):
            raise ValueError(f"a {level}-gram's weight is not finite or above 10^{LARGEST_WEIGHT:g}")
        inside = trie.starts[level] <= first.min() and first.max() <= trie.starts[level + 1]
        if not (inside and (first[1:] >= first[:-1]).all()):
            raise ValueError(f"what follows a {level}-gram is out of order")
    words = trie.words[start:stop]
    if level == 1:
        if not np.array_equal(words, np.arange(start, stop)):
            raise ValueError("its tokens are out of order")
        return
    if not (words.min() >= 0 and words.max() < trie.vocab_size):
        raise ValueError(f"a {level}-gram's last token is not in the vocabulary")
    begins = trie.first[trie.starts[level - 2] : trie.starts[level - 1] + 1]  # of each shorter one's children
    low, high = np.searchsorted(begins, np.int32(start), "right"), np.searchsorted(begins, np.int32(stop), "left")
    borders = begins[low:high].astype(np.int64)
    if len(borders) and not (borders.min() > start and borders.max() < stop):
        raise ValueError(f"what follows a {level - 1}-gram is out of order")
    rises = words[1:] > words[:-1]
    rises[borders - start - 1] = True  # another context begins there
    if not rises.all():
        raise ValueError(f"the {level}-grams are out of order")
