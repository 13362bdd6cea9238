"""English words and sentences as spaCy's blank English pipeline finds them, at native speed, in numba over UTF-32.

A text is cut at white space; from each piece prefixes and suffixes come off until none is left or a special case is
(`rules.py`), what remains is split at infixes unless it is a URL, and at last neighbouring words that together
spell a special case are joined. Filters that must decide as their reference does count these words.
`tests/references/test_english_words.py` compares them with spaCy's.
"""

# mypy: disable-error-code="assignment, call-arg, var-annotated"
# (numba types these functions itself)

import functools

import numpy as np

from llmanac.kernels.english.affixes import (
    borrowed_special,
    find_prefix,
    find_suffix,
    hash_of,
    infixes,
    is_url,
    special_at,
    table_of,
)  # fmt: skip
from llmanac.kernels.english.classes import ENDS_SENTENCE, PUNCTUATION, SPACE, table
from llmanac.kernels.english.rules import UNITS, special_cases
from llmanac.kernels.text import borrowed, cached, inner

BLANK = 32
NODES = np.uint64(0x9E3779B97F4A7C15)


@inner
def _emit(starts, ends, count, start, end):
    starts[count], ends[count] = start, end
    return count + 1


@inner
def _emit_special(starts, ends, count, start, which, special):
    """Add the words of a special case that starts at a place."""
    for part in range(special.parts_at[which], special.parts_at[which + 1]):
        count = _emit(starts, ends, count, start, start + special.parts[part])
        start += special.parts[part]
    return count


@inner
def _piece(text, start, end, classes, special, starts, ends, count, held):
    """Add the words of one piece of text without white space (or of nothing else); returns how many there are now."""
    suffixes, last = 0, -1
    while start < end and end - start != last:
        if special_at(text, start, end, special) >= 0:
            break
        last = end - start
        prefix = find_prefix(text, start, end, classes)
        if prefix and start + prefix < end and special_at(text, start + prefix, end, special) >= 0:
            count = _emit(starts, ends, count, start, start + prefix)
            start += prefix
            break
        suffix = find_suffix(text, start + prefix, end, classes, special)
        if suffix and start < end - suffix and special_at(text, start, end - suffix, special) >= 0:
            held[suffixes] = suffix
            suffixes += 1
            end -= suffix
            break
        if prefix:
            count = _emit(starts, ends, count, start, start + prefix)
            start += prefix
        if suffix:
            held[suffixes] = suffix
            suffixes += 1
            end -= suffix
    if start < end:
        which = special_at(text, start, end, special)
        if which >= 0:
            count = _emit_special(starts, ends, count, start, which, special)
        else:
            count = _split(text, start, end, classes, starts, ends, count)
    while suffixes:
        suffixes -= 1
        count = _emit(starts, ends, count, end, end + held[suffixes])
        end += held[suffixes]
    return count


@inner
def _split(text, start, end, classes, starts, ends, count):
    """Add the words of what is left between prefixes and suffixes: whole if it is a URL, else split at infixes."""
    at, length = infixes(text, start, start, end, classes)
    if length == 0 or is_url(text, start, end, classes):
        return _emit(starts, ends, count, start, end)
    first, done = start, start
    while length:
        if at != first:
            if at != done:
                count = _emit(starts, ends, count, done, at)
            count = _emit(starts, ends, count, at, at + length)
            done = at + length
        at, length = infixes(text, first, at + length, end, classes)
    if done < end:
        count = _emit(starts, ends, count, done, end)
    return count


@inner
def _span(text, start, end, in_space, classes, special, starts, ends, count, held):
    """Add a run of white space as one word, or the words of a piece of text."""
    if start >= end:
        return count
    if in_space:
        return _emit(starts, ends, count, start, end)
    return _piece(text, start, end, classes, special, starts, ends, count, held)


@inner
def tokenize(text, start, end, classes, special, starts, ends, held):
    """The words and runs of white space of `text[start:end]`, before special cases across words; returns their count.

    A single blank between two words is no word; any other white space is.
    """
    count, at, begin = 0, start, start
    if start == end:
        return 0
    in_space = classes[text[start]] & SPACE != 0
    while at < end:
        if (classes[text[at]] & SPACE != 0) != in_space:
            count = _span(text, begin, at, in_space, classes, special, starts, ends, count, held)
            begin = at + 1 if text[at] == BLANK else at
            in_space = not in_space
        at += 1
    return _span(text, begin, end, in_space, classes, special, starts, ends, count, held)


@inner
def _step(node, token, special):
    """The node of the tree of patterns that a word leads to, or -1."""
    key = token ^ (np.uint64(node) * NODES)
    mask = np.uint64(special.edges.shape[0] - 1)
    slot = (key ^ (key >> np.uint64(29))) & mask
    while special.nodes[slot] >= 0:
        if special.edges[slot] == key:
            return special.nodes[slot]
        slot = (slot + np.uint64(1)) & mask
    return -1


