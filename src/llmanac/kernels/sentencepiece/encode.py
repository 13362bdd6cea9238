"""Cutting normalised text into the pieces of a SentencePiece vocabulary, in numba: the best path, or merges.

A unigram model takes the path of highest total score (Viterbi). The library adds scores up in 32-bit floats from the
start of the text (and starts again from 0 beyond RESET), so where two paths are nearly equal its choice depends on how
large the sum has grown. Words repeat, though, and no piece spans two bytes that no piece has next to each other:
text is cut there, and each word's path is kept with the largest sum up to which its lead over every other path is more
than rounding can undo. Beyond that sum the word is worked out again, rounding as the library does.

A BPE model merges the pair of neighbours whose joint piece has the highest score, leftmost first.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
from __future__ import annotations

import numpy as np
from numba import njit

from llmanac.kernels.sentencepiece.merge import merge
from llmanac.kernels.sentencepiece.viterbi import ROUNDING, path, viterbi, viterbi_with_lead
from llmanac.kernels.text import ONE, cached, hash_of, load_byte, prefetch, same_bytes, word_key

TEXT_END, BLANK = np.uint8(0xFF), np.uint8(0x20)
CACHED = 64  # bytes; longer words are worked out anew each time
BLOCK = 64  # words looked ahead, so that rows of the cache arrive before they are needed
UNIGRAM, BPE = 0, 1
WORDS, FILLED = 0, 1  # what `counters` holds: words in the cache, places of its arena in use
# A row of the cache: two keys; then bits 0-7 the word's length, 8-15 its pieces, 16-23 its range, 32-63 its first
# piece; then bits 0-31 its second piece, 32-63 where the arena has the rest: its bytes if they are more than the keys
# hold, and its further pieces. The path holds while the sum before the word is below `RANGES[range]`.
RANGE_SHIFT, COUNT_SHIFT, HALF = np.uint64(16), np.uint64(8), np.uint64(32)
OCTET, LOW = np.uint64(0xFF), np.uint64(0xFFFFFFFF)
RANGES = 98_000.0 * 2.0 ** ((np.arange(256) - 255) / 16)  # up to near where 32-bit sums start again from 0
RANGES[0] = -1.0  # never
EVER = 1e300


@njit(forceinline=True)
def word_end(buffer, at, joins):
    """Where the word that starts at a place ends: before the first two bytes that no piece holds together."""
    end = at + 1
    while joins[(np.int64(buffer[end - 1]) << 8) | np.int64(buffer[end])]:
        end += 1
    return end


@njit
def _range_of(limit):
    """The largest r with RANGES[r] <= limit; 0 also for what is no number."""
    low, high = 0, 255
    while low < high:
        middle = (low + high + 1) >> 1
        if limit >= RANGES[middle]:
            low = middle
        else:
            high = middle - 1
    return low


@njit
def _remember(cache, arena, counters, slot, first, other, address, length, reach, ids, count):
    """Put a word's ids into the cache; when either of its parts is full, start it over."""
    words = (length + 3) // 4 if length > 16 else 0
    more = max(count - 2, 0)
    if counters[WORDS] * 2 >= cache.shape[0] or counters[FILLED] + more + words > arena.shape[0]:
        for i in range(cache.shape[0]):
            cache[i, 2] = np.uint64(0)
        counters[WORDS], counters[FILLED] = 0, 0
        slot = hash_of(first, other, np.uint64(length)) & np.uint64(cache.shape[0] - 1)
    row = counters[FILLED]
    cache[slot, 0], cache[slot, 1] = first, other
    entry = np.uint64(length) | (np.uint64(count) << COUNT_SHIFT) | (np.uint64(reach) << RANGE_SHIFT)
    cache[slot, 2] = entry | (np.uint64(ids[0]) << HALF)
    cache[slot, 3] = (np.uint64(ids[1]) if count > 1 else np.uint64(0)) | (np.uint64(row) << HALF)
    for i in range(words):
        packed = np.uint32(0)
        for j in range(min(4, length - 4 * i)):
            packed |= np.uint32(load_byte(address + np.uint64(4 * i + j))) << np.uint32(8 * j)
        arena[row + i] = np.int32(packed)
    for i in range(more):
        arena[row + words + i] = ids[i + 2]
    counters[WORDS] += 1
    counters[FILLED] = row + words + more


