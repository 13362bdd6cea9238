# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
"""Words between white space to ids, and ARPA lines in and out, in numba over bytes.

White space is what KenLM's lmplz takes for it: NUL, tab, line feed, carriage return, space; a sentence ends at a line
feed. Words are bytes and are never decoded. A word table is open addressing over rows of (key, second
key, length, id + 1); words longer than a key are compared byte by byte.
"""

import numpy as np

from llmanac.kernels.text import cached, hash_of, inner, load_byte, prefetch, same_bytes, word_key

KEY_BYTES = 16
BATCH = 64  # words whose table slots are fetched together
ONE = np.uint64(1)
OK, FULL, UNKNOWN, MARK = 0, 1, 2, 3  # why `read_words` came back
# why `read_arpa` came back
DONE, ROOM, FIELDS, NUMBER, POSITIVE, WORD, AGAIN, CONTEXT, LAST_WEIGHT, END, WEIGHT = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
POWERS = 10.0 ** np.arange(23)


@cached
def is_space(byte):
    """Whether a byte separates words."""
    return byte == 32 or byte == 10 or byte == 9 or byte == 13 or byte == 0


@cached
def find_word(table, blob, offsets, address, length):
    """`(id or -1, slot)` of the bytes at an address; the slot is where the word is, or would go."""
    first, second = word_key(address, np.uint64(length))
    slot = hash_of(first, second, np.uint64(length)) & np.uint64(table.shape[0] - 1)
    return _probe(table, blob, offsets, address, length, first, second, slot)


@inner
def _probe(table, blob, offsets, address, length, first, second, slot):
    mask = np.uint64(table.shape[0] - 1)
    while table[slot, 3] != 0:
        if table[slot, 0] == first and table[slot, 1] == second and table[slot, 2] == length:
            word = np.int64(table[slot, 3]) - 1
            own = np.uint64(blob.ctypes.data + offsets[np.uint64(word)])
            if length <= KEY_BYTES or same_bytes(own, address, length):
                return word, slot
        slot = (slot + ONE) & mask
    return np.int64(-1), slot


@cached
def add_word(table, blob, offsets, count, slot, address, length):
    """Put the bytes at an address into the table as word number `count`; the caller has made room."""
    first, second = word_key(address, np.uint64(length))
    table[slot, 0], table[slot, 1], table[slot, 2] = first, second, length
    table[slot, 3] = count + 1
    at = offsets[count]
    source = np.uint64(address)
    for i in range(length):
        blob[at + i] = load_byte(source + np.uint64(i))
    offsets[count + 1] = at + length


@cached
def index_words(table, blob, offsets, count):
    """Fill an empty table with `count` words; returns the first that is there already, or -1."""
    base = np.uint64(blob.ctypes.data)
    for word in range(count):
        address, length = base + np.uint64(offsets[word]), np.int64(offsets[word + 1] - offsets[word])
        found, slot = find_word(table, blob, offsets, address, length)
        if found >= 0:
            return np.int64(word)
        first, second = word_key(address, np.uint64(length))
        table[slot, 0], table[slot, 1], table[slot, 2], table[slot, 3] = first, second, length, word + 1
    return np.int64(-1)


