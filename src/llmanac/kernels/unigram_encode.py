"""Cutting normalised text into the pieces of a SentencePiece vocabulary, in numba: the best path, or merges.

A unigram model takes the path of highest total score (Viterbi). The library adds scores up in 32-bit floats from the
start of the text (and starts again from 0 beyond RESET), so where two paths are nearly equal its choice depends on how
large the sum has grown. Words repeat,
though, and no piece reaches across two bytes that stand together in no piece: text is cut there, and each word's path
is kept with the largest sum up to which its lead over every other path is more than rounding can undo. Beyond that sum
the word is worked out again, rounding as the library does.

A BPE model merges the pair of neighbours whose joint piece has the highest score, leftmost first.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
from __future__ import annotations

import numpy as np
from numba import njit

from llmanac.kernels.bpe_encode import HALF, LOW
from llmanac.kernels.text import ALL_ONES, ONE, cached, hash_of, load_byte, same_bytes, word_key
from llmanac.kernels.unigram_merge import merge
from llmanac.kernels.unigram_trie import step

TEXT_END, BLANK = np.uint8(0xFF), np.uint8(0x20)
CACHED = 64  # bytes; longer words are worked out anew each time
UNIGRAM, BPE = 0, 1
WORDS, FILLED = 0, 1  # what `counters` holds: words in the cache, places of its arena in use
ANY_SUM = 1 << 30  # the largest sum up to which a path is ever taken from the cache
ROUNDING = (2.0**-52, 2.0**-23)  # relative error of one addition, twice over; of 64- and of 32-bit floats
MINUS_INFINITY = -np.inf
RESET = 100000.0  # a 32-bit sum beyond this is taken off all paths at hand, as the library does


@njit(forceinline=True)
def character_length(byte):
    """Bytes of the UTF-8 character that a byte begins."""
    if byte < 0xC0:
        return 1
    if byte < 0xE0:
        return 2
    return 3 if byte < 0xF0 else 4


@njit(forceinline=True)
def word_end(buffer, at, joins):
    """Where the word that starts at a place ends: before the first two bytes that no piece holds together."""
    end = at + 1
    while joins[(np.int64(buffer[end - 1]) << 8) | np.int64(buffer[end])]:
        end += 1
    return end


@njit
def viterbi(buffer, start, stop, before, nodes, scores, unknown, unknown_score, single, best, came, what):
    """Fill `best[i]`, `came[i]`, `what[i]`: the best sum of a path to `start + i`, where its last piece starts, its id.

    Sums start at `before` and are rounded to 32-bit floats if `single`. Of equal paths the one found first stays.
    """
    length = stop - start
    for i in range(1, length + 1):
        came[i] = -1
    best[0] = before
    at, furthest = 0, 0
    while at < length:
        so_far = best[at]
        if single and abs(so_far) > RESET:
            for i in range(at, furthest + 1):
                if i == at or came[i] >= 0:
                    best[i] = np.float64(np.float32(best[i] - so_far))
            so_far = 0.0
        width = min(character_length(buffer[start + at]), length - at)
        alone = False
        node, end = np.int64(0), at
        while end < length:
            node = step(nodes, node, buffer[start + end])
            if node < 0:
                break
            end += 1
            piece = nodes[node, 1]
            if piece >= 0:
                furthest = max(furthest, end)
                total = scores[piece] + so_far
                if single:
                    total = np.float64(np.float32(total))
                if came[end] < 0 or total > best[end]:
                    best[end], came[end], what[end] = total, at, piece
                if end - at == width:
                    alone = True
        if not alone:
            end = at + width
            furthest = max(furthest, end)
            total = so_far + unknown_score
            if single:
                total = np.float64(np.float32(total))
            if came[end] < 0 or total > best[end]:
                best[end], came[end], what[end] = total, at, unknown
        at += width


@njit
def _viterbi_with_lead(buffer, start, stop, nodes, scores, unknown, unknown_score, unit, best, second, came, what):
    """As `viterbi`, unrounded and from 0; returns the largest sum before the word up to which the path is the same."""
    length = stop - start
    for i in range(1, length + 1):
        came[i], second[i] = -1, MINUS_INFINITY
    best[0] = 0.0
    at, characters, largest = 0, 0, 0.0
    while at < length:
        so_far = best[at]
        width = min(character_length(buffer[start + at]), length - at)
        alone = False
        node, end = np.int64(0), at
        characters += 1
        while True:
            if end < length and node >= 0:
                node = step(nodes, node, buffer[start + end])
            if end >= length or node < 0:
                if alone:
                    break
                alone, end, piece, total = True, at + width, np.int32(unknown), so_far + unknown_score
                node = np.int64(-1)
            else:
                end += 1
                piece = nodes[node, 1]
                if piece < 0:
                    continue
                alone = alone or end - at == width
                total = scores[piece] + so_far
            largest = max(largest, abs(total))
            if came[end] < 0:
                best[end], came[end], what[end] = total, at, piece
            elif total > best[end]:
                second[end] = best[end]
                best[end], came[end], what[end] = total, at, piece
            elif total > second[end]:
                second[end] = total
            if node < 0:
                break
        at += width
    lead, end = np.inf, length
    while end > 0:
        lead = min(lead, best[end] - second[end])
        end = came[end]
    limit = lead / ((characters + 1) * unit) - largest
    return min(limit, RESET - 2 * largest - 1.0) if unit == ROUNDING[1] else limit


@njit
def _path(length, came, what, ids, ends):
    """Read the path backwards into `ids` and the places where its pieces end; returns how many."""
    count, end = 0, np.int64(length)
    while end > 0:
        count += 1
        end = came[end]
    end = np.int64(length)
    for i in range(count - 1, -1, -1):
        ids[i], ends[i] = what[end], end
        end = came[end]
    return count


@njit
def _remember(cache, arena, counters, slot, first, second, address, length, limit, ids, count):
    """Put a word's ids into the cache: `limit, its bytes if they are more than its key, its ids`."""
    words = (length + 3) // 4 if length > 16 else 0
    if counters[WORDS] * 2 >= cache.shape[0] or counters[FILLED] + count + words + 1 > arena.shape[0]:
        for i in range(cache.shape[0]):
            cache[i, 2] = np.uint64(0)
        counters[WORDS], counters[FILLED] = 0, 0
        slot = hash_of(first, second, np.uint64(length)) & np.uint64(cache.shape[0] - 1)
    row = counters[FILLED]
    cache[slot, 0], cache[slot, 1] = first, second
    cache[slot, 2] = np.uint64(length) | (np.uint64(count) << HALF)
    cache[slot, 3] = np.uint64(row)
    arena[row] = limit
    for i in range(words):
        packed = np.uint32(0)
        for j in range(min(4, length - 4 * i)):
            packed |= np.uint32(load_byte(address + np.uint64(4 * i + j))) << np.uint32(8 * j)
        arena[row + 1 + i] = np.int32(packed)
    for i in range(count):
        arena[row + 1 + words + i] = ids[i]
    counters[WORDS] += 1
    counters[FILLED] = row + 1 + words + count


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
    return _path(stop - at, came, what, ids, ends), best[stop - at]


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
    """Put a word into the cache; one with an unknown character beside others only as one to be worked out each time."""
    if kind == UNIGRAM:
        unit = ROUNDING[1] if single else ROUNDING[0]
        limit = _viterbi_with_lead(
            buffer, at, stop, nodes, scores, unknown, unknown_score, unit, best, second, came, what
        )
        count = _path(stop - at, came, what, ids, ends)
    else:
        limit = np.float64(ANY_SUM)
        count, _ = _cut_word(
            buffer, at, stop, 0.0, kind, nodes, scores, unknown, unknown_score, single, kept, pairs, halves, best, came,
            what, ids, ends,
        )  # fmt: skip
    for i in range(count):
        if ids[i] == unknown and count > 1:
            limit = -1.0
    limit = min(limit, np.float64(ANY_SUM)) if limit > -1.0 else -1.0  # also where scores overflowed
    address = np.uint64(buffer.ctypes.data) + np.uint64(at)
    _remember(cache, arena, counters, slot, first, other, address, stop - at, np.int32(limit), ids, count)


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
    base, held = np.uint64(buffer.ctypes.data), np.uint64(arena.ctypes.data)
    mask = np.uint64(cache.shape[0] - 1)
    # Room for the worst case, an id a byte (three where an unknown space becomes bytes); pages not used stay unmade.
    room = used * (3 if escape and byte_ids.shape[0] > 0 else 1) + 2
    out, spans = np.empty(room, np.int32), np.empty((room if placed else 0, 2), np.int64)
    best, second = np.empty(CACHED + 1, np.float64), np.empty(CACHED + 1, np.float64)
    came, what = np.empty(CACHED + 1, np.int32), np.empty(CACHED + 1, np.int32)
    ids, ends = np.empty(CACHED + 1, np.int32), np.empty(CACHED + 1, np.int64)
    filled, texts, at, total, was_unknown = np.int64(0), 0, np.int64(0), 0.0, False
    while at < used:
        if buffer[at] == TEXT_END:
            text_ends[texts] = filled
            texts += 1
            total, was_unknown = 0.0, False
            at += 1
            continue
        stop = word_end(buffer, at, joins)
        length = stop - at
        if length > CACHED or placed:
            filled, was_unknown, total = _cut_long_word(
                buffer, at, stop, total, kind, nodes, scores, unknown, unknown_score, single, byte_ids, escape, kept,
                pairs, halves, was_unknown, out, spans, filled,
            )  # fmt: skip
            at = stop
            continue
        address, size, found = base + np.uint64(at), np.uint64(length), False
        first, other = word_key(address, size)
        slot = hash_of(first, other, size) & mask
        while not found:
            entry = cache[slot, 2]
            if entry == 0:
                _learn_word(
                    buffer, at, stop, kind, nodes, scores, unknown, unknown_score, single, kept, pairs, halves, cache,
                    arena, counters, slot, first, other, best, second, came, what, ids, ends,
                )  # fmt: skip
                break
            if cache[slot, 0] == first and cache[slot, 1] == other and entry & LOW == size:
                row, words = np.int64(cache[slot, 3]), (length + 3) // 4 if length > 16 else 0
                if words == 0 or same_bytes(held + np.uint64(4 * (row + 1)), address, length):
                    limit = arena[row]
                    row += 1 + words
                    if limit < 0 or (kind == UNIGRAM and abs(total) > limit):
                        break
                    if arena[row] == unknown:  # the whole word is one unknown character
                        ids[0], ends[0] = unknown, length
                        filled, was_unknown = _emit(
                            buffer, at, 1, ids, ends, unknown, byte_ids, escape, was_unknown, out, spans, filled
                        )
                        total += unknown_score
                        if single:
                            total = np.float64(np.float32(total))
                        found = True
                        break
                    for i in range(np.int64(entry >> HALF)):
                        piece = arena[row + i]
                        out[filled] = piece
                        filled += 1
                        total += scores[piece]
                        if single:
                            total = np.float64(np.float32(total))
                    found, was_unknown = True, False
            slot = (slot + ONE) & mask
        if not found:
            count, total = _cut_word(
                buffer, at, stop, total, kind, nodes, scores, unknown, unknown_score, single, kept, pairs, halves,
                best, came, what, ids, ends,
            )  # fmt: skip
            filled, was_unknown = _emit(
                buffer, at, count, ids, ends, unknown, byte_ids, escape, was_unknown, out, spans, filled
            )
        at = stop
    return out[:filled], spans[:filled] if placed else spans


assert int(ALL_ONES) == (1 << 64) - 1
