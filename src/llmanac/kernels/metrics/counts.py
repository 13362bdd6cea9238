# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
"""What two sequences of token ids have in common: n-grams, the longest common subsequence, ROUGE's union of them.

A sequence is a range of one array of ids, `[from, to)`. A pair is a hypothesis and a reference.
"""

import numpy as np

from llmanac.kernels.text import cached, mix, slots_for

NONE = -1
ONE = np.uint64(1)


@cached
def matched_ngrams(ids, hypotheses, references, ends, order):
    """(S, order) int64: how many n-grams of each hypothesis its references hold, each counted at most as often as in
    the reference that has most of it (Papineni et al. 2002).

    Args:
        ids: (T,) token ids, below 2^31.
        hypotheses: (S, 2) ranges; references: (R, 2) ranges; those of segment s are `[ends[s - 1], ends[s])`.

    An n-gram has the number of its first n - 1 tokens' n-gram and its last token as a key, so none is ever mistaken
    for another. What is looked up last long enough for one segment only: a slot counts if it has the segment's stamp.
    """
    segments = hypotheses.shape[0]
    longest, start = 0, 0
    for s in range(segments):
        total = 0
        for r in range(start, ends[s]):
            total += references[r, 1] - references[r, 0]
        longest, start = max(longest, total), ends[s]
    size = slots_for(longest * order)
    mask = np.uint64(size - 1)
    keys, numbers, stamps = np.empty(size, np.uint64), np.empty(size, np.int32), np.zeros(size, np.int64)
    most, now, of = np.empty(longest * order, np.int32), np.empty(longest * order, np.int32), np.empty(
        longest * order, np.int64
    )  # fmt: skip
    widest = 0
    for s in range(segments):
        widest = max(widest, hypotheses[s, 1] - hypotheses[s, 0])
    before = np.empty(max(longest, widest), np.int32)
    matches = np.zeros((segments, order), np.int64)
    start = 0
    for s in range(segments):
        grams, stamp = 0, s + 1
        for r in range(start, ends[s]):
            begin, length = references[r, 0], references[r, 1] - references[r, 0]
            for n in range(order):
                for i in range(length - n):
                    prefix = np.uint64(before[i] + 1) if n else np.uint64(0)
                    key = prefix << np.uint64(32) | np.uint64(ids[begin + i + n])
                    slot = mix(key) & mask
                    while stamps[slot] == stamp and keys[slot] != key:
                        slot = (slot + ONE) & mask
                    if stamps[slot] != stamp:
                        stamps[slot], keys[slot], numbers[slot] = stamp, key, grams
                        most[grams], now[grams], of[grams] = 0, 0, NONE
                        grams += 1
                    gram = numbers[slot]
                    if of[gram] != r:
                        of[gram], now[gram] = r, 0
                    now[gram] += 1
                    most[gram] = max(most[gram], now[gram])
                    before[i] = gram
        begin, length = hypotheses[s, 0], hypotheses[s, 1] - hypotheses[s, 0]
        for n in range(order):
            found = 0
            for i in range(length - n):
                if n and before[i] == NONE:
                    continue
                prefix = np.uint64(before[i] + 1) if n else np.uint64(0)
                key = prefix << np.uint64(32) | np.uint64(ids[begin + i + n])
                slot = mix(key) & mask
                while stamps[slot] == stamp and keys[slot] != key:
                    slot = (slot + ONE) & mask
                if stamps[slot] != stamp:
                    before[i] = NONE
                    continue
                gram = numbers[slot]
                before[i] = gram
                if most[gram] > 0:
                    most[gram] -= 1
                    found += 1
            matches[s, n] = found
        start = ends[s]
    return matches


