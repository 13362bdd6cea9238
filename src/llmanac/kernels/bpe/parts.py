# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
"""The steps of BPE training: hash tables, the queue of pairs, one merge and what it changes.

Rows of int64 tables and small functions are for the compiler's sake: numba's time grows fast with a function's size.
"""

import numpy as np

from llmanac.kernels.text import grown, grown_rows, inner, mix, prefetch

BOUNDARY, INSIDE = -1, -2
ZERO, ONE = np.int64(0), np.int64(1)  # typed: a plain 0 would be compiled for apart
LOW = (1 << 32) - 1
AHEAD = 12  # places asked for before they are looked at

# Columns of the tables.
KEY, NUMBER = 0, 1  # hash tables: key, number + 1 (0: free)
PAIR_KEY, PAIR_COUNT = 0, 1  # hash table of pairs: 1 + (left << 32 | right) (0: free), occurrences << 2 | lists made
LISTS, COUNT_SHIFT = 3, 2  # the bits of the lists, which say 0, 1, or 2 for more; where the count begins
LIST_PAIR, LIST_START, LIST_SIZE, LIST_NEXT = 0, 1, 2, 3  # lists of places; the next list in the same bucket
HEAP_COUNT, HEAP_KEY, HEAP_LIST = 0, 1, 2
AT, BEFORE, AFTER, TIMES = 0, 1, 2, 3  # one merge: its place, the tokens on either side, how often its word occurs
LOST, WON, PLACES, SEEN = 0, 1, 2, 3  # what a merge does to the pairs of one neighbouring token


@inner(forceinline=True)
def slot_of(table, key):
    """Where a key is in a hash table, or would go."""
    mask = np.int64(table.shape[0] - 1)
    slot = np.int64(mix(np.uint64(key))) & mask
    while table[slot, NUMBER] != 0 and table[slot, KEY] != key:
        slot = (slot + 1) & mask
    return slot


@inner
def rehashed(table, needed):
    size = table.shape[0]
    while size < needed:
        size *= 2
    larger = np.zeros((size, 2), np.int64)
    for i in range(table.shape[0]):
        if table[i, NUMBER] != 0:
            slot = slot_of(larger, table[i, KEY])
            larger[slot, KEY], larger[slot, NUMBER] = table[i, KEY], table[i, NUMBER]
    return larger


@inner(forceinline=True)
def pair_slot(pairs, left, right):
    """Where a pair is in the table of pairs, or would go."""
    key = (np.int64(left) << 32 | np.int64(right)) + 1
    mask = np.int64(pairs.shape[0] - 1)
    slot = np.int64(mix(np.uint64(key))) & mask
    while pairs[slot, PAIR_KEY] != 0 and pairs[slot, PAIR_KEY] != key:
        slot = (slot + 1) & mask
    return slot


@inner(forceinline=True)
def ask_pair(pairs, left, right):
    """Ask for the row of a pair, without waiting for it."""
    slot = np.int64(mix(np.uint64((np.int64(left) << 32 | np.int64(right)) + 1))) & np.int64(pairs.shape[0] - 1)
    prefetch(np.uint64(pairs.ctypes.data) + np.uint64(16 * slot))


@inner(forceinline=True)
def count_of(pairs, key):
    """How often the pair of a list occurs."""
    return pairs[pair_slot(pairs, key >> 32, key & LOW), PAIR_COUNT] >> COUNT_SHIFT


@inner
def rehashed_pairs(pairs, needed):
    size = pairs.shape[0]
    while size < needed:
        size *= 2
    larger = np.zeros((size, 2), np.int64)
    for i in range(pairs.shape[0]):
        key = pairs[i, PAIR_KEY] - 1
        if key >= 0:
            slot = pair_slot(larger, key >> 32, key & LOW)
            larger[slot, PAIR_KEY], larger[slot, PAIR_COUNT] = key + 1, pairs[i, PAIR_COUNT]
    return larger


# ------------------------------------------------------------------------------------------------ the queue of lists
@inner
def push(heap, size, count, key, which):
    """Add to a 4-ary heap whose top has the highest count and, among equals, the lowest key."""
    at = size
    while at > 0:
        parent = (at - 1) >> 2
        if count < heap[parent, HEAP_COUNT] or (count == heap[parent, HEAP_COUNT] and key >= heap[parent, HEAP_KEY]):
            break
        for column in range(3):
            heap[at, column] = heap[parent, column]
        at = parent
    heap[at, HEAP_COUNT], heap[at, HEAP_KEY], heap[at, HEAP_LIST] = count, key, which


