"""Training BPE as SentencePiece does, in numba: over characters, within stretches that a piece may not leave.

The most frequent pair of neighbours is merged; of equally frequent ones the one with fewer characters, then the one
whose text sorts first. A pair whose text is a piece already (made of other halves) is passed over for good.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.bpe.parts import KEY, NUMBER, rehashed, slot_of
from llmanac.kernels.text import (
    ONE,
    cached,
    character_length,
    code_point,
    grown,
    grown_rows,
    hash_of,
    inner,
    same_bytes,
    slots_for,
    word_key,
)

LEFT, RIGHT, COUNT, HEAD, CHARACTERS, LISTED = 0, 1, 2, 3, 4, 5  # columns of a pair; HEAD: its last place
NONE = -1


@inner(forceinline=True)
def _place(byte):
    """A byte's place in the order of texts: that of a space is its file form's, U+2581."""
    return 2 * byte if byte != 0x20 else 2 * 0xE2 + 1


@inner
def _byte(pair, at, pairs, letters, starts, lengths):
    """A byte of a pair's text, or -1 behind its end."""
    left, right = pairs[pair, LEFT], pairs[pair, RIGHT]
    if at < lengths[left]:
        return np.int64(letters[starts[left] + at])
    at -= lengths[left]
    if at < lengths[right]:
        return np.int64(letters[starts[right] + at])
    return np.int64(-1)


@inner
def _goes_before(one, count, other, other_count, pairs, letters, starts, lengths):
    if count != other_count:
        return count > other_count
    if pairs[one, CHARACTERS] != pairs[other, CHARACTERS]:
        return pairs[one, CHARACTERS] < pairs[other, CHARACTERS]
    at = 0
    while True:
        a, b = _byte(one, at, pairs, letters, starts, lengths), _byte(other, at, pairs, letters, starts, lengths)
        if a != b or a < 0:
            return _place(a) < _place(b)
        at += 1


@inner
def _push(heap, size, pair, count, pairs, letters, starts, lengths):
    if size == heap.shape[0]:
        heap = grown_rows(heap, 2 * size)
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if not _goes_before(pair, count, heap[parent, 1], heap[parent, 0], pairs, letters, starts, lengths):
            break
        heap[at, 0], heap[at, 1] = heap[parent, 0], heap[parent, 1]
        at = parent
    heap[at, 0], heap[at, 1] = count, pair
    return heap


@inner
def _pop(heap, size, pairs, letters, starts, lengths):
    count, pair = heap[size - 1, 0], heap[size - 1, 1]
    at, last = 0, size - 1
    while 2 * at + 1 < last:
        child = 2 * at + 1
        if child + 1 < last and _goes_before(
            heap[child + 1, 1], heap[child + 1, 0], heap[child, 1], heap[child, 0], pairs, letters, starts, lengths
        ):
            child += 1
        if not _goes_before(heap[child, 1], heap[child, 0], pair, count, pairs, letters, starts, lengths):
            break
        heap[at, 0], heap[at, 1] = heap[child, 0], heap[child, 1]
        at = child
    heap[at, 0], heap[at, 1] = count, pair


@inner
def _text_slot(known, letters, start, length, starts, lengths):
    base, mask = np.uint64(letters.ctypes.data), np.uint64(known.shape[0] - 1)
    address = base + np.uint64(start)
    first, second = word_key(address, np.uint64(length))
    slot = hash_of(first, second, np.uint64(length)) & mask
    while known[slot] > 0:
        other = known[slot] - 1
        if lengths[other] == length and same_bytes(base + np.uint64(starts[other]), address, length):
            break
        slot = (slot + ONE) & mask
    return np.int64(slot)


