# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
"""Texts to token ids for BLEU and ROUGE: words out of a buffer of UTF-8, and the rules of mteval-v13a.

Texts are joined by 0xFF (`kernels.text.pack`). A word is a run of bytes that `keep` marks; its id is the order in which
it was first seen, over hypotheses and references together. Words are compared byte by byte, so ids are exact.
"""

import numpy as np

from llmanac.kernels.ngrams.text import find_word
from llmanac.kernels.text import cached, word_key

END_OF_TEXT, NEWLINE = 255, 10
DIGIT, STOP, APART = 1, 2, 4  # classes of bytes in 13a's rules: 0-9; full stop and comma; those that are always apart
MOST_GROWTH = 5  # times that a text can grow when its tokens are set apart

_BYTES = np.arange(256)
BETWEEN_SPACES = (_BYTES > 32) & (_BYTES != END_OF_TEXT)  # ASCII white space and control characters end a word
BETWEEN_SPACES[:9] = BETWEEN_SPACES[14:28] = True  # control characters that str.split does not split at
CLASSES = np.zeros(256, np.uint8)
CLASSES[48:58] = DIGIT
CLASSES[[44, 46]] = STOP
for _first, _last in ("{~", "[`", " &", "(+", ":@", "//"):
    CLASSES[ord(_first) : ord(_last) + 1] = APART


@cached
def read_tokens(buffer, end, keep, table, starts, lengths, ids, breaks, texts):
    """Words of every text to ids.

    Args:
        buffer, end: packed texts; keep: (256,) which bytes are part of a word.
        table: (slots, 4) uint64 zeros, a power of two of slots, more than twice as many as there are words.
        starts, lengths: int64, filled with where each distinct word was first seen.
        ids: int32, filled with the ids of all texts in a row.
        breaks: int64, filled with the number of ids before the end of each line; texts: with the lines before the end
            of each text.

    Returns:
        (distinct words, ids, lines).
    """
    base = np.uint64(buffer.ctypes.data)
    at, count, filled, lines, done = 0, 0, 0, 0, 0
    while at < end:
        byte = buffer[at]
        if not keep[byte]:
            if byte in (NEWLINE, END_OF_TEXT):
                breaks[lines] = filled
                lines += 1
                if byte == END_OF_TEXT:
                    texts[done] = lines
                    done += 1
            at += 1
            continue
        begin = at
        while keep[buffer[at]]:
            at += 1
        address, length = base + np.uint64(begin), at - begin
        word, slot = find_word(table, buffer, starts, address, length)
        if word < 0:
            first, second = word_key(address, np.uint64(length))
            table[slot, 0], table[slot, 1], table[slot, 2] = first, second, length
            table[slot, 3] = count + 1
            starts[count], lengths[count] = begin, length
            word = count
            count += 1
        ids[filled] = word
        filled += 1
    return count, filled, lines


@cached
def separate(buffer, end, classes, one, two, out):
    """Set the tokens of mteval-v13a apart by spaces; every text becomes ` text ` first. Returns the bytes written.

    The four rules of the script run one after the other, each from left to right over what the last one wrote, where a
    match is not looked at again: `..` is split differently from `. .`.

    Args:
        one, two: scratch of `MOST_GROWTH` times the longest text; out: as many times the buffer.
    """
    at, written = 0, 0
    while at < end:
        n = 0
        one[0] = 32
        n = 1
        while buffer[at] != END_OF_TEXT:
            byte = buffer[at]
            if classes[byte] == APART:
                one[n], one[n + 1], one[n + 2] = 32, byte, 32
                n += 3
            else:
                one[n] = byte
                n += 1
            at += 1
        at += 1
        one[n] = 32
        n += 1
        i, m = 0, 0
        while i < n:  # a stop after anything but a digit
            two[m] = one[i]
            m += 1
            if i + 1 < n and classes[one[i]] != DIGIT and classes[one[i + 1]] == STOP:
                two[m], two[m + 1], two[m + 2] = 32, one[i + 1], 32
                m, i = m + 3, i + 1
            i += 1
        i, n = 0, 0
        while i < m:  # a stop before anything but a digit
            if i + 1 < m and classes[two[i]] == STOP and classes[two[i + 1]] != DIGIT:
                one[n], one[n + 1], one[n + 2], one[n + 3] = 32, two[i], 32, two[i + 1]
                n, i = n + 4, i + 2
            else:
                one[n] = two[i]
                n, i = n + 1, i + 1
        i = 0
        while i < n:  # a dash after a digit
            out[written] = one[i]
            written += 1
            if i + 1 < n and classes[one[i]] == DIGIT and one[i + 1] == 45:
                out[written], out[written + 1], out[written + 2] = 32, 45, 32
                written, i = written + 3, i + 1
            i += 1
        out[written] = END_OF_TEXT
        written += 1
    return written