@inner
def replace_top(heap, size, count, key, which):
    at = 0
    while 4 * at + 1 < size:
        best = 4 * at + 1
        for child in range(best + 1, min(4 * at + 5, size)):
            ahead = heap[child, HEAP_COUNT] - heap[best, HEAP_COUNT]
            if ahead > 0 or (ahead == 0 and heap[child, HEAP_KEY] < heap[best, HEAP_KEY]):
                best = child
        ahead = heap[best, HEAP_COUNT] - count
        if ahead < 0 or (ahead == 0 and heap[best, HEAP_KEY] >= key):
            break
        for column in range(3):
            heap[at, column] = heap[best, column]
        at = best
    heap[at, HEAP_COUNT], heap[at, HEAP_KEY], heap[at, HEAP_LIST] = count, key, which


@inner(forceinline=True)
def magnitude(count):
    bits = 0
    while count > 1:
        count >>= 1
        bits += 1
    return bits


@inner(forceinline=True)
def file_list(which, count, current, lists, buckets, heap, size):
    """Put a list where its pair's count belongs: into the heap, a lower bucket, or nowhere. Returns the heap's size.

    The heap must have room for it.
    """
    if count > 0:
        bucket = magnitude(count)
        if bucket < current:
            lists[which, LIST_NEXT], buckets[bucket] = buckets[bucket], which
        else:
            push(heap, size, count, lists[which, LIST_PAIR], which)
            size += 1
    return size


@inner
def next_bucket(current, pairs, lists, buckets, heap):
    """Fill the empty heap from the highest bucket that still has a list. Returns `(current, heap, size)`."""
    size = ZERO
    while size == 0 and current > 0:
        current -= 1
        n, which = 0, buckets[current]
        while which >= 0:
            n, which = n + 1, lists[which, LIST_NEXT]
        if n > heap.shape[0]:
            heap = grown_rows(heap, n)
        size = _empty_bucket(current, pairs, lists, buckets, heap)
    return current, heap, size


@inner
def _empty_bucket(current, pairs, lists, buckets, heap):
    which, size = buckets[current], ZERO
    buckets[current] = -1
    while which >= 0:
        following = lists[which, LIST_NEXT]
        size = file_list(which, count_of(pairs, lists[which, LIST_PAIR]), current, lists, buckets, heap, size)
        which = following
    return size


@inner
def _settle(current, pairs, lists, buckets, heap, size):
    """Bring the list of the most frequent pair to the top of the heap. Returns `(its count, the heap's size)`."""
    while size > 0:
        which = heap[0, HEAP_LIST]
        key = lists[which, LIST_PAIR]
        count = count_of(pairs, key)
        if count == heap[0, HEAP_COUNT]:
            return count, size
        if count > 0 and magnitude(count) >= current:  # it has changed since it was filed
            replace_top(heap, size, count, key, which)
            continue
        size -= 1
        replace_top(heap, size, heap[size, HEAP_COUNT], heap[size, HEAP_KEY], heap[size, HEAP_LIST])
        size = file_list(which, count, current, lists, buckets, heap, size)
    return ZERO, size


@inner
def take_best(current, pairs, lists, buckets, heap, size):
    """Take the list of the most frequent pair. Returns `(list or -1, its count, current, heap, size)`."""
    while True:
        count, size = _settle(current, pairs, lists, buckets, heap, size)
        if size > 0:
            which = heap[0, HEAP_LIST]
            size -= 1
            replace_top(heap, size, heap[size, HEAP_COUNT], heap[size, HEAP_KEY], heap[size, HEAP_LIST])
            return which, count, current, heap, size
        current, heap, size = next_bucket(current, pairs, lists, buckets, heap)
        if size == 0:
            return -1, ZERO, current, heap, size


# ------------------------------------------------------------------------------------------------ one merge
@inner
def rescan(places, start, size, symbols, word_of, word_start, lengths, left, right, stamps, stamp):
    """Every place of a pair in the words that hold the given places, and how many."""
    found, n = np.empty(64, np.int32), 0
    for i in range(start, start + size):
        word = word_of[places[i]]
        if stamps[word] == stamp:
            continue
        stamps[word] = stamp
        at = np.int64(word_start[word])
        while symbols[at] >= 0:
            if symbols[at] == left and symbols[at + lengths[left]] == right:
                if n >= found.shape[0]:
                    found = grown(found, n + 1)
                found[n] = at
                n += 1
            at += lengths[symbols[at]]
    return found, n


@inner
def merge_places(places, start, size, symbols, word_of, word_counts, lengths, left, right, new, done):
    """Merge a pair at every place. Rows of `done`: the place, the token before it and the one after at that moment, and
    how often the word occurs."""
    n_left, n = lengths[left], ZERO
    length = n_left + lengths[right]
    letters, words = np.uint64(symbols.ctypes.data), np.uint64(word_of.ctypes.data)
    stop = start + size
    for i in range(start, stop):
        ahead = np.uint64(4 * places[min(i + AHEAD, stop - 1)])  # (places are far apart)
        prefetch(letters + ahead)
        prefetch(words + ahead)
        at = np.int64(places[i])
        if symbols[at] == left and symbols[at + n_left] == right:  # neither was merged with another since
            done[n, AT], done[n, BEFORE], done[n, AFTER] = at, symbols[at - 1], symbols[at + length]
            done[n, TIMES] = word_counts[word_of[at]]
            n += 1
            symbols[at + n_left] = INSIDE
            symbols[at], symbols[at + length - 1] = new, new
    return n


