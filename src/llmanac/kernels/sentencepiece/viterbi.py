"""The best path through one word of a unigram model, in numba: plainly as the library finds it, and with its lead."""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.sentencepiece.trie import step
from llmanac.kernels.text import cached, character_length, inner

ROUNDING = (2.0**-52, 2.0**-23)  # relative error of one addition, twice over; of 64- and of 32-bit floats
MINUS_INFINITY = -np.inf
RESET = 100000.0  # a 32-bit sum beyond this is taken off all paths at hand, as the library does


@cached
def viterbi(buffer, start, stop, before, nodes, scores, unknown, unknown_score, single, best, came, what):
    """Fill `best[i]`, `came[i]`, `what[i]`: the best sum of a path to `start + i`, where its last piece starts, its id.

    Sums start at `before` and are rounded to 32-bit floats if `single`. Of equal paths the one found first stays.
    """
    length = stop - start
    for i in range(1, length + 1):
        came[i] = -1
    best[0] = before
    at, furthest = 0, 0
    while at < length:
        so_far = best[at]
        if single and abs(so_far) > RESET:
            for i in range(at, furthest + 1):
                if i == at or came[i] >= 0:
                    best[i] = np.float64(np.float32(best[i] - so_far))
            so_far = 0.0
        width = min(character_length(buffer[start + at]), length - at)
        alone = False
        node, end = np.int64(0), at
        while end < length:
            node = step(nodes, node, buffer[start + end])
            if node < 0:
                break
            end += 1
            piece = nodes[node, 1]
            if piece >= 0:
                furthest = max(furthest, end)
                total = scores[piece] + so_far
                if single:
                    total = np.float64(np.float32(total))
                if came[end] < 0 or total > best[end]:
                    best[end], came[end], what[end] = total, at, piece
                if end - at == width:
                    alone = True
        if not alone:
            end = at + width
            furthest = max(furthest, end)
            total = so_far + unknown_score
            if single:
                total = np.float64(np.float32(total))
            if came[end] < 0 or total > best[end]:
                best[end], came[end], what[end] = total, at, unknown
        at += width


@inner
def viterbi_with_lead(buffer, start, stop, nodes, scores, unknown, unknown_score, unit, best, second, came, what):
    """As `viterbi`, unrounded and from 0; returns the largest sum before the word up to which the path is the same."""
    length = stop - start
    for i in range(1, length + 1):
        best[i], second[i], came[i], what[i] = MINUS_INFINITY, MINUS_INFINITY, 0, unknown
    best[0] = 0.0
    at, characters, largest = 0, 0, 0.0
    while at < length:
        so_far = best[at]
        width = min(character_length(buffer[start + at]), length - at)
        alone = False
        node, end = np.int64(0), at
        characters += 1
        while end < length:
            node = step(nodes, node, buffer[start + end])
            if node < 0:
                break
            end += 1
            piece = nodes[node, 1]
            ends = piece >= 0  # (no branch: it could not be foreseen)
            total = scores[piece if ends else 0] + so_far if ends else MINUS_INFINITY
            largest = max(largest, abs(total) if ends else 0.0)
            alone = alone | (ends & (end - at == width))
            old = best[end]
            better = total > old
            second[end] = max(second[end], min(total, old))
            best[end] = total if better else old
            came[end] = at if better else came[end]
            what[end] = piece if better else what[end]
        if not alone:
            end = at + width
            total = so_far + unknown_score
            largest = max(largest, abs(total))
            second[end] = max(second[end], min(total, best[end]))
            if total > best[end]:
                best[end], came[end], what[end] = total, at, unknown
        at += width
    lead, end = np.inf, length
    while end > 0:
        lead = min(lead, best[end] - second[end])
        end = came[end]
    limit = lead / ((characters + 1) * unit) - largest
    return min(limit, RESET - 2 * largest - 1.0) if unit == ROUNDING[1] else limit


@inner
def path(length, came, what, ids, ends):
    """Read the path backwards into `ids` and the places where its pieces end; returns how many."""
    count, end = 0, np.int64(length)
    while end > 0:
        count += 1
        end = came[end]
    end = np.int64(length)
    for i in range(count - 1, -1, -1):
        ids[i], ends[i] = what[end], end
        end = came[end]
    return count
