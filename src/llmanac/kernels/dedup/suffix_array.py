"""Suffix arrays by induced sorting (SA-IS), and what repeats in a text, in numba. Time and memory are linear.

The suffixes of a text are of two types: a suffix is small (S) if it is less than the one that starts a character later,
else large (L). An S after an L starts a "leftmost S" block. Sorting those blocks sorts everything else in two sweeps;
the blocks are sorted by naming them and asking the same of the shorter text of names, which is at most half as long.

Nong, Zhang and Chan 2009, "Linear suffix array construction by almost pure induced-sorting". Longest common prefixes
after Kärkkäinen, Manzini and Puglisi 2009, "Permuted longest-common-prefix array".
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.text import cached, inner

BYTES_A_BYTE = 20  # what `suffix_array` and `mark_copies` hold at most for each byte of text
LONGEST = (1 << 31) - 2
APART = 0xFF  # separates texts; never inside a repeat


@cached
def _types_and_buckets(text, letters):
    """`(small (n,) uint8, starts of the S and of the L part of each letter's bucket)`."""
    n = text.shape[0]
    small = np.zeros(n, np.uint8)
    large_starts, small_starts = np.zeros(letters + 1, np.int32), np.zeros(letters + 1, np.int32)
    for i in range(n - 1, -1, -1):
        if i + 1 < n:
            if text[i] == text[i + 1]:
                small[i] = small[i + 1]
            elif text[i] < text[i + 1]:
                small[i] = 1
        if small[i]:
            small_starts[text[i]] += 1
        else:
            large_starts[text[i]] += 1
    at = 0
    for letter in range(letters + 1):
        large, little = large_starts[letter], small_starts[letter]
        large_starts[letter] = at
        small_starts[letter] = at + large
        at += large + little
    return small, small_starts, large_starts


@cached
def _leftmost(small):
    """(m,) int32: where the leftmost-S blocks start, in order."""
    count = 0
    for i in range(1, small.shape[0]):
        if small[i] and not small[i - 1]:
            count += 1
    out = np.empty(count, np.int32)
    count = 0
    for i in range(1, small.shape[0]):
        if small[i] and not small[i - 1]:
            out[count] = i
            count += 1
    return out


@cached
def _induce(text, small, small_starts, large_starts, leftmost, suffixes):
    """Sort all suffixes, given the leftmost-S ones in order (or, for the first round, in any)."""
    n = text.shape[0]
    suffixes[:] = -1
    place = small_starts.copy()
    for i in range(leftmost.shape[0]):
        position = leftmost[i]
        letter = text[position]
        suffixes[place[letter]] = position
        place[letter] += 1
    place = large_starts.copy()
    suffixes[place[text[n - 1]]] = n - 1
    place[text[n - 1]] += 1
    for i in range(n):
        before = suffixes[i] - 1
        if before >= 0 and not small[before]:
            letter = text[before]
            suffixes[place[letter]] = before
            place[letter] += 1
    # the S part of a bucket ends where the next bucket starts
    for letter in range(large_starts.shape[0] - 1):
        place[letter] = large_starts[letter + 1]
    place[large_starts.shape[0] - 1] = n
    for i in range(n - 1, -1, -1):
        before = suffixes[i] - 1
        if before >= 0 and small[before]:
            letter = text[before]
            place[letter] -= 1
            suffixes[place[letter]] = before


@inner
def _same_block(text, left, right, left_end, right_end):
    if left_end - left != right_end - right or max(left_end, right_end) >= text.shape[0]:
        return False
    for i in range(left_end - left + 1):  # noqa: SIM110 (numba has no generators)
        if text[left + i] != text[right + i]:
            return False
    return True


@cached
def _name_blocks(text, small, leftmost, suffixes):
    """`(names (m,) int32 in text order, distinct names)` of the blocks, which are sorted in `suffixes`."""
    n, m = text.shape[0], leftmost.shape[0]
    number = np.empty(n // 2 + 1, np.int32)  # of the block that starts at 2 i or 2 i + 1: two never start so close
    for i in range(m):
        number[leftmost[i] >> 1] = i
    names = np.empty(m, np.int32)
    last, name = -1, -1
    for i in range(n):
        position = suffixes[i]
        if position > 0 and small[position] and not small[position - 1]:
            block = number[position >> 1]
            if last < 0:
                name = 0
            else:
                end = leftmost[block + 1] if block + 1 < m else n
                last_end = leftmost[last + 1] if last + 1 < m else n
                if not _same_block(text, leftmost[last], position, last_end, end):
                    name += 1
            names[block] = name
            last = block
    return names, name + 1


def suffix_array(text: np.ndarray, letters: int = 255) -> np.ndarray:
    """(n,) int32: where the suffixes of a text start, in lexicographic order.

    Args:
        text: (n,) uint8 or int32, no value above `letters`, n at most `LONGEST`.
    """
    if not len(text):
        return np.empty(0, np.int32)
    suffixes = np.empty(len(text), np.int32)
    small, small_starts, large_starts = _types_and_buckets(text, letters)
    leftmost = _leftmost(small)
    _induce(text, small, small_starts, large_starts, leftmost, suffixes)
    if len(leftmost):
        names, distinct = _name_blocks(text, small, leftmost, suffixes)
        if distinct == len(names):  # the names are their order
            shorter = np.empty(distinct, np.int32)
            shorter[names] = np.arange(distinct, dtype=np.int32)
        else:
            shorter = suffix_array(names, distinct - 1)
        _induce(text, small, small_starts, large_starts, leftmost[shorter], suffixes)
    return suffixes


@cached
def prefixes_before(text, suffixes):
    """(n,) int32 by position: the letters that a suffix shares with the one before it in order, up to an APART."""
    n = text.shape[0]
    before = np.empty(n, np.int32)
    for i in range(n):
        before[suffixes[i]] = suffixes[i - 1] if i else -1
    shared = 0
    for position in range(n):
        other = before[position]
        if other < 0:
            shared = 0
        else:
            while (
                position + shared < n
                and other + shared < n
                and text[position + shared] == text[other + shared]
                and text[position + shared] != APART
            ):
                shared += 1
        before[position] = shared
        shared = max(0, shared - 1)
    return before


@cached
def mark_copies(suffixes, shared, minimum, gap, border, shift, copies):
    """Mark where a window of `minimum` letters starts that also starts earlier.

    Args:
        shared: from `prefixes_before`.
        gap: how much earlier it must start: 1, or `minimum` for windows that do not overlap.
        border, shift: positions from `border` on are `shift` further apart from those before it than they seem (the
            text in between is not at hand); only they are marked, at `copies[position - border]`.
    """
    n = suffixes.shape[0]
    start = 0
    while start < n:
        stop = start + 1
        while stop < n and shared[suffixes[stop]] >= minimum:
            stop += 1
        if stop - start > 1:
            first = np.int64(suffixes[start])
            for i in range(start + 1, stop):
                first = min(first, np.int64(suffixes[i]))
            away = np.int64(0) if first >= border else shift
            for i in range(start, stop):
                position = np.int64(suffixes[i])
                if position >= border and position + away - first >= gap:
                    copies[position - border] = 1
        start = stop


@cached
def covered(copies, minimum):
    """(ranges, 2) int64: the union of `[i, i + minimum)` over all i with `copies[i]`, as ranges in order."""
    count, end = 0, np.int64(-1)
    for i in range(copies.shape[0]):
        if copies[i]:
            if i > end:
                count += 1
            end = i + minimum
    out = np.empty((count, 2), np.int64)
    count, end = 0, np.int64(-1)
    for i in range(copies.shape[0]):
        if copies[i]:
            if i > end:
                out[count, 0] = i
                count += 1
            end = i + minimum
            out[count - 1, 1] = end
    return out
