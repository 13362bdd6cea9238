# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
"""The steps of BPE training: hash tables, the queue of pairs, tokens by their bytes, one merge and what it changes.

Rows of int64 tables and small functions are for the compiler's sake: numba's time grows fast with a function's size.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from llmanac.kernels.text import grown, grown_rows, mix

BOUNDARY, INSIDE = -1, -2
ZERO, ONE = np.int64(0), np.int64(1)  # typed: a plain 0 would be compiled for apart
FNV_START, FNV_PRIME = np.uint64(1469598103934665603), np.uint64(1099511628211)
LOW = (1 << 32) - 1

# Columns of the tables.
KEY, NUMBER = 0, 1  # hash tables: key, number + 1 (0: free)
PAIR_KEY, PAIR_COUNT, PAIR_LISTS = 0, 1, 2  # pairs: left << 32 | right, occurrences, lists ever made
LIST_PAIR, LIST_START, LIST_SIZE, LIST_NEXT = 0, 1, 2, 3  # lists of places; the next list in the same bucket
HEAP_COUNT, HEAP_KEY, HEAP_LIST = 0, 1, 2
AT, BEFORE, AFTER = 0, 1, 2  # one merge: its place and the tokens on either side
LOST, WON, PLACES, SEEN = 0, 1, 2, 3  # what a merge does to the pairs of one neighbouring token


@njit(forceinline=True)
def slot_of(table, key):
    """Where a key is in a hash table, or would go."""
    mask = np.int64(table.shape[0] - 1)
    slot = np.int64(mix(np.uint64(key))) & mask
    while table[slot, NUMBER] != 0 and table[slot, KEY] != key:
        slot = (slot + 1) & mask
    return slot


@njit
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


# ------------------------------------------------------------------------------------------------ the queue of lists
@njit
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


@njit
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


@njit(forceinline=True)
def magnitude(count):
    bits = 0
    while count > 1:
        count >>= 1
        bits += 1
    return bits


@njit(forceinline=True)
def file_list(which, current, pairs, lists, buckets, heap, size):
    """Put a list where its pair's count belongs: into the heap, a lower bucket, or nowhere. Returns `(heap, size)`."""
    pair = lists[which, LIST_PAIR]
    count = pairs[pair, PAIR_COUNT]
    if count > 0:
        bucket = magnitude(count)
        if bucket < current:
            lists[which, LIST_NEXT], buckets[bucket] = buckets[bucket], which
        else:
            if size >= heap.shape[0]:
                heap = grown_rows(heap, size + 1)
            push(heap, size, count, pairs[pair, PAIR_KEY], which)
            size += 1
    return heap, size


@njit
def next_bucket(current, pairs, lists, buckets, heap):
    """Fill the empty heap from the highest bucket that still has a list. Returns `(current, heap, size)`."""
    size = ZERO
    while size == 0 and current > 0:
        current -= 1
        which = buckets[current]
        buckets[current] = -1
        while which >= 0:
            following = lists[which, LIST_NEXT]
            heap, size = file_list(which, current, pairs, lists, buckets, heap, size)
            which = following
    return current, heap, size


@njit
def take_best(current, pairs, lists, buckets, heap, size):
    """Take the list of the most frequent pair. Returns `(list or -1, current, heap, size)`."""
    while True:
        if size == 0:
            current, heap, size = next_bucket(current, pairs, lists, buckets, heap)
            if size == 0:
                return -1, current, heap, size
        which = heap[0, HEAP_LIST]
        pair = lists[which, LIST_PAIR]
        count = pairs[pair, PAIR_COUNT]
        if count == heap[0, HEAP_COUNT]:
            size -= 1
            replace_top(heap, size, heap[size, HEAP_COUNT], heap[size, HEAP_KEY], heap[size, HEAP_LIST])
            return which, current, heap, size
        if count > 0 and magnitude(count) >= current:  # it has changed since it was filed
            replace_top(heap, size, count, pairs[pair, PAIR_KEY], which)
            continue
        size -= 1
        replace_top(heap, size, heap[size, HEAP_COUNT], heap[size, HEAP_KEY], heap[size, HEAP_LIST])
        heap, size = file_list(which, current, pairs, lists, buckets, heap, size)


# ------------------------------------------------------------------------------------------------ bytes -> token ids
@njit(forceinline=True)
def byte_of(letters, starts, lengths, left, right, i):
    """Byte i of `left` followed by `right`."""
    beyond = i - lengths[left]
    return letters[starts[left] + i] if beyond < 0 else letters[starts[right] + beyond]