@inner
def _matches(text, starts, ends, count, special):
    """`(first word, words)` of every run of words that spells a special case, longest first, then leftmost."""
    found = [(0, 0)]
    found.clear()
    longest = 0
    for first in range(count):
        node, at = 0, first
        while at < count and ends[at] - starts[at] <= special.longest:
            node = _step(node, hash_of(text, starts[at], ends[at]), special)
            if node < 0:
                break
            at += 1
            if special.final[node]:
                found.append((first, at - first))
                longest = max(longest, at - first)
    return found, longest


@inner
def join(text, starts, ends, count, special, new_starts, new_ends):
    """Put special cases that rules have taken apart together again; returns `(words, whether anything changed)`."""
    found, longest = _matches(text, starts, ends, count, special)
    if not found:
        return count, False
    seen = np.zeros(count, np.bool_)
    chosen = np.zeros(count, np.int64)
    for length in range(longest, 0, -1):
        for first, words in found:
            if words == length:
                if not seen[first] and not seen[first + words - 1]:
                    chosen[first] = words
                for at in range(first, first + words):
                    seen[at] = True
    made, at = 0, 0
    while at < count:
        words = max(chosen[at], 1)
        start, end = starts[at], ends[at + words - 1]
        which = -1
        if chosen[at]:
            which = special_at(text, start, end, special)  # none where a blank is between the words
        if which >= 0:
            made = _emit_special(new_starts, new_ends, made, start, which, special)
        else:
            for one in range(at, at + words):
                made = _emit(new_starts, new_ends, made, starts[one], ends[one])
        at += words
    return made, True


@cached
def words(text, classes, special):
    """`(starts, ends)` of every word of a text, white space left out.

    Args:
        text: (n,) uint32 code points.
    """
    size = text.shape[0]
    starts, ends, held = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)
    new_starts, new_ends = np.empty(size, np.int64), np.empty(size, np.int64)
    letters, kinds, cases = borrowed(text), borrowed(classes), borrowed_special(special)
    first, last = borrowed(starts), borrowed(ends)
    count = tokenize(letters, 0, size, kinds, cases, first, last, borrowed(held))
    made, changed = join(letters, first, last, count, cases, borrowed(new_starts), borrowed(new_ends))
    held[:1] = 0  # (what is borrowed must be used once more to be kept)
    if changed:
        starts, ends, count = new_starts, new_ends, made
    kept = 0
    for at in range(count):
        if classes[text[starts[at]]] & SPACE == 0:
            starts[kept], ends[kept] = starts[at], ends[at]
            kept += 1
    return starts[:kept].copy(), ends[:kept].copy()


@cached
def sentences(text, line_starts, line_ends, classes, special):
    """How many sentences each line has: one starts with the first word after `.`, `!`, `?` that is not punctuation.

    Args:
        line_starts, line_ends: (lines,) where each line is in the text.
    """
    size = 0
    for line in range(line_starts.shape[0]):
        size = max(size, line_ends[line] - line_starts[line])
    starts, ends, held = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)
    new_starts, new_ends = np.empty(size, np.int64), np.empty(size, np.int64)
    counts = np.zeros(line_starts.shape[0], np.int64)
    letters, kinds, cases, room = borrowed(text), borrowed(classes), borrowed_special(special), borrowed(held)
    first, last, new_first, new_last = borrowed(starts), borrowed(ends), borrowed(new_starts), borrowed(new_ends)
    for line in range(line_starts.shape[0]):
        count = tokenize(letters, line_starts[line], line_ends[line], kinds, cases, first, last, room)
        made, changed = join(letters, first, last, count, cases, new_first, new_last)
        total, ended = 1 if count else 0, False
        for at in range(made):
            begin, end = (new_starts[at], new_ends[at]) if changed else (starts[at], ends[at])
            closes = end - begin == 1 and classes[text[begin]] & ENDS_SENTENCE != 0
            if closes:
                ended = True
            elif ended:
                marks = True
                for i in range(begin, end):
                    marks = marks and classes[text[i]] & PUNCTUATION != 0
                if not marks:
                    total += 1
                    ended = False
        counts[line] = total
    held[:1] = 0  # (what is borrowed must be used once more to be kept)
    return counts


def code_points(text: str) -> np.ndarray:
    """(n,) uint32 code points of a text; half surrogate pairs are code points too."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@cached
def _cut_by_rules(text, anyway, classes, bare, starts, ends, held):
    """How many parts the rules cut a special case into; 0 where they leave it whole. One kernel, so that it is kept."""
    size = text.shape[0]
    split = infixes(text, 0, 0, size, classes)[1] > 0
    split = split or find_prefix(text, 0, size, classes) > 0 or find_suffix(text, 0, size, classes, bare) > 0
    if not split and not anyway:
        return 0
    return tokenize(text, 0, size, classes, bare, starts, ends, held)


@functools.cache
def tables() -> tuple[np.ndarray, object]:
    """The classes of characters and the special cases, as the kernels take them."""
    classes = table()
    cases = special_cases()
    bare = table_of({}, UNITS)
    patterns = []
    for case in cases:
        text = code_points(case)
        starts, ends, held = (np.empty(len(text), np.int64) for _ in range(3))
        count = _cut_by_rules(text, " " in case, classes, bare, starts, ends, held)
        if count:
            patterns.append([case[a:b] for a, b in zip(starts[:count], ends[:count], strict=True)])
    return classes, table_of(cases, UNITS, patterns)
