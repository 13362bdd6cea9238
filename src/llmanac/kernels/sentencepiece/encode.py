"""Cutting normalised text into the pieces of a unigram model, in numba: the path of highest total score (Viterbi).

The library adds scores up in 32-bit floats from the
start of the text (and starts again from 0 beyond RESET), so where two paths are nearly equal its choice depends on how
large the sum has grown. Words repeat, though, and no piece spans two bytes that no piece has next to each other:
text is cut there, 64 bytes at a time, and each word's path is kept (`bpe/known.py`) with two notes: up to which size
of the sum its lead over every other path is more than rounding can undo, and what it adds to that size at most. Only
where the size may be beyond the first is the sum itself added up, and the word worked out again, rounding as the
library does.
"""

# mypy: disable-error-code="assignment, call-arg, var-annotated"
# (numba types these functions itself)

from functools import partial

import numpy as np

from llmanac.kernels.bpe.known import COUNT, HALF, IDS, LONGEST, OCTET, TWO, find, remember
from llmanac.kernels.sentencepiece.cut import TEXT_END, Model, emit, room_for, with_bytes
from llmanac.kernels.sentencepiece.viterbi import ROUNDING, path, viterbi, viterbi_with_lead
from llmanac.kernels.split.keys import BLOCK, WAITING, ZERO, shift_of, stage
from llmanac.kernels.text import (
    ALL_ONES,
    EIGHT,
    ONE,
    SIXTEEN,
    THREE,
    borrowed,
    cached,
    inner,
    load_byte,
    load_pair,
    load_word,
    store_half,
    store_word,
    trailing_zeros,
)  # fmt: skip

BYTES, PLACES = np.uint64(64), 64 + 64 + 1  # words are looked up 64 or more at a time
REACH, ADDS = np.uint64(255), np.uint64(16)  # a word's notes: its reach; above this bit what it adds
UNIT = 16  # sizes of sums are counted in sixteenths
MOST_ADDED, NO_END = (1 << 16) - 1, 1e15
RANGES = 99_900.0 * 2.0 ** ((np.arange(256) - 255) / 16)  # up to near where 32-bit sums start again from 0
RANGES[0] = -1.0  # never
LIMITS = np.floor(UNIT * RANGES).astype(np.int64)
CHECKED, UNKNOWN_END = 0, 1  # what `marks` holds: up to where `sums[0]` counts; where ids ended that are unknown


@inner(forceinline=True)
def _ends(address, joins):
    """Bit i: whether a word ends with byte i of the 64 at an address."""
    found = ZERO
    for i in range(64):
        at = np.uint64(i)
        found |= np.uint64(load_byte(joins + np.uint64(load_pair(address + at)))) << at
    return found ^ ALL_ONES


@inner
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


@inner
def _size_of(total):
    """The size of a sum in units; of one that is no number or has no end, beyond every limit."""
    size = np.ceil(UNIT * abs(total))
    return np.int64(size) if size < NO_END else np.int64(NO_END)


@inner(forceinline=True)
def _learn(buffer, place, length, row, model, cache, shift, arena, counters, room, written, to):
    """Cut a word that the cache lacks, keep it and write its ids to an address; returns what `find` would."""
    best, second, came, what, ids, ends = room
    at = np.int64(place - np.uint64(buffer.ctypes.data))
    stop = at + np.int64(length)
    unit = ROUNDING[1] if model.single else ROUNDING[0]
    limit = viterbi_with_lead(
        buffer, at, stop, model.nodes, model.scores, model.unknown, model.unknown_score, unit, best, second, came, what
    )
    count = path(stop - at, came, what, ids, ends)
    filled, size = with_bytes(buffer, at, count, model, ids, ends, written)
    added = UNIT * size + count + 1  # each sum is rounded, by less than a unit
    if not added <= MOST_ADDED:
        filled = 0
    if filled == 0:
        return ZERO
    notes = np.uint64(_range_of(limit)) | np.uint64(added) << EIGHT
    remember(place, length, row, cache, shift, arena, counters, written, filled, notes)
    for i in range(filled):
        store_half(to + np.uint64(4 * i), np.uint64(written[i]))
    return np.uint64(filled) | notes << EIGHT


@inner(forceinline=True)
def _settle(out, to, model, sums, marks):
    """Add up the scores of the ids so far; returns the sum's size."""
    base = np.uint64(out.ctypes.data)
    start, stop = np.int64((marks[CHECKED] - base) >> TWO), np.int64((to - base) >> TWO)
    total, brief = sums[0], np.float32(sums[0])
    if model.single:
        for i in range(start, stop):
            brief += model.rounded[out[i]]
        total = np.float64(brief)
    else:
        for i in range(start, stop):
            total += model.spent[out[i]]
    sums[0], marks[CHECKED] = total, to
    return _size_of(total)


@inner(inline="never")
def _cut_anew(buffer, at, length, model, room, out, to, sums, marks):
    """Cut a word as the sum before it demands, and write its ids; returns `(where they end, the sum's size)`."""
    if length >= room[0].shape[0]:
        room = room_for(length)
    best, _, came, what, ids, ends = room
    viterbi(
        buffer, at, at + length, sums[0], model.nodes, model.scores, model.unknown, model.unknown_score, model.single,
        best, came, what,
    )  # fmt: skip
    count, total = path(length, came, what, ids, ends), best[length]
    base, was_unknown = np.uint64(out.ctypes.data), marks[UNKNOWN_END] == to
    filled, was_unknown = emit(
        buffer, at, count, ids, ends, model.unknown, model.byte_ids, model.escape, was_unknown, out,
        np.empty((0, 2), np.int64), np.int64((to - base) >> TWO),
    )  # fmt: skip
    to = base + (np.uint64(filled) << TWO)
    sums[0], marks[CHECKED] = total, to
    if was_unknown:
        marks[UNKNOWN_END] = to
    return to, _size_of(total)


