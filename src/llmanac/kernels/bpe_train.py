"""Training byte-pair encoding in numba: the same merges as `BpeTrainer` of Hugging Face tokenizers, tie for tie.

The most frequent pair of neighbours is merged; of equally frequent ones the pair with the lower ids. Words stay flat in
one array: a token of n bytes keeps its id in its first and its last place, so both neighbours are one step away and
nothing ever moves. Each pair keeps lists of the places where it arose, so a merge visits only those; lists wait in
buckets by the magnitude of their count, and only the bucket in turn is a heap.

A merge whose bytes are a token already (a special token may equal a mergeable string) takes that token's id; then
`tokenizers` rescans whole words, and so does this.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
from __future__ import annotations

import numpy as np
from numba import njit

from llmanac.kernels.text import ONE, grown, mix

HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
FNV_START, FNV_PRIME = np.uint64(1469598103934665603), np.uint64(1099511628211)
BOUNDARY, INSIDE = -1, -2


# ------------------------------------------------------------------------------------------------ pairs -> numbers
@njit
def _find(keys, values, key):
    """The number of a pair, or -1; and the slot where it is or would go."""
    mask = np.uint64(keys.shape[0] - 1)
    slot = mix(key) & mask
    while values[slot] >= 0 and keys[slot] != key:
        slot = (slot + ONE) & mask
    return values[slot], slot


@njit
def _rehashed(keys, values, needed):
    size = keys.shape[0]
    while size < needed:
        size *= 2
    new_keys, new_values = np.empty(size, np.uint64), np.full(size, -1, np.int32)
    for i in range(keys.shape[0]):
        if values[i] >= 0:
            slot = _find(new_keys, new_values, keys[i])[1]
            new_keys[slot], new_values[slot] = keys[i], values[i]
    return new_keys, new_values


# --------------------------------------------------------------------------------- heap of (count, pair, list), 4-ary
@njit(inline="always")
def _before(count, key, other_count, other_key):
    return count > other_count or (count == other_count and key < other_key)


@njit
def _push(counts, keys, lists, size, count, key, which):
    at = size
    while at > 0:
        parent = (at - 1) >> 2
        if not _before(count, key, counts[parent], keys[parent]):
            break
        counts[at], keys[at], lists[at] = counts[parent], keys[parent], lists[parent]
        at = parent
    counts[at], keys[at], lists[at] = count, key, which


@njit
def _replace_top(counts, keys, lists, size, count, key, which):
    at = 0
    while 4 * at + 1 < size:
        best = 4 * at + 1
        for child in range(best + 1, min(4 * at + 5, size)):
            if _before(counts[child], keys[child], counts[best], keys[best]):
                best = child
        if not _before(counts[best], keys[best], count, key):
            break
        counts[at], keys[at], lists[at] = counts[best], keys[best], lists[best]
        at = best
    counts[at], keys[at], lists[at] = count, key, which


@njit
def _magnitude(count):
    bits = 0
    while count > 1:
        count >>= 1
        bits += 1
    return bits


# ------------------------------------------------------------------------------------------------ bytes -> token ids
@njit
def _token_of(letters, starts, lengths, hashes, ids, left, right):
    """`(token or -1, slot, hash)` of the bytes of `left` followed by those of `right`; `right` < 0 stands for none."""
    value, n_left = FNV_START, lengths[left]
    total = n_left + (lengths[right] if right >= 0 else 0)
    for i in range(total):
        byte = letters[starts[left] + i] if i < n_left else letters[starts[right] + i - n_left]
        value = (value ^ np.uint64(byte)) * FNV_PRIME
    mask = np.uint64(ids.shape[0] - 1)
    slot = mix(value) & mask
    while ids[slot] >= 0:
        token = ids[slot]
        if hashes[slot] == value and lengths[token] == total:
            same = True
            for i in range(total):
                byte = letters[starts[left] + i] if i < n_left else letters[starts[right] + i - n_left]
                if letters[starts[token] + i] != byte:
                    same = False
                    break
            if same:
                return token, slot, value
        slot = (slot + ONE) & mask
    return -1, slot, value


# ------------------------------------------------------------------------------------------------ the first pairs
@njit
def _count_first_pairs(symbols, word_of, counts, byte_of):
    """Number the pairs of bytes that occur: `(number of each place's pair, keys, counts, places of each)`."""
    number_of, pair_at = np.full(65536, -1, np.int32), np.full(symbols.shape[0], -1, np.int32)
    keys, totals, places = np.empty(65536, np.uint64), np.zeros(65536, np.int64), np.zeros(65536, np.int64)
    pairs = 0
    for at in range(symbols.shape[0] - 1):
        left, right = symbols[at], symbols[at + 1]
        if left < 0 or right < 0:
            continue
        dense = np.int64(byte_of[left]) * 256 + byte_of[right]
        if number_of[dense] < 0:
            number_of[dense] = pairs
            keys[pairs] = (np.uint64(left) << HALF) | np.uint64(right)
            pairs += 1
        pair = number_of[dense]
        pair_at[at] = pair
        totals[pair] += counts[word_of[at]]
        places[pair] += 1
    return pair_at, keys[:pairs].copy(), totals[:pairs].copy(), places[:pairs]


@njit
def _rescan(places, symbols, word_of, word_start, lengths, left, right, stamps, stamp):
    """Every place of a pair in the words that the given places lie in."""
    found, n = np.empty(64, np.int32), 0
    for at in places:
        word = word_of[at]
        if stamps[word] == stamp:
            continue
        stamps[word] = stamp
        at = word_start[word]
        while symbols[at] >= 0:
            if symbols[at] == left and symbols[at + lengths[left]] == right:
                if n >= found.shape[0]:
                    found = grown(found, n + 1)
                found[n] = at
                n += 1
            at += lengths[symbols[at]]
    return found[:n]


# ------------------------------------------------------------------------------------------------ one merge
@njit
def _merge_places(
    places, symbols, word_of, word_counts, lengths, left, right, new, change, gained, seen, sides, arisen
):
    """Merge a pair at every place and note what its neighbours lose and gain.

    Side 0 is the token before, side 1 the one after. `change[side, 0, token]` is what its pair with the merged token
    loses, `change[side, 1, token]` what the pair with the new one gains; `gained[side, token]` at how many places;
    `sides[side]` lists the tokens (`seen` marks them); `arisen[side]` holds (token, place) of each pair that arises.
    Returns how many tokens each side has, then how many pairs arise on each.
    """
    n_left = lengths[left]
    length = n_left + lengths[right]
    tokens_0, tokens_1, arisen_0, arisen_1 = 0, 0, 0, 0
    for at in places:
        if symbols[at] != left or symbols[at + n_left] != right:
            continue
        count = word_counts[word_of[at]]
        before, after = symbols[at - 1], symbols[at + length]
        symbols[at + n_left] = INSIDE
        symbols[at], symbols[at + length - 1] = new, new
        if before >= 0:
            if not seen[0, before]:
                seen[0, before], sides[0, tokens_0] = 1, before
                tokens_0 += 1
            change[0, 0, before] += count
            change[0, 1, before] += count
            gained[0, before] += 1
            arisen[0, arisen_0, 0], arisen[0, arisen_0, 1] = before, at - lengths[before]
            arisen_0 += 1
        if after >= 0:
            if not seen[1, after]:
                seen[1, after], sides[1, tokens_1] = 1, after
                tokens_1 += 1
            change[1, 0, after] += count
            if after != new:
                change[1, 1, after] += count
                gained[1, after] += 1
                arisen[1, arisen_1, 0], arisen[1, arisen_1, 1] = after, at
                arisen_1 += 1
            else:  # (new, new) is one pair, whichever of the two was there first
                if not seen[0, new]:
                    seen[0, new], sides[0, tokens_0] = 1, new
                    tokens_0 += 1
                change[0, 1, new] += count
                gained[0, new] += 1
                arisen[0, arisen_0, 0], arisen[0, arisen_0, 1] = new, at
                arisen_0 += 1
    return tokens_0, tokens_1, arisen_0, arisen_1


@njit
def _change_pair(keys, values, pair_keys, pair_counts, pair_lists, pairs, left, right, amount):
    """Add to a pair's count, making the pair where it is new. Returns `(its number, pairs)`."""
    key = (np.uint64(left) << HALF) | np.uint64(right)
    pair, slot = _find(keys, values, key)
    if pair < 0:
        pair = pairs
        keys[slot], values[slot] = key, pair
        pair_keys[pair], pair_counts[pair], pair_lists[pair] = key, 0, 0
        pairs += 1
    pair_counts[pair] += amount
    return pair, pairs