@cached
def learn(words, offsets, counts, symbol_of, letters, starts, lengths, widths, alphabet, most, longest):
    """Learn up to `most` merges: (n, 2) int64 left and right symbol of each; the merge i makes the symbol
    `alphabet + i`.

    Args:
        words, offsets, counts: the stretches. symbol_of: (0x110000,) int32 by code point.
        letters, starts, lengths: bytes of the symbols' texts, with room for those to come.
        widths: (alphabet,) int64 characters of each symbol that there is at first.
        longest: characters that a piece may have.
    """
    total = offsets[counts.shape[0]] + counts.shape[0] + 1
    symbols, word_of = np.full(total, NONE, np.int32), np.zeros(total, np.int32)
    after, before = np.zeros(total, np.int32), np.zeros(total, np.int32)
    characters = np.ones(alphabet + most, np.int64)
    n, used = 1, np.int64(0)
    for symbol in range(alphabet):
        characters[symbol] = widths[symbol]
        used = max(used, starts[symbol] + lengths[symbol])
    for word in range(counts.shape[0]):
        at = offsets[word]
        while at < offsets[word + 1]:
            symbols[n], word_of[n] = symbol_of[code_point(words, at)], word
            after[n], before[n] = n + 1, n - 1
            n += 1
            at += character_length(words[at])
        n += 1
    known = np.zeros(slots_for(2 * (alphabet + most)), np.int64)
    for symbol in range(alphabet):
        known[_text_slot(known, letters, starts[symbol], lengths[symbol], starts, lengths)] = symbol + 1
    index, pairs, n_pairs = np.zeros((1 << 16, 2), np.int64), np.empty((1 << 15, 6), np.int64), np.int64(0)
    places, linked, n_places = np.empty(2 * n + 16, np.int32), np.empty(2 * n + 16, np.int64), np.int64(0)
    changed = np.empty(4 * n + 16, np.int64)
    n_changed = np.int64(0)
    for at in range(1, n - 1):
        if symbols[at] != NONE and symbols[at + 1] != NONE:
            index, pairs, n_pairs, places, linked, n_places, n_changed = _gain(
                at, at + 1, symbols, counts[word_of[at]], characters, longest, index, pairs, n_pairs, places, linked,
                n_places, changed, n_changed, 0,
            )  # fmt: skip
    heap, size = np.empty((1 << 15, 2), np.int64), np.int64(0)
    for pair in range(n_pairs):
        heap = _push(heap, size, pair, pairs[pair, COUNT], pairs, letters, starts, lengths)
        size += 1
    made, merges = np.empty((most, 2), np.int64), 0
    while merges < most and size > 0:
        count, pair = heap[0, 0], heap[0, 1]
        _pop(heap, size, pairs, letters, starts, lengths)
        size -= 1
        if count != pairs[pair, COUNT]:
            if 0 < pairs[pair, COUNT] < count:
                heap = _push(heap, size, pair, pairs[pair, COUNT], pairs, letters, starts, lengths)
                size += 1
            continue
        left, right, new = pairs[pair, LEFT], pairs[pair, RIGHT], alphabet + merges
        length = lengths[left] + lengths[right]
        for i in range(length):
            letters[used + i] = np.uint8(_byte(pair, i, pairs, letters, starts, lengths))
        slot = _text_slot(known, letters, used, length, starts, lengths)
        pairs[pair, COUNT] = -1  # merged, or passed over: never again
        if known[slot] > 0:
            continue
        starts[new], lengths[new], known[slot] = used, length, new + 1
        characters[new] = characters[left] + characters[right]
        used += length
        made[merges, 0], made[merges, 1] = left, right
        merges += 1
        n_changed = np.int64(0)
        # Places are linked last first; they are merged in the text's order, as "aaa" can be only one way.
        todo, one = np.int64(0), pairs[pair, HEAD]
        while one >= 0:
            todo += 1
            one = linked[one]
        order, one = np.empty(todo, np.int32), pairs[pair, HEAD]
        for i in range(todo):
            order[i] = places[one]
            one = linked[one]
        order.sort()
        for i in range(todo):
            at = np.int64(order[i])
            if symbols[at] != left or symbols[after[at]] != right or (i > 0 and order[i - 1] == at):
                continue
            other = np.int64(after[at])
            previous, following, weight = np.int64(before[at]), np.int64(after[other]), counts[word_of[at]]
            n_changed = _lose(previous, at, symbols, weight, index, pairs, changed, n_changed)
            n_changed = _lose(other, following, symbols, weight, index, pairs, changed, n_changed)
            symbols[at], symbols[other] = new, -2
            after[at] = following
            before[following] = at
            if n_changed + 8 > changed.shape[0]:
                changed = grown(changed, n_changed + 8)
            for side in range(2):
                one, two = (previous, at) if side == 0 else (at, following)
                if symbols[one] >= 0 and symbols[two] >= 0:
                    index, pairs, n_pairs, places, linked, n_places, n_changed = _gain(
                        one, two, symbols, weight, characters, longest, index, pairs, n_pairs, places, linked,
                        n_places, changed, n_changed, merges,
                    )  # fmt: skip
        for i in range(n_changed):
            pair = changed[i]
            if pairs[pair, COUNT] > 0:
                heap = _push(heap, size, pair, pairs[pair, COUNT], pairs, letters, starts, lengths)
                size += 1
    return made[:merges]


@inner
def _gain(
    one, two, symbols, weight, characters, longest, index, pairs, n_pairs, places, linked, n_places, changed, n_changed,
    merges,
):  # fmt: skip
    """Count two neighbours that arose."""
    left, right = np.int64(symbols[one]), np.int64(symbols[two])
    if characters[left] + characters[right] > longest:
        return index, pairs, n_pairs, places, linked, n_places, n_changed
    key = left << 32 | right
    slot = slot_of(index, key)
    if index[slot, NUMBER] == 0:
        if n_pairs == pairs.shape[0]:
            pairs = grown_rows(pairs, 2 * n_pairs)
        pairs[n_pairs, LEFT], pairs[n_pairs, RIGHT], pairs[n_pairs, COUNT], pairs[n_pairs, HEAD] = left, right, 0, NONE
        pairs[n_pairs, CHARACTERS], pairs[n_pairs, LISTED] = characters[left] + characters[right], NONE
        n_pairs += 1
        index[slot, KEY], index[slot, NUMBER] = key, n_pairs
        if 2 * n_pairs > index.shape[0]:
            index = rehashed(index, 4 * n_pairs)
            slot = slot_of(index, key)
    pair = index[slot, NUMBER] - 1
    if pairs[pair, COUNT] >= 0:
        if n_places == places.shape[0]:
            places, linked = grown(places, 2 * n_places), grown(linked, 2 * n_places)
        places[n_places], linked[n_places] = one, pairs[pair, HEAD]
        pairs[pair, HEAD] = n_places
        n_places += 1
        pairs[pair, COUNT] += weight
        if pairs[pair, LISTED] != merges:  # once a merge
            pairs[pair, LISTED] = merges
            changed[n_changed] = pair
            n_changed += 1
    return index, pairs, n_pairs, places, linked, n_places, n_changed


@inner
def _lose(one, two, symbols, weight, index, pairs, changed, n_changed):
    """Uncount two neighbours that are about to part."""
    if symbols[one] < 0 or symbols[two] < 0:
        return n_changed
    slot = slot_of(index, np.int64(symbols[one]) << 32 | np.int64(symbols[two]))
    if index[slot, NUMBER] > 0:
        pair = index[slot, NUMBER] - 1
        if pairs[pair, COUNT] > 0:
            pairs[pair, COUNT] -= weight
    return n_changed
