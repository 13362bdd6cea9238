"""The lines of a text that C4 keeps, in numba over its code points: see `data/stages/c4.py` for the rules."""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.documents.filters import line_end, stripped
from llmanac.kernels.english.classes import DIGIT, SPACE
from llmanac.kernels.text import cached, inner

KEPT, LOREM_IPSUM, CURLY_BRACKET = 0, 1, 2
OPEN_BRACKET, CLOSE_BRACKET, CURLY, NEWLINE, DOT, KELVIN = 91, 93, 123, 10, 46, 0x212A
ENDS = tuple(ord(c) for c in ".?!\"'")
_CITATIONS = ("[edit]", "[citation needed]")
_PHRASES = ("lorem ipsum", "javascript", "terms of use", "privacy policy", "cookie policy", "uses cookies",
            "use of cookies", "use cookies")  # fmt: skip


def _rows(words: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.array([len(word) for word in words])
    rows = np.zeros((len(words), sizes.max()), np.uint32)
    for row, word in zip(rows, words, strict=True):
        row[: len(word)] = [ord(c) for c in word]
    return rows, sizes


CITATIONS, CITATION_SIZES = _rows(_CITATIONS)
PHRASES, PHRASE_SIZES = _rows(_PHRASES)


@inner
def _lower(c):
    """The small letter of a letter of ASCII, and of the one other whose small letter is in ASCII."""
    if 65 <= c <= 90:
        return c + np.uint32(32)
    return np.uint32(107) if c == KELVIN else c


@inner
def _citation(text, at, end, classes):
    """The length of `[12]`, `[]`, `[edit]` or `[citation needed]` at a place, or 0."""
    after = at + 1
    while after < end and classes[text[after]] & DIGIT:
        after += 1
    if after < end and text[after] == CLOSE_BRACKET:
        return after + 1 - at
    for row in range(CITATIONS.shape[0]):
        size = CITATION_SIZES[row]
        if at + size <= end:
            same = True
            for i in range(size):
                same = same and text[at + i] == CITATIONS[row, i]
            if same:
                return size
    return 0


@inner
def _phrase(out, at, end):
    """The number of the phrase at a place, in upper or lower case, or -1."""
    first = _lower(out[at])
    for row in range(PHRASES.shape[0]):
        size = PHRASE_SIZES[row]
        if first == PHRASES[row, 0] and at + size <= end:
            same = True
            for i in range(1, size):
                same = same and _lower(out[at + i]) == PHRASES[row, i]
            if same:
                return row
    return -1


@inner
def _word_sizes(text, start, end, classes):
    """`(words, characters of the longest)` between white space."""
    words, longest, size = 0, 0, 0
    for at in range(start, end):
        if classes[text[at]] & SPACE:
            size = 0
        else:
            words += size == 0
            size += 1
            longest = max(longest, size)
    return words, longest


@cached
def kept_lines(text, classes, min_words, max_word):
    """The lines that stay, without citations.

    Args:
        min_words: a line of fewer words goes; max_word: one with a longer word goes. A negative number is no limit.

    Returns:
        `(why, out, starts, ends)`: why is KEPT, or the reason why the whole text goes; line i of what stays is
        `out[starts[i] : ends[i]]`, and a newline is between two lines.
    """
    size, lines = text.shape[0], 0
    at = 0
    while at < size:
        at = line_end(text, at, classes)[1]
        lines += 1
    out = np.empty(size + lines, np.uint32)
    starts, ends = np.empty(lines, np.int64), np.empty(lines, np.int64)
    kept, used, at = 0, 0, 0
    while at < size:
        end, after = line_end(text, at, classes)
        first, last = stripped(text, at, end, classes)
        at = after
        words, longest = _word_sizes(text, first, last, classes)
        if max_word >= 0 and longest > max_word:
            continue
        begin = used
        while first < last:
            skip = _citation(text, first, last, classes) if text[first] == OPEN_BRACKET else 0
            if skip:
                first += skip
            else:
                out[used] = text[first]
                used += 1
                first += 1
        why, keep = _judge(out, begin, used, words, min_words)
        if why != KEPT:
            return why, out[:0], starts[:0], ends[:0]
        if keep:
            starts[kept], ends[kept] = begin, used
            kept += 1
            out[used] = NEWLINE
            used += 1
        else:
            used = begin
    return KEPT, out[: max(used - 1, 0)], starts[:kept], ends[:kept]


@inner
def _judge(out, begin, end, words, min_words):
    """`(why the whole text goes or KEPT, whether the line stays)`."""
    if begin == end:
        return KEPT, False
    last, closed = out[end - 1], False
    for i in range(len(ENDS)):
        closed = closed or last == ENDS[i]
    if not closed or (end - begin >= 3 and last == DOT and out[end - 2] == DOT and out[end - 3] == DOT):
        return KEPT, False
    if words < min_words:
        return KEPT, False
    script, curly, policy = False, False, False
    for at in range(begin, end):
        phrase = _phrase(out, at, end)
        if phrase == 0:
            return LOREM_IPSUM, False
        script = script or phrase == 1
        policy = policy or phrase > 1
        curly = curly or out[at] == CURLY
    if script:
        return KEPT, False
    if curly:
        return CURLY_BRACKET, False
    return KEPT, not policy
