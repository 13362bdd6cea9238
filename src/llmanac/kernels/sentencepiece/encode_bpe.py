"""Cutting normalised text into the pieces of a SentencePiece BPE model, in numba, each word of a text once.

The pair of neighbours whose joint piece has the highest score is merged, leftmost first (`merge.py`). Known words are
kept as those of a byte-level BPE are (`bpe/known.py`).
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.bpe.known import LONGEST, TWO, find, remember
from llmanac.kernels.sentencepiece.cut import TEXT_END, cut_word, emit, room_for, with_bytes, word_end
from llmanac.kernels.split.keys import ZERO, shift_of
from llmanac.kernels.text import cached, store_half


@cached
def encode_bpe(buffer, used, model, joins, cache, arena, counters, text_ends, out):
    """Ids of every text of a packed, normalised buffer into `out`; arguments and result as of `encode.encode`."""
    base, begin = np.uint64(buffer.ctypes.data), np.uint64(out.ctypes.data)
    table, held = np.uint64(cache.ctypes.data), np.uint64(arena.ctypes.data)
    mask, shift = np.uint64(cache.shape[0] - 1), shift_of(cache.shape[0])
    room, written = room_for(np.int64(LONGEST)), np.empty(np.int64(LONGEST), np.int32)
    no_spans = np.empty((0, 2), np.int64)
    filled, texts, at, was_unknown = np.int64(0), 0, np.int64(0), False
    while at < used:
        if buffer[at] == TEXT_END:
            text_ends[texts] = filled
            texts += 1
            at += 1
            was_unknown = False
            continue
        stop, to = word_end(buffer, at, joins), begin + (np.uint64(filled) << TWO)
        place, length = base + np.uint64(at), np.uint64(stop - at)
        found, row = find(place, length, table, mask, shift, held, to)
        if found != ZERO:
            filled, at, was_unknown = filled + np.int64(found), stop, False
            continue
        if stop - at >= room[0].shape[0]:
            room = room_for(2 * (stop - at))
        ids, ends = room[4], room[5]
        count, _ = cut_word(buffer, at, stop, 0.0, model, room)
        kept, _ = with_bytes(buffer, at, count, model, ids, ends, written) if row != ZERO else (0, 0.0)
        if kept > 0:
            remember(place, length, row, cache, shift, arena, counters, written, kept)
            for i in range(kept):
                store_half(to + np.uint64(4 * i), np.uint64(written[i]))
            filled, was_unknown = filled + kept, False
        else:
            filled, was_unknown = emit(
                buffer, at, count, ids, ends, model.unknown, model.byte_ids, model.escape, was_unknown, out, no_spans,
                filled,
            )  # fmt: skip
        at = stop
    return filled
