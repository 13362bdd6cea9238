"""Drawing a segmentation by its probability, and the n best ones, in numba.

With the scores s of the pieces and a sharpness a, a segmentation has probability proportional to exp(a * sum of s). Let

    b(i) = log of the sum over all segmentations of the rest from place i on of exp(a * sum of s),

found from the end backwards; then from the start, at place i, the piece to j is drawn with probability
exp(a * s + b(j) - b(i)). (Filtering from the front and drawing from the end is the same in the mirror; this way nothing
but b is kept, however long the text.) Words are independent, as for the best path, and a short one keeps its table of
draws, so drawing it again is a few comparisons.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

from heapq import heappop, heappush

import numpy as np

from llmanac.kernels.bpe.encode import HALF, LOW
from llmanac.kernels.sentencepiece.cut import BPE, TEXT_END, emit, word_end
from llmanac.kernels.sentencepiece.merge import drawn, merge
from llmanac.kernels.sentencepiece.trie import step
from llmanac.kernels.text import ONE, cached, character_length, grown, hash_of, inner, word_key

EXACT = 16  # bytes; longer words are not kept (their key would be a hash)
WORDS, FILLED = 0, 1
MOST_HYPOTHESES = 1 << 22


@inner
def _filter(buffer, start, stop, nodes, scores, unknown_score, alpha, rest, best):
    """Fill `rest[i]` with b(i) for each character of a word; with `best`, with the highest score of any path."""
    length = stop - start
    rest[length] = 0.0
    at = length
    while at > 0:
        at -= 1
        while at > 0 and buffer[start + at] & 0xC0 == 0x80:
            at -= 1
        width = min(np.int64(character_length(buffer[start + at])), length - at)
        node, end, alone, highest, total = np.int64(0), at, False, -np.inf, 0.0
        while True:
            if end < length and node >= 0:
                node = step(nodes, node, buffer[start + end])
            if end >= length or node < 0:
                if alone:
                    break
                alone, node, value = True, np.int64(-1), alpha * unknown_score + rest[at + width]
            else:
                end += 1
                piece = nodes[node, 1]
                if piece < 0:
                    continue
                alone = alone or end - at == width
                value = alpha * scores[piece] + rest[end]
            if best:
                highest = max(highest, value)
            elif value <= highest:
                total += np.exp(value - highest)
            else:
                total = total * np.exp(highest - value) + 1.0 if total > 0 else 1.0
                highest = value
            if node < 0:
                break
        rest[at] = highest if best else highest + np.log(total)


@inner
def _draw(buffer, start, stop, nodes, scores, unknown, unknown_score, alpha, rest, random, ids, ends):
    """Draw a path of one word by the `rest` of `_filter`; returns how many pieces it has."""
    length, at, count = stop - start, 0, 0
    while at < length:
        width = min(np.int64(character_length(buffer[start + at])), length - at)
        left = drawn(random)
        node, end, alone = np.int64(0), at, False
        ids[count], ends[count] = unknown, at + width
        while end < length:
            node = step(nodes, node, buffer[start + end])
            if node < 0:
                break
            end += 1
            piece = nodes[node, 1]
            if piece < 0:
                continue
            alone = alone or end - at == width
            left -= np.exp(alpha * scores[piece] + rest[end] - rest[at])
            ids[count], ends[count] = piece, end
            if left < 0:
                break
        if left >= 0 and not alone:
            ids[count], ends[count] = unknown, at + width
        at = ends[count]
        count += 1
    return count


@inner
def _table(buffer, start, stop, nodes, scores, unknown, unknown_score, alpha, rest, places, chances, filled):
    """Write the draws of a word: for each byte where its draws start, then `end, piece` and the chance up to each.

    Returns how many rows it takes, or 0 where there is no room.
    """
    length = stop - start
    row = filled + length
    at = 0
    while at < length:
        if row + length + 2 > places.shape[0]:
            return 0
        places[filled + at, 0] = row - filled
        width = min(np.int64(character_length(buffer[start + at])), length - at)
        node, end, alone, sum_so_far = np.int64(0), at, False, 0.0
        while end < length:
            node = step(nodes, node, buffer[start + end])
            if node < 0:
                break
            end += 1
            piece = nodes[node, 1]
            if piece < 0:
                continue
            alone = alone or end - at == width
            sum_so_far += np.exp(alpha * scores[piece] + rest[end] - rest[at])
            places[row, 0], places[row, 1], chances[row] = end, piece, sum_so_far
            row += 1
        if not alone:
            places[row, 0], places[row, 1] = at + width, unknown
            row += 1
        chances[row - 1] = 2.0  # whatever rounding left over is the last one's
        at += width
    return row - filled


@cached
def sample(
    buffer, used, kind, joins, nodes, scores, unknown, unknown_score, byte_ids, escape, kept, pairs, halves, alpha,
    random, cache, places, chances, counters,
):  # fmt: skip
    """Ids of the texts of a packed, normalised buffer, drawn anew. A BPE model drops each merge with chance `alpha`.

    Args:
        random: (1,) uint64, the state of the generator.
        cache, places, chances, counters: the bounded cache of words' draws, for this `alpha` only.
    """
    base, mask = np.uint64(buffer.ctypes.data), np.uint64(cache.shape[0] - 1)
    out, spans = (
        np.empty(used * (3 if escape and byte_ids.shape[0] > 0 else 1) + 2, np.int32),
        np.empty((0, 2), np.int64),
    )
    rest, ids, ends = np.empty(65, np.float64), np.empty(65, np.int32), np.empty(65, np.int64)
    filled, at, was_unknown = np.int64(0), np.int64(0), False
    while at < used:
        if buffer[at] == TEXT_END:
            at += 1
            was_unknown = False
            continue
        stop = word_end(buffer, at, joins)
        length = stop - at
        if length + 1 > rest.shape[0]:
            rest, ids, ends = grown(rest, length + 1), grown(ids, length + 1), grown(ends, length + 1)
        count = np.int64(0)
        if kind == BPE:
            count = merge(
                buffer, at, stop, nodes, kept, pairs, halves, scores.shape[0], unknown, alpha, random, ids, ends
            )
        elif length <= EXACT:
            first, other = word_key(base + np.uint64(at), np.uint64(length))
            slot = hash_of(first, other, np.uint64(length)) & mask
            while cache[slot, 2] != 0 and not (
                cache[slot, 0] == first and cache[slot, 1] == other and cache[slot, 2] & LOW == np.uint64(length)
            ):
                slot = (slot + ONE) & mask
            if cache[slot, 2] == 0:
                if counters[WORDS] * 2 >= cache.shape[0] or counters[FILLED] + 20 * length + 2 > places.shape[0]:
                    for i in range(cache.shape[0]):
                        cache[i, 2] = np.uint64(0)
                    counters[WORDS], counters[FILLED] = 0, 0
                    slot = hash_of(first, other, np.uint64(length)) & mask
                _filter(buffer, at, stop, nodes, scores, unknown_score, alpha, rest, False)
                rows = _table(
                    buffer, at, stop, nodes, scores, unknown, unknown_score, alpha, rest, places, chances,
                    counters[FILLED],
                )  # fmt: skip
                cache[slot, 0], cache[slot, 1] = first, other
                cache[slot, 2] = np.uint64(length) | (np.uint64(counters[FILLED]) << HALF)
                counters[WORDS] += 1
                counters[FILLED] += rows
            start = np.int64(cache[slot, 2] >> HALF)
            place, plain = 0, True
            while place < length:
                row = start + places[start + place, 0]
                left = drawn(random)
                while chances[row] <= left:
                    row += 1
                ids[count], ends[count] = places[row, 1], places[row, 0]
                plain = plain and ids[count] != unknown
                place = np.int64(places[row, 0])
                count += 1
            if plain:
                for i in range(count):
                    out[filled + i] = ids[i]
                filled += count
                was_unknown = False
                at = stop
                continue
        else:
            _filter(buffer, at, stop, nodes, scores, unknown_score, alpha, rest, False)
            count = _draw(buffer, at, stop, nodes, scores, unknown, unknown_score, alpha, rest, random, ids, ends)
        filled, was_unknown = emit(
            buffer, at, count, ids, ends, unknown, byte_ids, escape, was_unknown, out, spans, filled
        )
        at = stop
    return out[:filled]


# ------------------------------------------------------------------------------------------------ the n best
@cached
def n_best(buffer, stop, nodes, scores, unknown, unknown_score, most):
    """The `most` best paths of `buffer[:stop]` by A*: `(found, scores, starts, ids, ends)`.

    The path i is `ids[starts[i]:starts[i + 1]]`. What is left of a path is estimated by the best score that it can
    have, so paths come out best first. The search ends early with the paths it has after `MOST_HYPOTHESES` steps.
    """
    rest = np.empty(stop + 1, np.float64)
    _filter(buffer, 0, stop, nodes, scores, unknown_score, 1.0, rest, True)
    place, piece_of = np.empty(1024, np.int64), np.empty(1024, np.int32)
    parent, sums = np.empty(1024, np.int64), np.empty(1024, np.float64)
    place[0], piece_of[0], parent[0], sums[0] = 0, -1, -1, 0.0
    made, heap = 1, [(-rest[0], np.int64(0))]  # the top has the highest estimate and, of equal ones, was made last
    totals, starts, found = np.empty(most, np.float64), np.zeros(most + 1, np.int64), 0
    ids, ends = np.empty(1024, np.int32), np.empty(1024, np.int64)
    while len(heap) > 0 and found < most and (made < MOST_HYPOTHESES or found == 0):
        number = -heappop(heap)[1]
        at = place[number]
        if at == stop:
            count, one = 0, number
            while parent[one] >= 0:
                count += 1
                one = parent[one]
            first = starts[found]
            if first + count > ids.shape[0]:
                ids, ends = grown(ids, first + count), grown(ends, first + count)
            one = number
            for i in range(first + count - 1, first - 1, -1):
                ids[i], ends[i] = piece_of[one], place[one]
                one = parent[one]
            totals[found], starts[found + 1] = sums[number], first + count
            found += 1
            continue
        width = min(np.int64(character_length(buffer[at])), stop - at)
        node, end, alone = np.int64(0), at, False
        while True:
            if end < stop and node >= 0:
                node = step(nodes, node, buffer[end])
            if end >= stop or node < 0:
                if alone:
                    break
                alone, node, piece, score, reached = True, np.int64(-1), np.int32(unknown), unknown_score, at + width
            else:
                end += 1
                piece = nodes[node, 1]
                if piece < 0:
                    continue
                alone = alone or end - at == width
                score, reached = np.float64(scores[piece]), end
            if made == place.shape[0]:
                place, piece_of = grown(place, 2 * made), grown(piece_of, 2 * made)
                parent, sums = grown(parent, 2 * made), grown(sums, 2 * made)
            place[made], piece_of[made], parent[made], sums[made] = reached, piece, number, sums[number] + score
            heappush(heap, (-(sums[made] + rest[reached]), np.int64(-made)))
            made += 1
            if node < 0:
                break
    return found, totals, starts, ids, ends


@cached
def written(buffer, stop, ids, ends, unknown, byte_ids, escape):
    """The ids that a path is written as: unknown characters as bytes, or a run of them as one id."""
    out, spans = np.empty(3 * stop + 2, np.int32), np.empty((0, 2), np.int64)
    filled, _ = emit(buffer, 0, ids.shape[0], ids, ends, unknown, byte_ids, escape, False, out, spans, np.int64(0))
    return out[:filled]