@njit
def token_slot(letters, starts, lengths, index, left, right, total):
    """`(slot, hash)` of the first `total` bytes of two tokens in the index of tokens."""
    value = FNV_START
    for i in range(total):
        value = (value ^ np.uint64(byte_of(letters, starts, lengths, left, right, i))) * FNV_PRIME
    key, mask = np.int64(value >> np.uint64(1)), np.int64(index.shape[0] - 1)
    slot = np.int64(mix(value)) & mask
    while index[slot, NUMBER] != 0:
        token = index[slot, NUMBER] - 1
        if index[slot, KEY] == key and lengths[token] == total:
            same = ZERO
            while same < total:
                if letters[starts[token] + same] != byte_of(letters, starts, lengths, left, right, same):
                    break
                same += 1
            if same == total:
                break
        slot = (slot + 1) & mask
    return slot, key


@njit
def token_of(letters, used, starts, lengths, index, left, right, free):
    """The token of two others' bytes together, made with the id `free` if it is new. Returns `(token, letters)`."""
    total = np.int64(lengths[left] + lengths[right])
    slot, key = token_slot(letters, starts, lengths, index, left, right, total)
    if index[slot, NUMBER] != 0:
        return index[slot, NUMBER] - 1, letters
    if used + total > letters.shape[0]:
        letters = grown(letters, used + total)
    for i in range(total):
        letters[used + i] = byte_of(letters, starts, lengths, left, right, i)
    starts[free], lengths[free] = used, total
    index[slot, KEY], index[slot, NUMBER] = key, free + 1
    return free, letters


# ------------------------------------------------------------------------------------------------ one merge
@njit
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


@njit
def merge_places(places, start, size, symbols, lengths, left, right, new, done):
    """Merge a pair at every place. Rows of `done`: the place, the token before it and the one after at that moment."""
    n_left, n = lengths[left], ZERO
    length = n_left + lengths[right]
    for i in range(start, start + size):
        at = np.int64(places[i])
        if symbols[at] == left and symbols[at + n_left] == right:  # neither was merged with another since
            done[n, AT], done[n, BEFORE], done[n, AFTER] = at, symbols[at - 1], symbols[at + length]
            n += 1
            symbols[at + n_left] = INSIDE
            symbols[at], symbols[at + length - 1] = new, new
    return n


@njit
def note_before(done, n, word_of, word_counts, lengths, new, side, touched, arisen):
    """Note what the pairs with the token before each merge lose and win. Returns how many tokens and pairs."""
    tokens, pairs = ZERO, ZERO
    for i in range(n):
        at, token = done[i, AT], done[i, BEFORE]
        count = word_counts[word_of[at]]
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


@njit
def note_after(done, n, word_of, word_counts, new, side, touched, arisen):
    """Note what the pairs with the token after each merge lose and win. Returns how many tokens and pairs."""
    tokens, pairs = ZERO, ZERO
    for i in range(n):
        at, token = done[i, AT], done[i, AFTER]
        if token < 0:
            continue
        count = word_counts[word_of[at]]
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


@njit(forceinline=True)
def change_pair(index, pairs, n_pairs, left, right, amount):
    """Add to a pair's count, making the pair where it is new. Returns `(its number, pairs in all)`."""
    key = (left << 32) | right
    slot = slot_of(index, key)
    if index[slot, NUMBER] == 0:
        index[slot, KEY], index[slot, NUMBER] = key, n_pairs + 1
        pairs[n_pairs, PAIR_KEY], pairs[n_pairs, PAIR_COUNT], pairs[n_pairs, PAIR_LISTS] = key, 0, 0
        n_pairs += 1
    pair = index[slot, NUMBER] - 1
    pairs[pair, PAIR_COUNT] += amount
    return pair, n_pairs


@njit
def lose(side, touched, n, is_before, other, index, pairs, n_pairs):
    """Take from the pairs with the merged token what they lost. Returns the pairs in all."""
    for i in range(n):
        token = touched[i]
        if side[token, LOST] != 0:
            left, right = (token, other) if is_before else (other, token)
            n_pairs = change_pair(index, pairs, n_pairs, left, right, -side[token, LOST])[1]
    return n_pairs


@njit
def win(side, touched, n, is_before, new, index, pairs, n_pairs, lists, n_lists, placed):
    """Give the pairs with the new token their counts and a list each. Returns `(pairs, lists, places)` in all."""
    for i in range(n):
        token = touched[i]
        if side[token, PLACES] > 0:
            left, right = (token, new) if is_before else (new, token)
            pair, n_pairs = change_pair(index, pairs, n_pairs, left, right, side[token, WON])
            lists[n_lists, LIST_PAIR], lists[n_lists, LIST_START] = pair, placed
            lists[n_lists, LIST_SIZE] = side[token, PLACES]
            side[token, PLACES] = placed  # from here on: where its next place goes
            placed += lists[n_lists, LIST_SIZE]
            n_lists += 1
    return n_pairs, n_lists, placed


@njit
def place_lists(side, touched, n, arisen, n_arisen, places):
    """Write the new lists' places and clear the side."""
    for i in range(n_arisen):
        token = arisen[i, 0]
        places[side[token, PLACES]] = arisen[i, 1]
        side[token, PLACES] += 1
    for i in range(n):
        for column in range(4):
            side[touched[i], column] = 0