@cached
def common_lengths(ids, vocabulary, hypotheses, references):
    """(P,) int64: the length of the longest common subsequence of each pair, 64 places of the reference at a time.

        V' = (V + (V & M)) | (V & ~M)

    V has a zero for every place of the reference where the length grows; M marks where a token occurs. Hyyrö 2004.
    A block of 64 places runs over the whole hypothesis and leaves the carries of its additions to the next block, so
    memory is a number for each word of the vocabulary and a bit for each token.
    """
    widest = 0
    for p in range(hypotheses.shape[0]):
        widest = max(widest, hypotheses[p, 1] - hypotheses[p, 0])
    marks, carries = np.zeros(vocabulary, np.uint64), np.empty(widest, np.uint64)
    found = np.zeros(hypotheses.shape[0], np.int64)
    for p in range(hypotheses.shape[0]):
        first, last = hypotheses[p, 0], hypotheses[p, 1]
        for j in range(last - first):
            carries[j] = 0
        for begin in range(references[p, 0], references[p, 1], 64):
            places = min(64, references[p, 1] - begin)
            for i in range(places):
                marks[ids[begin + i]] |= ONE << np.uint64(i)
            value = np.uint64(0xFFFFFFFFFFFFFFFF)
            for j in range(last - first):
                mark = marks[ids[first + j]]
                hit = value & mark
                added = value + hit
                carry = np.uint64(added < value)
                total = added + carries[j]
                carries[j] = carry | np.uint64(total < added)
                value = total | (value & ~mark)
            for i in range(places):
                found[p] += (value >> np.uint64(i) & ONE) == 0
                marks[ids[begin + i]] = 0
    return found


@cached
def union_hits(ids, vocabulary, breaks, hypotheses, references, table):
    """(P,) int64: for each pair, the tokens of reference lines that are in a longest common subsequence with some line
    of the hypothesis; a token counts at most as often as either side has it (Lin 2004, section 3.2, as ROUGE-1.5.5).

    Args:
        breaks: where the lines end; line k is `[breaks[k - 1], breaks[k])`.
        hypotheses, references: (P, 2) ranges of lines.
        table: int32 scratch for the largest (reference line + 1) times (hypothesis line + 1).

    Of several longest subsequences the one that is read back from the end is taken: a match first, then to the side
    where the length stays, the reference's in doubt.
    """
    found = np.zeros(hypotheses.shape[0], np.int64)
    mine, theirs = np.zeros(vocabulary, np.int32), np.zeros(vocabulary, np.int32)
    for p in range(hypotheses.shape[0]):
        one = 0 if hypotheses[p, 0] == 0 else breaks[hypotheses[p, 0] - 1]
        two = 0 if references[p, 0] == 0 else breaks[references[p, 0] - 1]
        one_end = one if hypotheses[p, 0] == hypotheses[p, 1] else breaks[hypotheses[p, 1] - 1]
        two_end = two if references[p, 0] == references[p, 1] else breaks[references[p, 1] - 1]
        for i in range(one, one_end):
            mine[ids[i]] += 1
        for i in range(two, two_end):
            theirs[ids[i]] += 1
        held = np.zeros(max(two_end - two, 1), np.uint8)
        top = two
        for line in range(references[p, 0], references[p, 1]):
            rows = breaks[line] - top
            left = one
            for other in range(hypotheses[p, 0], hypotheses[p, 1]):
                columns = breaks[other] - left
                width = columns + 1
                if rows and columns:
                    for j in range(width):
                        table[j] = 0
                    for i in range(rows):
                        above, here = i * width, (i + 1) * width
                        table[here] = 0
                        token = ids[top + i]
                        for j in range(columns):
                            if token == ids[left + j]:
                                table[here + j + 1] = table[above + j] + 1
                            else:
                                table[here + j + 1] = max(table[above + j + 1], table[here + j])
                    i, j = rows, columns
                    while i > 0 and j > 0:
                        if ids[top + i - 1] == ids[left + j - 1]:
                            held[top - two + i - 1] = 1
                            i, j = i - 1, j - 1
                        elif table[i * width + j - 1] > table[(i - 1) * width + j]:
                            j -= 1
                        else:
                            i -= 1
                left = breaks[other]
            top = breaks[line]
        for i in range(two, two_end):
            token = ids[i]
            if held[i - two] and mine[token] > 0 and theirs[token] > 0:
                found[p] += 1
                mine[token] -= 1
                theirs[token] -= 1
        for i in range(one, one_end):
            mine[ids[i]] = 0
        for i in range(two, two_end):
            theirs[ids[i]] = 0
    return found
