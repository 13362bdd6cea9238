# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
"""Counting n-grams in numba: every n-gram of a stream of token ids, order by order, and the sort that makes a trie.

The n-gram that ends at a place is named by the (n-1)-gram that ends one place before and the token itself, so a level
needs the level below it only. An n-gram occurs once if either (n-1)-gram inside it does, and needs no look-up then: in
text that is most of the work at the higher orders. `plain_counts` is the form that all of this must equal.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from llmanac.kernels.text import cached, grown, mix, prefetch

AHEAD = 12  # places by which a slot of the table is asked for before it is needed
LAST_PLACE = 255  # a place further into its sequence is written as this


def plain_counts(sequences: list[list[int]], length: int) -> Counter[tuple[int, ...]]:
    """How often each n-gram of `length` tokens occurs; none spans two sequences."""
    found: Counter[tuple[int, ...]] = Counter()
    for row in sequences:
        found.update(tuple(row[i : i + length]) for i in range(len(row) - length + 1))
    return found


@cached
def occurs_again(ids, counts, often):
    """`often[i]`: whether what ends at place i (`ids`, -1 for nothing) occurs more than once."""
    for i in range(ids.shape[0]):
        often[i] = ids[i] >= 0 and counts[ids[i]] > 1


@cached
def _twice(table):
    """A hash table of (key, id) rows, -1 where free, with twice the room."""
    larger = np.full((table.shape[0] * 2, 2), -1, np.int64)
    mask = np.uint64(larger.shape[0] - 1)
    for i in range(table.shape[0]):
        if table[i, 1] >= 0:
            slot = mix(np.uint64(table[i, 0])) & mask
            while larger[slot, 1] >= 0:
                slot = (slot + np.uint64(1)) & mask
            larger[slot, 0], larger[slot, 1] = table[i, 0], table[i, 1]
    return larger


@cached
def count_level(words, place, below, often, length, vocabulary, limit, ids):
    """Number the n-grams of one length in the order in which they first occur.

    Args:
        words: (N,) int32 tokens. place: (N,) uint8 place of each in its sequence.
        below: (N,) int32 id of the (length - 1)-gram that ends at each place, -1 for none. often: see `occurs_again`.
        limit: stop once there are more n-grams than this.
        ids: (N,) int32, filled with the n-gram that ends at each place.

    Returns:
        (counts, first place at which each ends), or as many items as fit when the limit was met.
    """
    tokens = words.shape[0]
    counts, first = np.zeros(1 << 14, np.int32), np.empty(1 << 14, np.int32)
    table = np.full((1 << 14, 2), -1, np.int64)
    mask, base = np.uint64(table.shape[0] - 1), np.uint64(table.ctypes.data)
    n, held = 0, 0
    if tokens:
        ids[0] = -1
    for i in range(1, tokens):
        j = i + AHEAD
        if j < tokens and often[j - 1] and often[j]:
            key = np.uint64(np.int64(below[j - 1]) * vocabulary + words[j])
            prefetch(base + ((mix(key) & mask) << np.uint64(4)))
        ids[i] = -1
        if place[i] < length - 1:
            continue
        if often[i - 1] and often[i]:
            number = np.int64(below[i - 1]) * vocabulary + words[i]
            slot = mix(np.uint64(number)) & mask
            while table[slot, 1] >= 0 and table[slot, 0] != number:
                slot = (slot + np.uint64(1)) & mask
            found = table[slot, 1]
            if found >= 0:
                counts[found] += 1
                ids[i] = found
                continue
            table[slot, 0], table[slot, 1] = number, n
            held += 1
            if 2 * held > table.shape[0]:
                table = _twice(table)
                mask, base = np.uint64(table.shape[0] - 1), np.uint64(table.ctypes.data)
        if n >= limit:
            return counts, first
        if n >= counts.shape[0]:
            counts, first = grown(counts, n + 1), grown(first, n + 1)
        counts[n], first[n], ids[i] = 1, i, n
        n += 1
    return counts[:n].copy(), first[:n].copy()


@cached
def sorted_order(owner, word, owners, vocabulary):
    """The order that sorts n-grams by (owner, word), and where each owner's begin.

    Two stable counting sorts. Args: owner (n,) int32 below `owners`, word (n,) int32 below `vocabulary`.

    Returns:
        (order (n,) int32, starts (owners + 1,) int64).
    """
    n = word.shape[0]
    starts = np.zeros(vocabulary + 1, np.int64)
    for i in range(n):
        starts[word[i] + 1] += 1
    for v in range(vocabulary):
        starts[v + 1] += starts[v]
    by_word = np.empty(n, np.int32)
    for i in range(n):
        by_word[starts[word[i]]] = i
        starts[word[i]] += 1
    starts = np.zeros(owners + 1, np.int64)
    for i in range(n):
        starts[owner[i] + 1] += 1
    for o in range(owners):
        starts[o + 1] += starts[o]
    at, order = starts[:owners].copy(), np.empty(n, np.int32)
    for j in range(n):
        i = by_word[j]
        order[at[owner[i]]] = i
        at[owner[i]] += 1
    return order, starts


@cached
def first_duplicate(order, owner, word):
    """The later, in file order, of the first two n-grams that are the same; -1 where all differ."""
    found = np.int64(-1)
    for j in range(1, order.shape[0]):
        a, b = order[j - 1], order[j]
        if owner[a] == owner[b] and word[a] == word[b] and (found < 0 or b < found):
            found = np.int64(b)
    return found


@cached
def sums_by_owner(starts, values, out):
    """`out[o]` = the sum of `values` over the n-grams of owner o."""
    for o in range(out.shape[0]):
        total = 0.0
        for j in range(starts[o], starts[o + 1]):
            total += values[j]
        out[o] = total


@cached
def interpolated(starts, counts, discounts, suffix, lower, out, weight):
    """One step of Kneser-Ney: `out[hw] = (a - D(a)) / a(h .) + weight[h] lower[suffix of hw]`, `weight` filled too.

    Args:
        starts: (H + 1,) where each context's n-grams begin. counts: (n,) a. discounts: (4,) D for 0, 1, 2, 3 and more.
        suffix: (n,) index of the shorter n-gram in `lower`.
    """
    for h in range(weight.shape[0]):
        total, taken = 0.0, 0.0
        for j in range(starts[h], starts[h + 1]):
            total += counts[j]
            taken += discounts[min(counts[j], 3)]
        if total == 0.0:
            weight[h] = 1.0
            for j in range(starts[h], starts[h + 1]):
                out[j] = lower[suffix[j]]
            continue
        weight[h] = taken / total
        for j in range(starts[h], starts[h + 1]):
            out[j] = (counts[j] - discounts[min(counts[j], 3)]) / total + weight[h] * lower[suffix[j]]
