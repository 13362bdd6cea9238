"""What the quality filters count, in numba over the code points of a text: lines, bullets, repeats, repeated n-grams.

Lengths are in characters and ratios are taken in double precision, as the filters' reference takes them, so that a
decision at the very threshold is the same.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.english.affixes import hash_of
from llmanac.kernels.english.classes import LETTER, LINE_END, SPACE, SYMBOL, TERMINAL
from llmanac.kernels.text import cached, inner, slots_for

NEWLINE, RETURN, DOT, HASH, BULLET, DASH, ELLIPSIS = 10, 13, 46, 35, 0x2022, 45, 0x2026
ONE, MIX = np.uint64(1), np.uint64(0x9E3779B97F4A7C15)
PRIME = np.uint64((1 << 61) - 1)
BASE = np.uint64(0x1B873593CC9E2D51 % ((1 << 61) - 1))
LOW31, LOW30 = np.uint64((1 << 31) - 1), np.uint64((1 << 30) - 1)
S29, S30, S31, S61 = np.uint64(29), np.uint64(30), np.uint64(31), np.uint64(61)


@inner
def line_end(text, at, classes):
    """`(end of the line that starts at a place, start of the next)`, lines as `str.splitlines` has them."""
    size = text.shape[0]
    while at < size and not classes[text[at]] & LINE_END:
        at += 1
    if at + 1 < size and text[at] == RETURN and text[at + 1] == NEWLINE:
        return at, at + 2
    return at, at + 1


@inner
def stripped(text, start, end, classes):
    """`text[start:end]` without white space at either end."""
    while start < end and classes[text[start]] & SPACE:
        start += 1
    while end > start and classes[text[end - 1]] & SPACE:
        end -= 1
    return start, end


@inner
def _ends_in_ellipsis(text, start, end):
    if end - start >= 1 and text[end - 1] == ELLIPSIS:
        return True
    return end - start >= 3 and text[end - 1] == DOT and text[end - 2] == DOT and text[end - 3] == DOT


@cached
def quality_counts(text, starts, ends, classes, stop_words):
    """Nine counts: words that are not only symbols, their characters, `#`, ellipses, lines, lines that start with a
    bullet, lines that end in an ellipsis, words with a letter, different stop words.

    Args:
        starts, ends: (words,) where the words of the text are.
        stop_words: (stop words,) uint64 hashes.
    """
    out = np.zeros(9, np.int64)
    found = np.zeros(stop_words.shape[0], np.bool_)
    for word in range(starts.shape[0]):
        real, letter = False, False
        for at in range(starts[word], ends[word]):
            kind = classes[text[at]]
            real = real or kind & SYMBOL == 0
            letter = letter or kind & LETTER != 0
        if real:
            out[0] += 1
            out[1] += ends[word] - starts[word]
        out[7] += letter
        if letter and ends[word] - starts[word] <= 32:
            key = hash_of(text, starts[word], ends[word])
            for i in range(stop_words.shape[0]):
                found[i] = found[i] or stop_words[i] == key
    out[8] = found.sum()
    at, size = 0, text.shape[0]
    while at < size:
        if text[at] == HASH:
            out[2] += 1
        elif text[at] == ELLIPSIS:
            out[3] += 1
        elif text[at] == DOT and at + 2 < size and text[at + 1] == DOT and text[at + 2] == DOT:
            out[3] += 1
            at += 2
        at += 1
    at = 0
    while at < size:
        end, after = line_end(text, at, classes)
        start, stop = stripped(text, at, end, classes)
        out[4] += 1
        if start < stop:
            out[5] += text[start] == BULLET or text[start] == DASH
            out[6] += _ends_in_ellipsis(text, start, stop)
        at = after
    return out


@inner
def _is_new(keys, key):
    """Add a key to a set (a power of two of slots, 0 where free); False if it was there."""
    key = key if key else ONE
    mask = np.uint64(keys.shape[0] - 1)
    slot = ((key * MIX) >> S29) & mask
    while keys[slot]:
        if keys[slot] == key:
            return False
        slot = (slot + ONE) & mask
    keys[slot] = key
    return True


@inner
def _repeated(text, starts, ends):
    """`(how many spans repeat an earlier one, their characters)`."""
    keys = np.zeros(slots_for(starts.shape[0]), np.uint64)
    count, characters = 0, 0
    for i in range(starts.shape[0]):
        if not _is_new(keys, hash_of(text, starts[i], ends[i]) ^ (np.uint64(ends[i] - starts[i]) << S31)):
            count += 1
            characters += ends[i] - starts[i]
    return count, characters


@inner
def _split_at_newlines(text, start, end, fewest):
    """The spans between runs of at least `fewest` newlines; runs at the ends leave empty spans."""
    size, at = 1, start
    while at < end:
        size += text[at] == NEWLINE
        at += 1
    starts, ends = np.empty(size, np.int64), np.empty(size, np.int64)
    count, begin, at = 0, start, start
    while at < end:
        if text[at] != NEWLINE:
            at += 1
            continue
        after = at
        while after < end and text[after] == NEWLINE:
            after += 1
        if after - at >= fewest:
            starts[count], ends[count] = begin, at
            count += 1
            begin = after
        at = after
    starts[count], ends[count] = begin, end
    return starts[: count + 1], ends[: count + 1]


@cached
def repeated_lines(text, classes):
    """`(paragraphs, repeated, their characters, lines, repeated, their characters)`.

    Paragraphs are what two newlines and more separate in the stripped text, lines what one or more do.
    """
    start, end = stripped(text, 0, text.shape[0], classes)
    starts, ends = _split_at_newlines(text, start, end, 2)
    paragraphs, (twice, characters) = starts.shape[0], _repeated(text, starts, ends)
    starts, ends = _split_at_newlines(text, 0, text.shape[0], 1)
    lines, (lines_twice, line_characters) = starts.shape[0], _repeated(text, starts, ends)
    return paragraphs, twice, characters, lines, lines_twice, line_characters


@inner
def _top_n_gram(hashes, starts, ends, n, keys, counts, first):
    """Characters of all occurrences of the most frequent n-gram, the first to occur among equals."""
    grams = hashes.shape[0] - n + 1
    keys[:], counts[:] = 0, 0
    mask = np.uint64(keys.shape[0] - 1)
    best = -1
    for i in range(grams):
        key = hashes[i]
        for j in range(1, n):
            key = (key ^ (key >> S29)) * MIX + hashes[i + j]
        key = key if key else ONE
        slot = ((key * MIX) >> S29) & mask
        while keys[slot] and keys[slot] != key:
            slot = (slot + ONE) & mask
        if not keys[slot]:
            keys[slot], first[slot] = key, i
        counts[slot] += 1
        at = np.int64(slot)
        if best < 0 or counts[at] > counts[best] or (counts[at] == counts[best] and first[at] < first[best]):
            best = at
    length, i = n - 1, first[best]
    for j in range(i, i + n):
        length += ends[j] - starts[j]
    return length * counts[best]


@inner
def _times(a, b):
    """`a * b` modulo 2^61 - 1."""
    high_a, low_a, high_b, low_b = a >> S31, a & LOW31, b >> S31, b & LOW31
    middle = low_a * high_b + high_a * low_b
    total = ((high_a * high_b) << ONE) + (middle >> S30) + ((middle & LOW30) << S31) + low_a * low_b
    total = (total >> S61) + (total & PRIME)
    return total - PRIME if total >= PRIME else total


@inner
def _repeated_n_grams(sums, powers, lengths, n, keys):
    """Characters of the n-grams that repeat an earlier one, none counted twice.

    An n-gram is the string that its words make without blanks between them, as the reference has it; `sums[i]` is the
    polynomial hash of all words before the i-th.
    """
    keys[:] = 0
    characters, at, words = 0, 0, lengths.shape[0] - 1
    while at < words - n + 1:
        size = lengths[at + n] - lengths[at]
        key = sums[at + n] + PRIME - _times(sums[at], powers[size])
        key = key - PRIME if key >= PRIME else key
        if _is_new(keys, key ^ (np.uint64(size) << S61)):
            at += 1
        else:
            characters += size
            at += n
    return characters


@cached
def repeated_n_grams(text, starts, ends, top_limits, repeat_limits):
    """The first n-gram rule that a text breaks: `(n, share of its characters, whether it is a rule on the top n-gram)`.

    Args:
        top_limits: the highest share of characters in the most frequent 2-gram, 3-gram, ...; 0 is no limit.
        repeat_limits: the highest share of characters in repeated 5-grams, 6-grams, ...; 0 is no limit.

    Returns:
        n is 0 where no rule is broken.
    """
    words, size = starts.shape[0], text.shape[0]
    slots = slots_for(words)
    keys = np.empty(slots, np.uint64)
    counts, first = np.empty(slots, np.int32), np.empty(slots, np.int32)
    hashes = np.empty(words, np.uint64)
    for i in range(words):
        hashes[i] = hash_of(text, starts[i], ends[i]) * MIX
    for i in range(top_limits.shape[0]):
        n = i + 2
        if words >= n and top_limits[i] > 0:
            share = _top_n_gram(hashes, starts, ends, n, keys, counts, first) / size
            if share > top_limits[i]:
                return n, share, True
    lengths = np.zeros(words + 1, np.int64)
    sums = np.zeros(words + 1, np.uint64)
    longest = 0
    for i in range(words):
        lengths[i + 1] = lengths[i] + ends[i] - starts[i]
        value = sums[i]
        for at in range(starts[i], ends[i]):
            value = _times(value, BASE) + np.uint64(text[at]) + ONE
            value = value - PRIME if value >= PRIME else value
        sums[i + 1] = value
        longest = max(longest, lengths[i + 1] - lengths[max(0, i - repeat_limits.shape[0] - 4)])
    powers = np.empty(longest + 1, np.uint64)
    powers[0] = ONE
    for i in range(longest):
        powers[i + 1] = _times(powers[i], BASE)
    for i in range(repeat_limits.shape[0]):
        n = i + 5
        if words >= n and repeat_limits[i] > 0:
            share = _repeated_n_grams(sums, powers, lengths, n, keys) / size
            if share > repeat_limits[i]:
                return n, share, False
    return 0, 0.0, False


@cached
def line_counts(text, classes, short):
    """Lines that are not blank, of these: ending in terminal punctuation, short, characters in repeats; then newlines.

    Args:
        short: a line of at most so many characters is a short one.
    """
    starts, ends = _split_at_newlines(text, 0, text.shape[0], 1)
    newlines, kept, closed, brief = 0, 0, 0, 0
    for at in range(text.shape[0]):
        newlines += text[at] == NEWLINE
    for i in range(starts.shape[0]):
        first, last = stripped(text, starts[i], ends[i], classes)
        if first < last:
            starts[kept], ends[kept] = starts[i], ends[i]
            kept += 1
            closed += classes[text[ends[i] - 1]] & TERMINAL != 0
            brief += ends[i] - starts[i] <= short
    repeats = _repeated(text, starts[:kept], ends[:kept])[1]
    return kept, closed, brief, repeats, newlines
