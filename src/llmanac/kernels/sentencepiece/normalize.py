"""Normalising text as SentencePiece does, in numba: replacement rules, spaces, and where each byte came from.

Within this package a space is the byte 0x20 in normalised text, also where the file's pieces write it U+2581: with
`escape` a U+2581 in the text is the same thing and becomes 0x20 too.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.sentencepiece.trie import longest
from llmanac.kernels.text import cached, character_length, grown, inner

TEXT_END, BLANK = np.uint8(0xFF), np.uint8(0x20)
# Bits of `mode`.
ESCAPE, PREFIX, SUFFIX, SQUEEZE = 1, 2, 4, 8
# What `plain` says of a byte.
LOOKED_UP, COPIED, SPACE, BY_PAIR = 0, 1, 2, 3


@inner(forceinline=True)
def _is_escaped_space(source, at, stop):
    return at + 2 < stop and source[at] == 0xE2 and source[at + 1] == 0x96 and source[at + 2] == 0x81


@inner
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
    length = min(np.int64(character_length(buffer[at])), stop - at)
    return False, at, at + length, length


@inner
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


@inner
def _replaced(buffer, at, stop, units, blob, kept, mode, after_space, out, where, filled):
    """Write what the text at a place becomes; returns `(filled, bytes used, whether it ended with a space)`.

    Where `out` has no room, nothing is written and the bytes used are minus the room that it takes.
    """
    from_blob, start, end, length = _match(buffer, at, stop, units, blob, kept)
    if filled + end - start + 3 > out.shape[0]:
        return filled, -(end - start + 3), after_space
    if from_blob:
        while after_space and start < end and blob[start] == BLANK:
            start += 1
        if start < end:
            filled = _copy(blob, start, end, mode, at, out, where, filled)
            after_space = blob[end - 1] == BLANK
    else:
        while after_space and start < end and buffer[start] == BLANK:
            start += 1
        if start < end:
            filled = _copy(buffer, start, end, mode, at, out, where, filled)
            after_space = buffer[end - 1] == BLANK
    return filled, length, after_space


@inner
def _leading_spaces(buffer, at, stop, units, blob, kept):
    while at < stop:
        from_blob, start, end, length = _match(buffer, at, stop, units, blob, kept)
        if end - start != 1 or (blob[start] if from_blob else buffer[start]) != BLANK:
            break
        at += length
    return at


@inner
def _text(buffer, at, stop, units, blob, kept, plain, pairs, mode, out, where, filled):
    """Normalise one text; returns the new `filled`, or minus the room that `out` lacks."""
    squeeze, placed, begin = mode & SQUEEZE != 0, where.shape[0] > 0, filled
    if squeeze:
        at = _leading_spaces(buffer, at, stop, units, blob, kept)
    room = out.shape[0]
    any_text = at < stop
    if filled + (stop - at) + 3 > room:
        return -(stop - at + 3)
    if any_text and mode & PREFIX and not mode & SUFFIX:
        out[filled] = BLANK
        if placed:
            where[filled] = at
        filled += 1
    after_space = squeeze
    while at < stop:
        sort = plain[buffer[at]]
        if sort == BY_PAIR:
            sort = pairs[(np.int64(buffer[at]) << 8) | np.int64(buffer[at + 1])]
        if sort in (COPIED, SPACE):
            if sort == COPIED or not after_space:
                out[filled] = buffer[at]
                if placed:
                    where[filled] = at
                filled += 1
                after_space = squeeze and sort == SPACE
            at += 1
            continue
        filled, length, after_space = _replaced(
            buffer, at, stop, units, blob, kept, mode, after_space, out, where, filled
        )
        after_space = after_space and squeeze
        if length > 0:
            at += length
        if length < 0 or filled + (stop - at) + 3 > room:
            return -(stop - at + 3 + max(-length, 0))
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
    return filled + 1


@cached
def normalize(buffer, used, units, blob, kept, plain, pairs, mode, placed):
    """Normalise every text of a packed buffer.

    Args:
        units, blob: the trie of rules and its replacement strings, each ended by a NUL; empty for none.
        kept: the trie of strings that stay as they are whatever the rules say; empty for none.
        plain: (256,) uint8: COPIED for bytes that are copied unchanged, with which no rule and no kept string starts,
            SPACE for a space of which that is true, BY_PAIR where it takes the next byte to tell, else LOOKED_UP.
        pairs: (65536,) uint8 by two bytes: COPIED or LOOKED_UP, for the first of them.
        mode: ESCAPE | PREFIX | SUFFIX | SQUEEZE.
        placed: whether to tell where each byte came from.

    Returns:
        `(out, filled, where)`: the texts, each ended by 0xFF; `where[i]` is the offset in `buffer` of the text that
        out[i] came from (of a 0xFF: where the text that counts ends), empty unless `placed`.
    """
    out = np.empty(used + used // 4 + 64, np.uint8)
    where = np.empty(out.shape[0] if placed else 0, np.int64)
    filled, at = np.int64(0), np.int64(0)
    while at < used:
        stop = at
        while buffer[stop] != TEXT_END:
            stop += 1
        now = _text(buffer, at, stop, units, blob, kept, plain, pairs, mode, out, where, filled)
        if now < 0:
            out = grown(out, filled - now)
            if placed:
                where = grown(where, out.shape[0])
            continue
        filled, at = now, stop + 1
    return out, filled, where