@njit(cache=True)
def train(words, offsets, word_counts, byte_ids, reserved, reserved_offsets, first_free, vocab_size, min_count):
    """Learn merges until the vocabulary is full or no pair is left that occurs `min_count` times (and at least once).

    Args:
        words, offsets, word_counts: bytes of the distinct words, where each starts, (W,) int64 how often it occurs.
        byte_ids: (256,) int32 token of each byte.
        reserved, reserved_offsets: bytes of tokens 0, 1, ... that exist before training; an empty one never matches.
        first_free: the first id that a merge may take.

    Returns:
        `(left, right, merged)` int32 in the order learned, `count` int64 of each, and the places visited in all.
    """
    n_words, room = word_counts.shape[0], vocab_size + 1
    symbols = np.full(words.shape[0] + n_words + 1, BOUNDARY, np.int32)
    word_of = np.full(symbols.shape[0], -1, np.int32)
    word_start, at = np.empty(n_words, np.int32), 1
    for word in range(n_words):
        word_start[word] = at
        for i in range(offsets[word], offsets[word + 1]):
            symbols[at], word_of[at] = byte_ids[words[i]], word
            at += 1
        at += 1
    # Tokens: their bytes, and the way back from bytes to token.
    starts, lengths = np.zeros(room, np.int64), np.zeros(room, np.int32)
    letters, used = np.empty(max(1 << 16, room * 16) + reserved.shape[0], np.uint8), 256
    size = 1024
    while size < 4 * room:
        size *= 2
    hashes, ids, byte_of = np.empty(size, np.uint64), np.full(size, -1, np.int32), np.zeros(room, np.uint8)
    for byte in range(256):
        letters[byte], byte_of[byte_ids[byte]] = byte, byte
        starts[byte_ids[byte]], lengths[byte_ids[byte]] = byte, 1
    for token in range(first_free):
        if token + 1 < reserved_offsets.shape[0] and reserved_offsets[token + 1] > reserved_offsets[token]:
            n = reserved_offsets[token + 1] - reserved_offsets[token]
            letters[used : used + n] = reserved[reserved_offsets[token] : reserved_offsets[token + 1]]
            starts[token], lengths[token] = used, n
            used += n
        if lengths[token] > 0:
            known, slot, value = _token_of(letters, starts, lengths, hashes, ids, token, -1)
            if known < 0:
                hashes[slot], ids[slot] = value, token
    # Pairs, the lists of their places, and the buckets that lists wait in.
    pair_at, pair_keys, pair_counts, places_of = _count_first_pairs(symbols, word_of, word_counts, byte_of)
    pairs = pair_keys.shape[0]
    keys, values = np.empty(1 << 16, np.uint64), np.full(1 << 16, -1, np.int32)
    keys, values = _rehashed(keys, values, 2 * pairs)
    pair_lists = np.ones(pairs, np.int32)
    places, placed = np.empty(3 * symbols.shape[0] + 16, np.int32), 0
    list_pair, list_start = np.empty(2 * pairs + 1024, np.int32), np.empty(2 * pairs + 1024, np.int64)
    list_size, list_next = np.empty(2 * pairs + 1024, np.int32), np.empty(2 * pairs + 1024, np.int32)
    lists, buckets, current = pairs, np.full(64, -1, np.int32), 0
    fill = np.empty(pairs, np.int64)
    for pair in range(pairs):
        slot = _find(keys, values, pair_keys[pair])[1]
        keys[slot], values[slot] = pair_keys[pair], pair
        fill[pair] = placed
        list_pair[pair], list_start[pair], list_size[pair] = pair, placed, places_of[pair]
        placed += places_of[pair]
        bucket = _magnitude(pair_counts[pair])
        list_next[pair], buckets[bucket] = buckets[bucket], pair
        current = max(current, bucket + 1)
    for at in range(symbols.shape[0]):
        if pair_at[at] >= 0:
            places[fill[pair_at[at]]] = at
            fill[pair_at[at]] += 1
    heap_counts, heap_keys, heap_lists = np.empty(4096, np.int64), np.empty(4096, np.uint64), np.empty(4096, np.int32)
    heap = 0
    change, gained = np.zeros((2, 2, room), np.int64), np.zeros((2, room), np.int64)
    seen, sides = np.zeros((2, room), np.uint8), np.empty((2, room), np.int32)
    arisen, stamps = np.empty((2, 1024, 2), np.int32), np.full(n_words, -1, np.int32)
    made, made_counts = np.empty((3, max(16, room)), np.int32), np.empty(max(16, room), np.int64)
    merges, tokens, visited = 0, first_free, 0
    while tokens < vocab_size:
        while heap == 0 and current > 0:  # the next bucket becomes the heap; lists whose count fell move down
            current -= 1
            which = buckets[current]
            buckets[current] = -1
            while which >= 0:
                following, count = list_next[which], pair_counts[list_pair[which]]
                if count > 0:
                    bucket = _magnitude(count)
                    if bucket >= current:
                        if heap >= heap_counts.shape[0]:
                            heap_counts, heap_keys = grown(heap_counts, heap + 1), grown(heap_keys, heap + 1)
                            heap_lists = grown(heap_lists, heap + 1)
                        _push(heap_counts, heap_keys, heap_lists, heap, count, pair_keys[list_pair[which]], which)
                        heap += 1
                    else:
                        list_next[which], buckets[bucket] = buckets[bucket], which
                which = following
        if heap == 0:
            break
        count, key, which = heap_counts[0], heap_keys[0], heap_lists[0]
        pair = list_pair[which]
        stale = pair_counts[pair] != count
        if stale and pair_counts[pair] > 0 and _magnitude(pair_counts[pair]) >= current:
            _replace_top(heap_counts, heap_keys, heap_lists, heap, pair_counts[pair], key, which)
            continue
        heap -= 1
        if heap > 0:
            _replace_top(heap_counts, heap_keys, heap_lists, heap, heap_counts[heap], heap_keys[heap], heap_lists[heap])
        if stale:
            if pair_counts[pair] > 0:
                bucket = _magnitude(pair_counts[pair])
                list_next[which], buckets[bucket] = buckets[bucket], which
            continue
        if count < 1 or count < min_count:
            break
        left, right = np.int32(key >> HALF), np.int32(key & LOW)
        new, slot, value = _token_of(letters, starts, lengths, hashes, ids, left, right)
        if new < 0:
            new = np.int32(tokens)
            n_left, n = lengths[left], lengths[left] + lengths[right]
            if used + n > letters.shape[0]:
                letters = grown(letters, used + n)
            letters[used : used + n_left] = letters[starts[left] : starts[left] + n_left]
            letters[used + n_left : used + n] = letters[starts[right] : starts[right] + lengths[right]]
            starts[new], lengths[new] = used, n
            hashes[slot], ids[slot] = value, new
            used += n
            tokens += 1
        if merges >= made_counts.shape[0]:  # reused ids make more merges than tokens
            larger = np.empty((3, 2 * merges), np.int32)
            larger[:, :merges] = made
            made, made_counts = larger, grown(made_counts, merges + 1)
        made[0, merges], made[1, merges], made[2, merges], made_counts[merges] = left, right, new, count
        where = places[list_start[which] : list_start[which] + list_size[which]]
        if pair_lists[pair] > 1:
            where = _rescan(where, symbols, word_of, word_start, lengths, left, right, stamps, merges)
        merges += 1
        visited += where.shape[0]
        if 2 * where.shape[0] + 8 > arisen.shape[1]:
            arisen = np.empty((2, 4 * where.shape[0] + 8, 2), np.int32)
        n_0, n_1, arisen_0, arisen_1 = _merge_places(
            where, symbols, word_of, word_counts, lengths, left, right, new, change, gained, seen, sides, arisen
        )
        room_needed = pairs + 2 * (n_0 + n_1)
        if room_needed > pair_counts.shape[0]:
            pair_counts, pair_keys = grown(pair_counts, room_needed), grown(pair_keys, room_needed)
            pair_lists = grown(pair_lists, room_needed)
        if 2 * room_needed > keys.shape[0]:
            keys, values = _rehashed(keys, values, 2 * room_needed)
        if lists + n_0 + n_1 > list_pair.shape[0]:
            list_pair, list_start = grown(list_pair, lists + n_0 + n_1), grown(list_start, lists + n_0 + n_1)
            list_size, list_next = grown(list_size, lists + n_0 + n_1), grown(list_next, lists + n_0 + n_1)
        for side in range(2):  # all losses come before any gain, as sums they need no other order
            for i in range(n_1 if side else n_0):
                token = sides[side, i]
                if change[side, 0, token]:
                    a, b = (right, token) if side else (token, left)
                    pairs = _change_pair(
                        keys, values, pair_keys, pair_counts, pair_lists, pairs, a, b, -change[side, 0, token]
                    )[1]
        first_new = lists
        for side in range(2):
            for i in range(n_1 if side else n_0):
                token = sides[side, i]
                if gained[side, token] > 0:
                    a, b = (new, token) if side else (token, new)
                    pair, pairs = _change_pair(
                        keys, values, pair_keys, pair_counts, pair_lists, pairs, a, b, change[side, 1, token]
                    )
                    n = gained[side, token]
                    list_pair[lists], list_start[lists], list_size[lists] = pair, placed, n
                    gained[side, token] = placed  # from here on: where its next place goes
                    placed += n
                    lists += 1
        if placed > places.shape[0]:
            places = grown(places, placed)
        for side in range(2):
            for i in range(arisen_1 if side else arisen_0):
                token = arisen[side, i, 0]
                places[gained[side, token]] = arisen[side, i, 1]
                gained[side, token] += 1
            for i in range(n_1 if side else n_0):
                token = sides[side, i]
                change[side, 0, token], change[side, 1, token], gained[side, token], seen[side, token] = 0, 0, 0, 0
        for which in range(first_new, lists):
            pair = list_pair[which]
            count = pair_counts[pair]
            if count <= 0:
                continue
            pair_lists[pair] += 1
            bucket = _magnitude(count)
            if bucket < current:
                list_next[which], buckets[bucket] = buckets[bucket], which
                continue
            if heap >= heap_counts.shape[0]:
                heap_counts, heap_keys = grown(heap_counts, heap + 1), grown(heap_keys, heap + 1)
                heap_lists = grown(heap_lists, heap + 1)
            _push(heap_counts, heap_keys, heap_lists, heap, count, pair_keys[pair], which)
            heap += 1
    return made[0, :merges], made[1, :merges], made[2, :merges], made_counts[:merges], visited