@inner(inline="never")
def _other_word(
    buffer, place, length, size, model, cache, table, mask, shift, arena, counters, room, written, sums, marks, out, to
):  # fmt: skip
    """Write the ids of a word that no row holds, or whose cut the sum may change; returns as `_cut_anew`."""
    found, row = find(place, length, table, mask, shift, np.uint64(arena.ctypes.data), to)
    if found == ZERO and row != ZERO:
        found = _learn(buffer, place, length, row, model, cache, shift, arena, counters, room, written, to)
    limit = LIMITS[np.int64((found >> EIGHT) & REACH)] if found != ZERO else np.int64(-1)
    if size > limit:
        size = _settle(out, to, model, sums, marks)
    if size <= limit:
        return to + ((found & OCTET) << TWO), size + np.int64(found >> ADDS)
    at = np.int64(place - np.uint64(buffer.ctypes.data))
    return _cut_anew(buffer, at, np.int64(length), model, room, out, to, sums, marks)


@partial(cached, nogil=True)
def encode(buffer, used, model, joins, cache, arena, counters, text_ends, out):
    """Ids of every text of a packed, normalised buffer into `out`, one after the other; returns how many there are.

    Args:
        joins: (65536,) bool by two bytes, the first in the lower half: whether a word may go on from it to the second.
        cache, arena, counters: the ids of words seen before (`bpe/known.py`); bounded, and starts over when full.
        text_ends: `text_ends[i]` becomes where the ids of text i end.
        out: (most ids + 8,) int32; an id a byte, three where an unknown space becomes bytes.
    """
    base, table, by_pair = np.uint64(buffer.ctypes.data), np.uint64(cache.ctypes.data), np.uint64(joins.ctypes.data)
    mask, shift = np.uint64(cache.shape[0] - 1), shift_of(cache.shape[0])
    own, written = room_for(np.int64(LONGEST)), np.empty(np.int64(LONGEST), np.int32)
    sums, marks = np.zeros(1, np.float64), np.zeros(2, np.uint64)
    places, waiting = np.empty(PLACES, np.uint64), np.empty(3 * PLACES, np.uint64)
    # what `_other_word` is given, without counts of references
    text, rows, more, known, ids = (
        borrowed(buffer), borrowed(cache), borrowed(arena), borrowed(counters), borrowed(out),
    )  # fmt: skip
    room = (
        borrowed(own[0]), borrowed(own[1]), borrowed(own[2]), borrowed(own[3]), borrowed(own[4]), borrowed(own[5]),
    )  # fmt: skip
    new, sum_at, mark_at = borrowed(written), borrowed(sums), borrowed(marks)
    rules = Model(
        model.kind, borrowed(model.nodes), borrowed(model.scores), model.unknown, model.unknown_score, model.single,
        borrowed(model.kept), borrowed(model.pairs), borrowed(model.halves), borrowed(model.spent),
        borrowed(model.rounded), borrowed(model.byte_ids), model.escape,
    )  # fmt: skip
    begin, first = np.uint64(out.ctypes.data), np.uint64(places.ctypes.data)
    scan, stop, to, texts, size = base, base + np.uint64(used), begin, 0, np.int64(0)
    marks[CHECKED], places[0] = begin, 0
    while scan < stop:
        last = first
        while scan < stop and last < first + (BLOCK << THREE):
            ends = _ends(scan, by_pair)
            if stop - scan < BYTES:
                ends &= (ONE << (stop - scan)) - ONE
            while ends != ZERO:
                last += EIGHT
                store_word(last, scan - base + trailing_zeros(ends) + ONE)
                ends &= ends - ONE
            scan += BYTES
        wait = np.uint64(waiting.ctypes.data)
        waited = stage(first, last, base, table, shift, wait)
        piece = first
        while wait < waited:
            row = load_word(wait + SIXTEEN)
            two, count = load_word(row + IDS), load_word(row + COUNT)
            missed = load_word(row) ^ load_word(wait) | load_word(row + EIGHT) ^ load_word(wait + EIGHT)
            noted = count >> HALF
            wait += WAITING
            piece += EIGHT
            if missed == ZERO and size <= LIMITS[np.int64((noted >> EIGHT) & REACH)]:
                store_word(to, two)
                store_half(to + EIGHT, count)
                to += (noted & OCTET) << TWO
                size += np.int64(noted >> ADDS)
                continue
            start = load_word(piece - EIGHT)
            if load_byte(base + start) == TEXT_END:
                text_ends[texts] = np.int64((to - begin) >> TWO)
                texts += 1
                size, sums[0], marks[CHECKED], marks[UNKNOWN_END] = 0, 0.0, to, ZERO
                continue
            to, size = _other_word(
                text, base + start, load_word(piece) - start, size, rules, rows, table, mask, shift, more, known, room,
                new, sum_at, mark_at, ids, to,
            )  # fmt: skip
        store_word(first, load_word(last))
    # (what is used by its address only must be used once more to be kept)
    places[0], waiting[0], written[0], sums[0], marks[0] = ZERO, ZERO, 0, 0.0, ZERO
    own[0][0], own[1][0], own[2][0], own[3][0], own[4][0], own[5][0] = 0.0, 0.0, 0, 0, 0, 0
    return np.int64((to - begin) >> TWO)
