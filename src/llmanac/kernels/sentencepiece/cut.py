"""Cutting one word into the pieces of a SentencePiece vocabulary, in numba, and writing its ids.

`room` is the tuple of arrays that are filled on the way: best, second, came, what, ids, ends.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

from collections import namedtuple

import numpy as np

from llmanac.kernels.sentencepiece.merge import merge
from llmanac.kernels.sentencepiece.viterbi import path, viterbi
from llmanac.kernels.text import cached, inner

TEXT_END, BLANK = np.uint8(0xFF), np.uint8(0x20)
UNIGRAM, BPE = 0, 1

# What decides the cut. `nodes` is a `walkable` trie of the pieces (for BPE, of all their characters); `scores` (ids,)
# float64; `single`: whether sums are rounded to 32-bit floats; `kept`, `pairs`, `halves` are for `merge.merge`.
# `byte_ids` (256,) int32, or empty: then what is unknown becomes one id, a run of it once. `spent` are the scores,
# where those of pieces for bytes are what an unknown character adds; `rounded` the same as float32.
Model = namedtuple(
    "Model", "kind nodes scores unknown unknown_score single kept pairs halves spent rounded byte_ids escape"
)


@inner(forceinline=True)
def word_end(buffer, at, joins):
    """Where the word that starts at a place ends: before the first two bytes that no piece holds together."""
    end = at + 1
    while joins[np.int64(buffer[end - 1]) | (np.int64(buffer[end]) << 8)]:
        end += 1
    return end


@inner
def room_for(length):
    """The arrays that are filled while a word of so many bytes is cut."""
    best, second = np.empty(length + 1, np.float64), np.empty(length + 1, np.float64)
    came, what = np.empty(length + 1, np.int32), np.empty(length + 1, np.int32)
    return best, second, came, what, np.empty(length + 1, np.int32), np.empty(length + 1, np.int64)


@inner
def cut_word(buffer, at, stop, total, model, room):
    """Cut one word, the sum before it being `total`; returns `(ids written, the sum after it)`."""
    best, _, came, what, ids, ends = room
    if model.kind == BPE:
        unused = np.zeros(1, np.uint64)
        count = merge(
            buffer, at, stop, model.nodes, model.kept, model.pairs, model.halves, model.scores.shape[0], model.unknown,
            0.0, unused, ids, ends,
        )  # fmt: skip
        return count, total
    viterbi(
        buffer, at, stop, total, model.nodes, model.scores, model.unknown, model.unknown_score, model.single, best,
        came, what,
    )  # fmt: skip
    return path(stop - at, came, what, ids, ends), best[stop - at]


@inner
def emit(buffer, start, count, ids, ends, unknown, byte_ids, escape, was_unknown, out, spans, filled):
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


@inner(forceinline=True)
def with_bytes(buffer, at, count, model, ids, ends, written):
    """A path's ids with unknown characters as bytes; `(ids, the size of their scores' sum)`, or no ids: not to keep.

    Without pieces for bytes, what is unknown depends on its neighbours; and a piece for a byte that the path has itself
    would count as such a character.
    """
    filled, size, begin, byte_ids = 0, 0.0, at, model.byte_ids
    for i in range(count):
        end = at + ends[i]
        if ids[i] == model.unknown:
            if byte_ids.shape[0] == 0 or filled + 3 * (end - begin) > written.shape[0]:
                return 0, 0.0
            for j in range(begin, end):
                if model.escape and buffer[j] == BLANK:
                    written[filled], written[filled + 1] = byte_ids[0xE2], byte_ids[0x96]
                    written[filled + 2] = byte_ids[0x81]
                    filled += 3
                else:
                    written[filled] = byte_ids[buffer[j]]
                    filled += 1
            size += abs(model.unknown_score)
        else:
            if filled >= written.shape[0] or model.spent[ids[i]] != model.scores[ids[i]]:
                return 0, 0.0
            written[filled] = ids[i]
            filled += 1
            size += abs(model.scores[ids[i]])
        begin = end
    return filled, size


@cached
def encode_placed(buffer, used, model, joins, text_ends):
    """As `encode`, for both kinds of models, without a cache, and with the place of each id.

    Returns:
        `(ids (n,) int32, spans (n, 2) int64 bytes of the buffer that each covers)`.
    """
    most = used * (3 if model.escape and model.byte_ids.shape[0] > 0 else 1) + 2
    out, spans = np.empty(most, np.int32), np.empty((most, 2), np.int64)
    room = room_for(64)
    filled, texts, at, total, was_unknown = np.int64(0), 0, np.int64(0), 0.0, False
    while at < used:
        if buffer[at] == TEXT_END:
            text_ends[texts] = filled
            texts += 1
            at += 1
            total, was_unknown = 0.0, False
            continue
        stop = word_end(buffer, at, joins)
        if stop - at >= room[0].shape[0]:
            room = room_for(2 * (stop - at))
        count, total = cut_word(buffer, at, stop, total, model, room)
        filled, was_unknown = emit(
            buffer, at, count, room[4], room[5], model.unknown, model.byte_ids, model.escape, was_unknown, out, spans,
            filled,
        )  # fmt: skip
        at = stop
    return out[:filled], spans[:filled]