@njit
def _emit(buffer, start, count, ids, ends, unknown, byte_ids, escape, was_unknown, out, spans, filled):
    """Write a path's ids: an unknown character as its bytes where there are pieces for bytes, else runs as one id."""
    begin = start
    for i in range(count):
        end = start + ends[i]
        if ids[i] != unknown:
            out[filled] = ids[i]
            if spans.shape[0] > 0:
                spans[filled, 0], spans[filled, 1] = begin, end
            filled += 1
            was_unknown = False
        elif byte_ids.shape[0] > 0:
            for at in range(begin, end):
                wide = escape and buffer[at] == BLANK
                for j in range(3 if wide else 1):
                    byte = np.int64(buffer[at])
                    if wide:
                        byte = np.int64(0xE2) if j == 0 else np.int64(0x96) if j == 1 else np.int64(0x81)
                    out[filled] = byte_ids[byte]
                    if spans.shape[0] > 0:
                        spans[filled, 0], spans[filled, 1] = begin, end
                    filled += 1
            was_unknown = True
        else:
            if not was_unknown:
                out[filled] = unknown
                if spans.shape[0] > 0:
                    spans[filled, 0] = begin
                filled += 1
            if spans.shape[0] > 0:
                spans[filled - 1, 1] = end
            was_unknown = True
        begin = end
    return filled, was_unknown


@njit
def _cut_word(
    buffer, at, stop, total, kind, nodes, scores, unknown, unknown_score, single, kept, pairs, halves, best, came, what,
    ids, ends,
):  # fmt: skip
    """Cut one word, the sum before it being `total`; returns `(ids written, the sum after it)`."""
    if kind == BPE:
        vocabulary, unused = scores.shape[0], np.zeros(1, np.uint64)
        return merge(buffer, at, stop, nodes, kept, pairs, halves, vocabulary, unknown, 0.0, unused, ids, ends), total
    viterbi(buffer, at, stop, total, nodes, scores, unknown, unknown_score, single, best, came, what)
    return path(stop - at, came, what, ids, ends), best[stop - at]


@njit
def _cut_long_word(
    buffer, at, stop, total, kind, nodes, scores, unknown, unknown_score, single, byte_ids, escape, kept, pairs, halves,
    was_unknown, out, spans, filled,
):  # fmt: skip
    """Cut a word and write its ids; returns `(ids in out, whether the last was unknown, the sum after it)`."""
    room = stop - at + 1  # arrays of its own: growing shared ones would slow the loop over short words
    best, came, what = np.empty(room, np.float64), np.empty(room, np.int32), np.empty(room, np.int32)
    ids, ends = np.empty(room, np.int32), np.empty(room, np.int64)
    count, total = _cut_word(
        buffer, at, stop, total, kind, nodes, scores, unknown, unknown_score, single, kept, pairs, halves, best, came,
        what, ids, ends,
    )  # fmt: skip
    filled, was_unknown = _emit(
        buffer, at, count, ids, ends, unknown, byte_ids, escape, was_unknown, out, spans, filled
    )
    return filled, was_unknown, total


@njit
def _learn_word(
    buffer, at, stop, kind, nodes, scores, unknown, unknown_score, single, kept, pairs, halves, cache, arena, counters,
    slot, first, other, best, second, came, what, ids, ends,
):  # fmt: skip
    """Put a word into the cache; one with an unknown character among others is marked to be computed each time."""
    if kind == UNIGRAM:
        unit = ROUNDING[1] if single else ROUNDING[0]
        limit = viterbi_with_lead(
            buffer, at, stop, nodes, scores, unknown, unknown_score, unit, best, second, came, what
        )
        count = path(stop - at, came, what, ids, ends)
    else:
        limit = EVER
        count, _ = _cut_word(
            buffer, at, stop, 0.0, kind, nodes, scores, unknown, unknown_score, single, kept, pairs, halves, best, came,
            what, ids, ends,
        )  # fmt: skip
    for i in range(count):
        if ids[i] == unknown and count > 1:
            limit = -1.0
    address = np.uint64(buffer.ctypes.data) + np.uint64(at)
    _remember(cache, arena, counters, slot, first, other, address, stop - at, _range_of(limit), ids, count)


