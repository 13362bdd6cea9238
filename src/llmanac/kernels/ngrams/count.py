# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
"""Counting n-grams in numba: every n-gram of a stream of token ids, order by order, and the sort that makes a trie.

The n-gram that ends at a place is named by the (n-1)-gram that ends one place before and the token itself, so a level
needs the level below it only. An n-gram occurs once if either (n-1)-gram inside it does, and needs no look-up then: in
text that is most of the work at the higher orders. `plain_counts` is the form that all of this must equal.
"""

from collections import Counter

import numpy as np

from llmanac.kernels.text import cached, mix, prefetch

AHEAD = 12  # places by which a slot of the table is asked for before it is needed
ONE, FOUR = np.uint64(1), np.uint64(4)
LAST_PLACE = 255  # a place further into its sequence is written as this


def plain_counts(sequences: list[list[int]], length: int) -> Counter[tuple[int, ...]]:
    """How often each n-gram of `length` tokens occurs; none spans two sequences."""
    found: Counter[tuple[int, ...]] = Counter()
    for row in sequences:
        found.update(tuple(row[i : i + length]) for i in range(len(row) - length + 1))
    return found


@cached
def fill_places(lengths, place):
    """The place of every token in its sequence, from the sequences' lengths; far ones are `LAST_PLACE`."""
    at = 0
    for row in range(lengths.shape[0]):
        for i in range(lengths[row]):
            place[at] = min(i, LAST_PLACE)
            at += 1


@cached
def occurs_again(ids, counts, often):
    """`often[i]`: whether what ends at place i (`ids`, -1 for nothing) occurs more than once."""
    for i in range(ids.shape[0]):
        often[i] = ids[i] >= 0 and counts[np.uint64(ids[i])] > 1


@cached
def twice_the_room(table, larger):
    """Move a hash table of (key, id) rows, -1 where free, to a larger one."""
    mask = np.uint64(larger.shape[0] - 1)
    for i in range(table.shape[0]):
        if table[i, 1] >= 0:
            slot = mix(np.uint64(table[i, 0])) & mask
            while larger[slot, 1] >= 0:
                slot = (slot + ONE) & mask
            larger[slot, 0], larger[slot, 1] = table[i, 0], table[i, 1]


@cached
def count_level(words, place, below, often, length, vocabulary, table, counts, first, ids, at, n, held):
    """Number the n-grams of one length in the order in which they first occur, until the text or the room ends.

    Args:
        words: (N,) int32 tokens. place: (N,) uint8 place of each in its sequence.
        below: (N,) int32 id of the (length - 1)-gram that ends at each place, -1 for none. often: see `occurs_again`.
        table: (slots, 2) int64, -1 where free. counts, first: filled by n-gram with how often it occurs and where it
            first ends. ids: (N,) int32, filled with the n-gram that ends at each place, -1 for none.
        at, n, held: where to go on: the place (1 at first), n-grams so far, slots taken.

    Returns:
        (at, n, held). `at` is N when all is done; else `counts` and `first` are full, or the table is half full.
    """
    tokens, room, slots = words.shape[0], counts.shape[0], table.shape[0]
    mask, base = np.uint64(slots - 1), np.uint64(table.ctypes.data)
    shortest, wide = np.uint8(length - 1), np.uint64(vocabulary)
    for i in range(at, tokens):
        j = i + AHEAD
        if j < tokens and often[j - 1] and often[j]:
            key = np.uint64(below[j - 1]) * wide + np.uint64(words[j])
            prefetch(base + ((mix(key) & mask) << FOUR))
        if place[i] < shortest:
            ids[i] = -1
            continue
        if often[i - 1] and often[i]:
            key = np.uint64(below[i - 1]) * wide + np.uint64(words[i])
            number = np.int64(key)
            slot = mix(key) & mask
            while table[slot, 1] >= 0 and table[slot, 0] != number:
                slot = (slot + ONE) & mask
            found = table[slot, 1]
            if found >= 0:
                counts[np.uint64(found)] += 1
                ids[i] = found
                continue
            if n >= room or 2 * held >= slots:
                return i, n, held
            table[slot, 0], table[slot, 1] = number, n
            held += 1
        elif n >= room:
            return i, n, held
        fresh = np.uint64(n)
        counts[fresh], first[fresh], ids[i] = 1, i, n
        n += 1
    return tokens, n, held


@cached
def count_level_directly(words, place, below, length, vocabulary, numbers, counts, first, ids, at, n):
    """The same for few (length - 1)-grams: `numbers` has an entry, -1 at first, for each of them times each token."""
    tokens, room = words.shape[0], counts.shape[0]
    shortest, wide = np.uint8(length - 1), np.uint64(vocabulary)
    for i in range(at, tokens):
        if place[i] < shortest:
            ids[i] = -1
            continue
        slot = np.uint64(below[i - 1]) * wide + np.uint64(words[i])
        found = numbers[slot]
        if found < 0:
            if n >= room:
                return i, n
            found = np.int32(n)
            numbers[slot], counts[np.uint64(n)], first[np.uint64(n)] = found, 0, i
            n += 1
        counts[np.uint64(found)] += 1
        ids[i] = found
    return tokens, n


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
        starts[np.uint64(word[i]) + ONE] += 1
    for v in range(vocabulary):
        starts[v + 1] += starts[v]
    by_word = np.empty(n, np.int32)
    for i in range(n):
        at = starts[np.uint64(word[i])]
        by_word[np.uint64(at)] = i
        starts[np.uint64(word[i])] = at + 1
    starts = np.zeros(owners + 1, np.int64)
    for i in range(n):
        starts[np.uint64(owner[i]) + ONE] += 1
    for o in range(owners):
        starts[o + 1] += starts[o]
    places, order = starts.copy(), np.empty(n, np.int32)
    for j in range(n):
        i = np.uint64(by_word[j])
        at = places[np.uint64(owner[i])]
        order[np.uint64(at)] = by_word[j]
        places[np.uint64(owner[i])] = at + 1
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