@inner
def note_before(done, n, lengths, new, side, touched, arisen):
    """Note what the pairs with the token before each merge lose and win. Returns how many tokens and pairs."""
    tokens, pairs = ZERO, ZERO
    for i in range(n):
        at, token, count = done[i, AT], done[i, BEFORE], done[i, TIMES]
        if token >= 0:
            if side[token, SEEN] == 0:
                side[token, SEEN], touched[tokens] = 1, token
                tokens += 1
            side[token, LOST] += count
            side[token, WON] += count
            side[token, PLACES] += 1
            arisen[pairs, 0], arisen[pairs, 1] = token, at - lengths[token]
            pairs += 1
        if done[i, AFTER] == new:  # (new, new) is one pair, whichever of the two was there first
            if side[new, SEEN] == 0:
                side[new, SEEN], touched[tokens] = 1, new
                tokens += 1
            side[new, WON] += count
            side[new, PLACES] += 1
            arisen[pairs, 0], arisen[pairs, 1] = new, at
            pairs += 1
    return tokens, pairs


@inner
def note_after(done, n, new, side, touched, arisen):
    """Note what the pairs with the token after each merge lose and win. Returns how many tokens and pairs."""
    tokens, pairs = ZERO, ZERO
    for i in range(n):
        at, token, count = done[i, AT], done[i, AFTER], done[i, TIMES]
        if token < 0:
            continue
        if side[token, SEEN] == 0:
            side[token, SEEN], touched[tokens] = 1, token
            tokens += 1
        side[token, LOST] += count
        if token != new:
            side[token, WON] += count
            side[token, PLACES] += 1
            arisen[pairs, 0], arisen[pairs, 1] = token, at
            pairs += 1
    return tokens, pairs


@inner(forceinline=True)
def _change(pairs, slot, left, right, amount):
    """Add to the count in a pair's slot. Returns whether the pair is new."""
    if pairs[slot, PAIR_KEY] == 0:
        pairs[slot, PAIR_KEY], pairs[slot, PAIR_COUNT] = (left << 32 | right) + 1, amount << COUNT_SHIFT
        return ONE
    pairs[slot, PAIR_COUNT] += amount << COUNT_SHIFT
    return ZERO


@inner
def ask(touched, n, is_before, other, new, pairs):
    """Ask for the rows of the pairs that `lose` and `win` will change."""
    for i in range(n):
        token = touched[i]
        if is_before:
            ask_pair(pairs, token, other)
            ask_pair(pairs, token, new)
        else:
            ask_pair(pairs, other, token)
            ask_pair(pairs, new, token)


@inner
def lose(side, touched, n, is_before, other, pairs, n_pairs):
    """Take from the pairs with the merged token what they lost. Returns the pairs in all."""
    for i in range(n):
        token = touched[i]
        if side[token, LOST] != 0:
            left, right = (token, other) if is_before else (other, token)
            n_pairs += _change(pairs, pair_slot(pairs, left, right), left, right, -side[token, LOST])
    return n_pairs


@inner
def win(side, touched, n, is_before, new, pairs, n_pairs, lists, n_lists, placed, current, buckets, heap, size):
    """Give the pairs with the new token their counts and a list each. Returns `(pairs, lists, places)` in all and the
    size of the heap."""
    for i in range(n):
        token = touched[i]
        if side[token, PLACES] > 0:
            left, right = (token, new) if is_before else (new, token)
            slot = pair_slot(pairs, left, right)
            n_pairs += _change(pairs, slot, left, right, side[token, WON])
            lists[n_lists, LIST_PAIR], lists[n_lists, LIST_START] = left << 32 | right, placed
            lists[n_lists, LIST_SIZE] = side[token, PLACES]
            side[token, PLACES] = placed  # from here on: where its next place goes
            placed += lists[n_lists, LIST_SIZE]
            count = pairs[slot, PAIR_COUNT] >> COUNT_SHIFT
            if count > 0 and pairs[slot, PAIR_COUNT] & LISTS < 2:
                pairs[slot, PAIR_COUNT] += 1
            size = file_list(n_lists, count, current, lists, buckets, heap, size)
            n_lists += 1
    return n_pairs, n_lists, placed, size


@inner
def place_lists(side, touched, n, arisen, n_arisen, places):
    """Write the new lists' places and clear the side."""
    for i in range(n_arisen):
        token = arisen[i, 0]
        places[side[token, PLACES]] = arisen[i, 1]
        side[token, PLACES] += 1
    for i in range(n):
        for column in range(4):
            side[touched[i], column] = 0
