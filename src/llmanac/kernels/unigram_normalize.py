"""Normalising text as SentencePiece does, in numba: replacement rules, spaces, and where each byte came from.

Within this package a space is the byte 0x20 in normalised text, also where the file's pieces write it U+2581: with
`escape` a U+2581 in the text is the same thing and becomes 0x20 too.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
from __future__ import annotations

import numpy as np
from numba import njit

from llmanac.kernels.text import cached, grown
from llmanac.kernels.unigram_trie import longest

TEXT_END, BLANK = np.uint8(0xFF), np.uint8(0x20)
# Bits of `mode`.
ESCAPE, PREFIX, SUFFIX, SQUEEZE = 1, 2, 4, 8


@njit(forceinline=True)
def _is_escaped_space(source, at, stop):
    return at + 2 < stop and source[at] == 0xE2 and source[at + 1] == 0x96 and source[at + 2] == 0x81


@njit
def _match(buffer, at, stop, units, blob, kept):
    """What the text at a place becomes: `(from the blob?, start, stop, bytes of the text used)`."""
    if kept.shape[0] > 0:
        length, _ = longest(kept, buffer, at, stop)
        if length > 0:
            return False, at, at + length, length
    if units.shape[0] > 0:
        length, value = longest(units, buffer, at, stop)
        if length > 0:
            end = value
            while end < blob.shape[0] and blob[end] != 0:
                end += 1
            return True, value, end, length
    byte = buffer[at]
    length = np.int64(1)
    if byte >= 0xF0:
        length = np.int64(4)
    elif byte >= 0xE0:
        length = np.int64(3)
    elif byte >= 0xC0:
        length = np.int64(2)
    length = min(length, stop - at)
    return False, at, at + length, length


@njit
def _copy(source, start, stop, mode, origin, out, where, filled):
    while start < stop:
        if mode & ESCAPE and _is_escaped_space(source, start, stop):
            out[filled] = BLANK
            start += 3
        else:
            out[filled] = source[start]
            start += 1
        if where.shape[0] > 0:
            where[filled] = origin
        filled += 1
    return filled


@cached
def normalize(buffer, used, units, blob, kept, plain, mode, placed):
    """Normalise every text of a packed buffer.

    Args:
        units, blob: the trie of rules and its replacement strings, each ended by a NUL; empty for none.
        kept: the trie of strings that stay as they are whatever the rules say; empty for none.
        plain: (256,) bool, bytes that stand for themselves: no rule and no kept string starts with them.
        mode: ESCAPE | PREFIX | SUFFIX | SQUEEZE.
        placed: whether to tell where each byte came from.

    Returns:
        `(out, filled, where)`: the texts, each ended by 0xFF; `where[i]` is the offset in `buffer` of the text that
        out[i] came from (of a 0xFF: where the text that counts ends), empty unless `placed`.
    """
    out = np.empty(used + used // 4 + 64, np.uint8)
    where = np.empty(out.shape[0] if placed else 0, np.int64)
    filled, at = np.int64(0), np.int64(0)
    squeeze = mode & SQUEEZE != 0
    while at < used:
        stop = at
        while buffer[stop] != TEXT_END:
            stop += 1
        while squeeze and at < stop:
            from_blob, start, end, length = _match(buffer, at, stop, units, blob, kept)
            if end - start != 1 or (blob[start] if from_blob else buffer[start]) != BLANK:
                break
            at += length
        begin, any_text = filled, at < stop
        if filled + 3 > out.shape[0]:
            out = grown(out, filled + 3)
            if placed:
                where = grown(where, out.shape[0])
        if any_text and mode & PREFIX and not mode & SUFFIX:
            out[filled] = BLANK
            if placed:
                where[filled] = at
            filled += 1
        after_space = squeeze
        while at < stop:
            if plain[buffer[at]]:
                if filled + 3 > out.shape[0]:
                    out = grown(out, filled + 3)
                    if placed:
                        where = grown(where, out.shape[0])
                out[filled] = buffer[at]
                if placed:
                    where[filled] = at
                filled += 1
                at += 1
                after_space = False
                continue
            from_blob, start, end, length = _match(buffer, at, stop, units, blob, kept)
            if filled + end - start + 3 > out.shape[0]:
                out = grown(out, filled + end - start + 3)
                if placed:
                    where = grown(where, out.shape[0])
            if from_blob:
                while after_space and start < end and blob[start] == BLANK:
                    start += 1
                if start < end:
                    filled = _copy(blob, start, end, mode, at, out, where, filled)
                    after_space = squeeze and blob[end - 1] == BLANK
            else:
                while after_space and start < end and buffer[start] == BLANK:
                    start += 1
                if start < end:
                    filled = _copy(buffer, start, end, mode, at, out, where, filled)
                    after_space = squeeze and buffer[end - 1] == BLANK
            at += length
        consumed = at
        if any_text:
            while squeeze and filled > begin and out[filled - 1] == BLANK:
                filled -= 1
                if placed:
                    consumed = where[filled]
            if mode & PREFIX and mode & SUFFIX:
                out[filled] = BLANK
                if placed:
                    where[filled] = consumed
                filled += 1
        out[filled] = TEXT_END
        if placed:
            where[filled] = consumed
        filled += 1
        at = stop + 1
    return out, filled, where