@cached
def read_words(
    text, at, end, table, blob, offsets, count, learn, marks, unk, bos, eos, ids, place, filled, open_at
):  # fmt: skip
    """Whole lines of `text[at:end]` to ids: `<s>` words `</s>`, until the text, or room for the results, ends.

    Args:
        learn: whether new words join the table; otherwise they are `unk`.
        marks: what a word that is a sentence mark or <unk> does: 0 is refused (`MARK`), 1 is left out, 2 is a word.
        unk, bos, eos: the ids of the marks.
        open_at: the place in its sentence of the word that comes next; 0 where a sentence begins.

    Returns:
        (status, where it stopped, words known, ids filled, place of the word that comes next).
    """
    base, table_at = np.uint64(text.ctypes.data), np.uint64(table.ctypes.data)
    mask = np.uint64(table.shape[0] - 1)
    begins, ends, slots = np.empty(BATCH, np.int64), np.empty(BATCH, np.int64), np.empty(BATCH, np.uint64)
    firsts, seconds = np.empty(BATCH, np.uint64), np.empty(BATCH, np.uint64)
    while at < end:
        items = 0
        while items < BATCH and at < end:  # where the next words are; their slots are on their way meanwhile
            byte = text[at]
            if byte != 10 and is_space(byte):
                at += 1
                continue
            begins[items] = at
            if byte == 10:
                ends[items] = at
                at += 1
            else:
                while at < end and not is_space(text[at]):
                    at += 1
                length = np.uint64(at - begins[items])
                first, second = word_key(base + np.uint64(begins[items]), length)
                slot = hash_of(first, second, length) & mask
                prefetch(table_at + (slot << np.uint64(5)))
                ends[items], slots[items], firsts[items], seconds[items] = at, slot, first, second
            items += 1
        for item in range(items):
            begin, length = begins[item], ends[item] - begins[item]
            if filled + 2 > ids.shape[0]:
                return FULL, begin, count, filled, open_at
            if learn and (2 * (count + 1) > table.shape[0] or count + 2 > offsets.shape[0]):
                return FULL, begin, count, filled, open_at
            if open_at == 0:
                ids[filled], place[filled] = bos, 0
                filled, open_at = filled + 1, 1
            if length == 0:
                ids[filled], place[filled] = eos, min(open_at, 255)
                filled, open_at = filled + 1, 0
                continue
            address = base + np.uint64(begin)
            word, slot = _probe(table, blob, offsets, address, length, firsts[item], seconds[item], slots[item])
            if word >= 0 and marks < 2 and word in (unk, bos, eos):
                if marks == 0:
                    return MARK, begin, count, filled, open_at
                continue
            if word < 0 and learn:
                if offsets[count] + length + 32 > blob.shape[0]:
                    return FULL, begin, count, filled, open_at
                add_word(table, blob, offsets, count, slot, address, length)
                word = count
                count += 1
            ids[filled] = word if word >= 0 else unk
            place[filled] = min(open_at, 255)
            filled, open_at = filled + 1, open_at + 1
    if end > 0 and open_at == 0 and text[end - 1] != 10:  # white space without a line's end is a line begun
        if filled + 2 > ids.shape[0]:
            return FULL, at, count, filled, open_at
        ids[filled], place[filled] = bos, 0
        filled, open_at = filled + 1, 1
    return OK, at, count, filled, open_at


@inner
def parse_number(text, at, end):
    """`(value, whether it is a number)` of the bytes `text[at:end]`: decimal, with a point and an exponent; or inf."""
    if at >= end:
        return 0.0, False
    sign = 1.0
    if text[at] == 45 or text[at] == 43:
        sign = -1.0 if text[at] == 45 else 1.0
        at += 1
    if end - at >= 3 and (text[at] | 32) == 105 and (text[at + 1] | 32) == 110 and (text[at + 2] | 32) == 102:
        whole = end - at == 3 or (end - at == 8 and (text[at + 3] | 32) == 105 and (text[at + 7] | 32) == 121)
        return sign * np.inf, whole
    mantissa, scale, digits, seen = 0.0, 0, 0, False
    point = False
    while at < end:
        byte = text[at]
        if byte >= 48 and byte <= 57:
            seen = True
            if digits < 17:
                mantissa = mantissa * 10.0 + (byte - 48)
                digits += mantissa > 0.0
                scale -= point
            elif not point:
                scale += 1
        elif byte == 46 and not point:
            point = True
        else:
            break
        at += 1
    if not seen:
        return 0.0, False
    if at < end and (text[at] | 32) == 101:
        at += 1
        negative = at < end and text[at] == 45
        if at < end and (text[at] == 45 or text[at] == 43):
            at += 1
        if at >= end:
            return 0.0, False
        exponent = 0
        while at < end and text[at] >= 48 and text[at] <= 57:
            exponent = min(exponent * 10 + (text[at] - 48), 100000)
            at += 1
        scale += -exponent if negative else exponent
    if at < end:
        return 0.0, False
    while scale < 0 and mantissa > 0.0:
        step = min(-scale, 22)
        mantissa /= POWERS[step]
        scale += step
    while scale > 0 and mantissa > 0.0 and mantissa < np.inf:
        step = min(scale, 22)
        mantissa *= POWERS[step]
        scale -= step
    return sign * mantissa, True


@inner
def write_number(value, out, at):
    """Write a number as decimal digits that read back as its float32 (for sizes above 1e-4); returns where it ends."""
    if value < 0.0:
        out[at] = 45
        at += 1
        value = -value
    decimals = 7 if value >= 1.0 else (9 if value >= 0.015625 else 12)
    scaled = np.int64(value * POWERS[decimals] + 0.5)
    unit = np.int64(POWERS[decimals])
    whole, rest = scaled // unit, scaled % unit
    start = at
    while whole > 0 or at == start:
        out[at] = 48 + whole % 10
        whole //= 10
        at += 1
    left, right = start, at - 1
    while left < right:
        out[left], out[right] = out[right], out[left]
        left, right = left + 1, right - 1
    if rest == 0:
        return at
    out[at] = 46
    while rest % 10 == 0:
        rest //= 10
        decimals -= 1
    for i in range(decimals):
        out[at + decimals - i] = 48 + rest % 10
        rest //= 10
    return at + 1 + decimals