@cached
def encode(
    buffer, used, kind, joins, nodes, scores, unknown, unknown_score, single, byte_ids, escape, kept, pairs, halves,
    cache, arena, counters, text_ends, placed,
):  # fmt: skip
    """Ids of every text of a packed, normalised buffer, one after the other; those of text i end at `text_ends[i]`.

    Args:
        joins: (65536,) bool by two bytes: whether a word may go on from the first to the second.
        nodes: `walkable` trie of the pieces (and, for BPE, of all their characters).
        scores: (ids,) float64. single: whether sums are rounded to 32-bit floats.
        byte_ids: (256,) int32, or empty: then what is unknown becomes `unknown`, a run of it once.
        kept, pairs, halves: as `unigram_merge.merge` needs them.
        cache, arena, counters: the bounded word cache, which starts over when full.

    Returns:
        `(ids (n,) int32, spans (n, 2) int64 bytes of the buffer that each covers, empty unless placed)`.
    """
    base, table, held = np.uint64(buffer.ctypes.data), np.uint64(cache.ctypes.data), np.uint64(arena.ctypes.data)
    mask = np.uint64(cache.shape[0] - 1)
    # Room for the worst case, an id a byte (three where an unknown space becomes bytes); pages not used stay unmade.
    room = used * (3 if escape and byte_ids.shape[0] > 0 else 1) + 2
    out, spans = np.empty(room, np.int32), np.empty((room if placed else 0, 2), np.int64)
    best, second = np.empty(CACHED + 1, np.float64), np.empty(CACHED + 1, np.float64)
    came, what = np.empty(CACHED + 1, np.int32), np.empty(CACHED + 1, np.int32)
    ids, ends = np.empty(CACHED + 1, np.int32), np.empty(CACHED + 1, np.int64)
    starts, stops, slots = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64), np.empty(BLOCK, np.uint64)
    firsts, others = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
    rounded = np.empty(scores.shape[0], np.float32)
    for i in range(scores.shape[0] if used > scores.shape[0] else 0):
        rounded[i] = np.float32(scores[i])
    quick = single and used > scores.shape[0]  # sums kept as 32-bit floats, whose addition waits less
    filled, texts, at, total, sum_so_far, was_unknown = np.int64(0), 0, np.int64(0), 0.0, np.float32(0), False
    while at < used:
        block = 0
        while block < BLOCK and at < used:
            starts[block] = at
            if buffer[at] == TEXT_END:
                at += 1
                stops[block] = at - 1
            else:
                at = word_end(buffer, at, joins)
                stops[block] = at
                size = np.uint64(at - starts[block])
                firsts[block], others[block] = word_key(base + np.uint64(starts[block]), size)
                slots[block] = hash_of(firsts[block], others[block], size) & mask
                prefetch(table + (slots[block] << np.uint64(5)))
            block += 1
        for word in range(block):
            start, stop = starts[word], stops[word]
            length = stop - start
            if length == 0:
                text_ends[texts] = filled
                texts += 1
                total, sum_so_far, was_unknown = 0.0, np.float32(0), False
                continue
            if quick:
                total = np.float64(sum_so_far)
            if length > CACHED or placed:
                filled, was_unknown, total = _cut_long_word(
                    buffer, start, stop, total, kind, nodes, scores, unknown, unknown_score, single, byte_ids, escape,
                    kept, pairs, halves, was_unknown, out, spans, filled,
                )  # fmt: skip
                sum_so_far = np.float32(total)
                continue
            address, found = base + np.uint64(start), False
            first, other, slot = firsts[word], others[word], slots[word]
            while not found:
                entry = cache[slot, 2]
                if entry == 0:
                    _learn_word(
                        buffer, start, stop, kind, nodes, scores, unknown, unknown_score, single, kept, pairs, halves,
                        cache, arena, counters, slot, first, other, best, second, came, what, ids, ends,
                    )  # fmt: skip
                    slot = hash_of(first, other, np.uint64(length)) & mask  # now it is there
                    continue
                if cache[slot, 0] == first and cache[slot, 1] == other and entry & OCTET == np.uint64(length):
                    tail, words = cache[slot, 3], (length + 3) // 4 if length > 16 else 0
                    row = np.int64(tail >> HALF)
                    if words == 0 or same_bytes(held + np.uint64(4 * row), address, length):
                        reach = np.int64((entry >> RANGE_SHIFT) & OCTET)
                        if abs(total) > RANGES[reach] and (kind == UNIGRAM or reach == 0):
                            break
                        found, piece = True, np.int32(entry >> HALF)
                        out[filled] = piece
                        if piece == unknown:  # the whole word is one unknown character
                            ids[0], ends[0] = unknown, length
                            if byte_ids.shape[0] > 0 and (not escape or buffer[start] != BLANK):
                                for i in range(length):
                                    out[filled + i] = byte_ids[buffer[start + i]]
                                filled, was_unknown = filled + length, True
                            else:
                                filled, was_unknown = _emit(
                                    buffer, start, 1, ids, ends, unknown, byte_ids, escape, was_unknown, out, spans,
                                    filled,
                                )  # fmt: skip
                            total += unknown_score
                            if single:
                                total = np.float64(np.float32(total))
                            sum_so_far = np.float32(total)
                            break
                        was_unknown = False
                        count = np.int64((entry >> COUNT_SHIFT) & OCTET)
                        if count > 1:
                            out[filled + 1] = np.int32(tail & LOW)
                            for i in range(2, count):
                                out[filled + i] = arena[row + words + i - 2]
                        if quick:
                            for i in range(count):
                                sum_so_far += rounded[out[filled + i]]
                        else:
                            for i in range(count):
                                total += scores[out[filled + i]]
                                if single:
                                    total = np.float64(np.float32(total))
                        filled += count
                        break
                slot = (slot + ONE) & mask
            if not found:
                count, total = _cut_word(
                    buffer, start, stop, total, kind, nodes, scores, unknown, unknown_score, single, kept, pairs,
                    halves, best, came, what, ids, ends,
                )  # fmt: skip
                sum_so_far = np.float32(total)
                filled, was_unknown = _emit(
                    buffer, start, count, ids, ends, unknown, byte_ids, escape, was_unknown, out, spans, filled
                )
    return out[:filled], spans[:filled] if placed else spans
