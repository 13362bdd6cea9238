"""Training a unigram model in numba: words and their stretches, seed pieces, expected counts, what a piece is worth.

Texts are reduced to the distinct stretches that pieces may not leave, with counts, so the work follows those and not
the corpus. Probabilities are multiplied as they are, with `PER_CHARACTER` for each character of a piece to keep the
products near 1; every path over a stretch has the same number of characters, so it divides out.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.sentencepiece.trie import step
from llmanac.kernels.sentencepiece.viterbi import viterbi
from llmanac.kernels.text import (
    ONE,
    cached,
    character_length,
    code_point,
    grown,
    grown_rows,
    hash_of,
    same_bytes,
    slots_for,
    word_key,
)

TEXT_END, BLANK = np.uint8(0xFF), np.uint8(0x20)
LONGEST_WORD = 4096  # bytes; what is longer is cut, so that memory stays bounded
PER_CHARACTER = 8.0  # what is added to a piece's log probability for each of its characters
SMALL, LARGE = 1e-100, 1e100
LEAST_EXPONENT = -400.0  # keeps a product of two from vanishing; learned scores are above -40
# Classes of characters: never in a piece, a space, a mark that goes with the character before it; then the scripts.
NEVER, SPACE, MARK, FIRST_SCRIPT = 0, 1, 2, 3
DROPPED, KEPT, CANDIDATE = 0, 1, 2


@cached
def space_words(buffer, used):
    """(words,) ends of the words of a packed buffer: a word starts with a run of spaces, or where a text starts."""
    ends = np.empty(used, np.int64)
    words, at = 0, 0
    while at < used:
        if buffer[at] == TEXT_END:
            at += 1
            continue
        stop = at + 1
        while buffer[stop] != TEXT_END and (buffer[stop] != BLANK or buffer[stop - 1] == BLANK):
            if stop - at >= LONGEST_WORD - 4 and buffer[stop] & 0xC0 != 0x80:
                break
            stop += 1
        ends[words] = stop
        words += 1
        at = stop
    return ends[:words]


@cached
def count_characters(letters, offsets, counts):
    """(0x110000,) int64 how often each character occurs in the words."""
    found = np.zeros(0x110000, np.int64)
    for word in range(counts.shape[0]):
        at = offsets[word]
        while at < offsets[word + 1]:
            found[code_point(letters, at)] += counts[word]
            at += character_length(letters[at])
    return found


@cached
def stretches(letters, offsets, counts, classes):
    """`(n, 2) starts and ends, (n,) counts` of the stretches of words that a piece may not leave.

    A piece holds characters of one script only, after at most one space.
    """
    found, total = np.empty((1024, 2), np.int64), np.empty(1024, np.int64)
    n = 0
    for word in range(counts.shape[0]):
        start, at = offsets[word], offsets[word]
        script = np.int64(-1)
        while at <= offsets[word + 1]:
            width, sort = np.int64(1), np.int64(NEVER)
            if at < offsets[word + 1]:
                width, sort = np.int64(character_length(letters[at])), np.int64(classes[code_point(letters, at)])
            cut = sort == NEVER or (sort == SPACE and at > start)
            cut = cut or (sort >= FIRST_SCRIPT and script >= 0 and sort != script)
            if cut:
                if at > start:
                    if n == total.shape[0]:
                        found, total = grown_rows(found, 2 * n), grown(total, 2 * n)
                    found[n, 0], found[n, 1], total[n] = start, at, counts[word]
                    n += 1
                start, script = at, np.int64(-1)
                if sort == NEVER:
                    start = at + width
            if sort >= FIRST_SCRIPT:
                script = sort
            at += width
    return found[:n], total[:n]


@cached
def distinct(letters, spans, counts):
    """`(letters, offsets, counts)` of the distinct stretches, in order of first occurrence; 32 bytes of padding."""
    size = slots_for(counts.shape[0])
    table, mask = np.zeros((size, 3), np.uint64), np.uint64(size - 1)
    base = np.uint64(letters.ctypes.data)
    first_of, total, n = np.empty(counts.shape[0], np.int64), np.zeros(counts.shape[0], np.int64), 0
    for i in range(counts.shape[0]):
        address, length = base + np.uint64(spans[i, 0]), spans[i, 1] - spans[i, 0]
        first, second = word_key(address, np.uint64(length))
        slot = hash_of(first, second, np.uint64(length)) & mask
        while True:
            held = np.int64(table[slot, 2]) - 1
            if held < 0:
                table[slot, 0], table[slot, 1], table[slot, 2] = first, second, np.uint64(n + 1)
                first_of[n], total[n] = i, counts[i]
                n += 1
                break
            other = first_of[held]
            same = table[slot, 0] == first and table[slot, 1] == second and spans[other, 1] - spans[other, 0] == length
            if same and same_bytes(base + np.uint64(spans[other, 0]), address, length):
                total[held] += counts[i]
                break
            slot = (slot + ONE) & mask
    offsets = np.zeros(n + 1, np.int64)
    for i in range(n):
        offsets[i + 1] = offsets[i] + spans[first_of[i], 1] - spans[first_of[i], 0]
    out = np.zeros(offsets[n] + 32, np.uint8)
    for i in range(n):
        for j in range(offsets[i + 1] - offsets[i]):
            out[offsets[i] + j] = letters[spans[first_of[i], 0] + j]
    return out, offsets, total[:n]


# ------------------------------------------------------------------------------------------------ seeds
@cached
def repeated(text, order, weights, longest):
    """(n, 3) `start, length, count` of the substrings of 2 to `longest` characters that occur at least twice.

    Args:
        text: code points of the stretches, each ended by a 0. order: the suffix array of `text`, which has to be right
            for the first `longest` characters only. weights: (len(text),) how often each place's stretch occurs.

    Of substrings that always occur together only the longest is returned: the inner nodes of the suffix tree, and its
    leaves where their stretch itself occurs more than once.
    """
    found, n = np.empty((1024, 3), np.int64), 0
    depths, sums = np.zeros(longest + 2, np.int64), np.zeros(longest + 2, np.int64)
    starts = np.zeros(longest + 2, np.int64)
    top = 0  # a stack of open intervals, each deeper than the one below
    sums[0], depths[0] = 0, 0
    for i in range(order.shape[0] + 1):
        common = 0
        if 0 < i < order.shape[0]:
            one, other = order[i - 1], order[i]
            while common < longest and text[one + common] == text[other + common] and text[one + common] != 0:
                common += 1
        if i > 0:  # the leaf before: everything up to its end
            length = np.int64(0)
            while length < longest and text[order[i - 1] + length] != 0:
                length += 1
            weight = weights[order[i - 1]]
            if depths[top] < length:
                top += 1
                depths[top], sums[top], starts[top] = length, weight, order[i - 1]
            else:
                sums[top] += weight
        while depths[top] > common:
            depth, total, start = depths[top], sums[top], starts[top]
            top -= 1
            if depth >= 2 and total >= 2:
                if n == found.shape[0]:
                    found = grown_rows(found, 2 * n)
                found[n, 0], found[n, 1], found[n, 2] = start, depth, total
                n += 1
            if depths[top] < common:
                top += 1
                depths[top], sums[top], starts[top] = common, total, start
            else:
                sums[top] += total
    return found[:n]


# ------------------------------------------------------------------------------------------------ expectation
@cached
def expectations(letters, offsets, counts, nodes, scores, widths, unknown_score, expected):
    """Add to `expected` how often each piece is used, over all paths by their probability; returns the log likelihood.

    Args:
        scores: (pieces,) log probabilities; widths: (pieces,) characters of each.
    """
    longest = np.int64(0)
    for word in range(counts.shape[0]):
        longest = max(longest, offsets[word + 1] - offsets[word])
    weights = np.empty(scores.shape[0], np.float64)
    for i in range(scores.shape[0]):
        weights[i] = np.exp(max(scores[i] + PER_CHARACTER * widths[i], LEAST_EXPONENT))
    unknown_weight = np.exp(max(unknown_score + PER_CHARACTER, LEAST_EXPONENT))
    forward, backward = np.empty(longest + 1, np.float64), np.empty(longest + 1, np.float64)
    scale = np.ones(longest + 1, np.float64)
    room = 64 * longest + 64
    begins, stops, pieces = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int32)
    likelihood = 0.0
    for word in range(counts.shape[0]):
        start, length = offsets[word], offsets[word + 1] - offsets[word]
        for i in range(length + 1):
            forward[i], backward[i] = 0.0, 0.0
        forward[0], backward[length] = 1.0, 1.0
        edges, at, furthest, scaled, log_scale, characters = 0, 0, 0, False, 0.0, 0
        while at < length:
            here = forward[at]
            if here < SMALL or here > LARGE:
                scale[at] = 1.0 / here
                for i in range(at, furthest + 1):
                    forward[i] *= scale[at]
                log_scale += np.log(here)
                here, scaled = 1.0, True
            width = np.int64(character_length(letters[start + at]))
            node, end, alone = np.int64(0), at, False
            while end < length:
                node = step(nodes, node, letters[start + end])
                if node < 0:
                    break
                end += 1
                piece = nodes[node, 1]
                if piece >= 0:
                    forward[end] += here * weights[piece]
                    begins[edges], stops[edges], pieces[edges] = at, end, piece
                    edges += 1
                    furthest = max(furthest, end)
                    alone = alone or end - at == width
            if not alone:
                end = at + width
                forward[end] += here * unknown_weight
                begins[edges], stops[edges], pieces[edges] = at, end, -1
                edges += 1
                furthest = max(furthest, end)
            at += width
            characters += 1
        total = forward[length]
        likelihood += counts[word] * (np.log(total) + log_scale - PER_CHARACTER * characters)
        factor = counts[word] / total
        for edge in range(edges - 1, -1, -1):
            begin, stop, piece = begins[edge], stops[edge], pieces[edge]
            value = backward[stop] * (weights[piece] if piece >= 0 else unknown_weight)
            if scaled:
                for i in range(begin + 1, stop + 1):
                    if i < length:
                        value *= scale[i]
            backward[begin] += value
            if piece >= 0:
                expected[piece] += forward[begin] * value * factor
        if scaled:
            for i in range(length + 1):
                scale[i] = 1.0
    return likelihood


# ------------------------------------------------------------------------------------------------ pruning
@cached
def usage(letters, offsets, counts, nodes, scores, unknown_score):
    """(pieces,) float64 how often each piece is on the best paths."""
    longest = np.int64(0)
    for word in range(counts.shape[0]):
        longest = max(longest, offsets[word + 1] - offsets[word])
    best, came, what = np.empty(longest + 1), np.empty(longest + 1, np.int32), np.empty(longest + 1, np.int32)
    used = np.zeros(scores.shape[0], np.float64)
    for word in range(counts.shape[0]):
        viterbi(
            letters, offsets[word], offsets[word + 1], 0.0, nodes, scores, -1, unknown_score, False, best, came, what
        )
        end = offsets[word + 1] - offsets[word]
        while end > 0:
            if what[end] >= 0:
                used[what[end]] += counts[word]
            end = np.int64(came[end])
    return used


@cached
def losses(letters, offsets, nodes, scores, unknown_score, used, total):
    """`(state, loss)` of each piece: DROPPED if better cut or never used, KEPT if nothing can replace it, else
    CANDIDATE, and how much log likelihood a token is lost when it is replaced by the best path without it.

    Args:
        letters, offsets: bytes of the pieces. used: how often each is on the best paths, `total` in all.
    """
    n = scores.shape[0]
    state, loss = np.zeros(n, np.int8), np.zeros(n, np.float64)
    longest = np.int64(0)
    for piece in range(n):
        longest = max(longest, offsets[piece + 1] - offsets[piece])
    best, came, what = np.empty(longest + 1), np.empty(longest + 1, np.int32), np.empty(longest + 1, np.int32)
    log_total = np.log(total)
    for piece in range(n):
        own, length = scores[piece], offsets[piece + 1] - offsets[piece]
        scores[piece] = -1e30
        viterbi(
            letters, offsets[piece], offsets[piece + 1], 0.0, nodes, scores, -1, unknown_score, False, best, came, what
        )
        scores[piece] = own
        end, others, replaceable = length, 0, True
        while end > 0:
            replaceable = replaceable and what[end] >= 0 and what[end] != piece
            others += 1
            end = np.int64(came[end])
        if not replaceable:
            state[piece] = KEPT if used[piece] > 0 else DROPPED
            continue
        if best[length] > own or used[piece] == 0:
            continue
        state[piece] = CANDIDATE
        log_after = np.log(total + used[piece] * (others - 1))
        without, end = 0.0, length
        while end > 0:
            without += np.log(used[what[end]] + used[piece]) - log_after
            end = np.int64(came[end])
        loss[piece] = used[piece] / total * (np.log(used[piece]) - log_total - without)
    return state, loss
