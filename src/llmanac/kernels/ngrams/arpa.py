# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
"""The n-gram lines of ARPA files, in and out, in numba over bytes; sections and files: `models/ngrams/load.py`."""

import numpy as np

from llmanac.kernels.ngrams import text as lines
from llmanac.kernels.ngrams.query import ZERO, child
from llmanac.kernels.text import cached

LARGEST = 3.4028234e38


@cached
def read_grams(
    text, at, end, length, last, largest, table, blob, offsets, known, words, first, inner, owner, word, logs, weights,
    filled, wanted, starts, stops,
):  # fmt: skip
    """Parse lines `log10-p  w1 ... wn  [weight]` of one section, until it has `wanted` of them or the text ends.

    Args:
        length: n. last: whether no weight may follow. largest: what a weight may be at most.
        known: words in the table; a section of unigrams adds to them.
        words, first, inner: the trie of the shorter n-grams, where the contexts are looked up.
        owner, word, logs, weights: filled, from `filled` on. starts, stops: room for the fields of a line.

    Returns:
        (status, start of the line it stopped at, filled, known).
    """
    base = np.uint64(text.ctypes.data)
    while at < end:
        if filled >= wanted:
            return lines.DONE, at, filled, known
        stop = at
        fields = 0
        while stop < end and text[stop] != 10:  # the fields of the line
            if lines.is_space(text[stop]):
                stop += 1
                continue
            begin = stop
            while stop < end and not lines.is_space(text[stop]):
                stop += 1
            if fields < starts.shape[0]:
                starts[fields], stops[fields] = begin, stop
            fields += 1
        if stop >= end:
            return lines.DONE, at, filled, known  # a line that the text cuts off
        if fields == 0 or (fields <= 2 and text[starts[0]] == 92):
            return lines.END, at, filled, known
        if fields != length + 1 and fields != length + 2:
            return lines.FIELDS, at, filled, known
        if filled >= logs.shape[0] or 2 * (known + 1) > table.shape[0] or known + 2 > offsets.shape[0]:
            return lines.ROOM, at, filled, known
        value, good = lines.parse_number(text, starts[0], stops[0])
        if not good or not value < np.inf:
            return lines.NUMBER, at, filled, known
        if value > 0.0:
            return lines.POSITIVE, at, filled, known
        weight = 0.0
        if fields == length + 2:
            weight, good = lines.parse_number(text, starts[length + 1], stops[length + 1])
            if not good or not weight < LARGEST:
                return lines.NUMBER, at, filled, known
            if weight > largest:
                return lines.WEIGHT, at, filled, known
            if last and weight != 0.0:
                return lines.LAST_WEIGHT, at, filled, known
        node = np.int64(-1)
        own = np.int64(-1)
        for k in range(1, length + 1):
            address, size = base + np.uint64(starts[k]), stops[k] - starts[k]
            own, slot = lines.find_word(table, blob, offsets, address, size)
            if length == 1:
                if own >= 0:
                    return lines.AGAIN, at, filled, known
                if offsets[known] + size + 32 > blob.shape[0]:
                    return lines.ROOM, at, filled, known
                lines.add_word(table, blob, offsets, known, slot, address, size)
                own, known = known, known + 1
                break
            if own < 0:
                return lines.WORD, at, filled, known
            if k < length:
                node = own if k == 1 else child(words, first, inner, node, own)
                if node < 0:
                    return lines.CONTEXT, at, filled, known
        owner[filled], word[filled] = node, own
        logs[filled] = value if value > -LARGEST else ZERO
        weights[filled] = weight if weight > -LARGEST else ZERO
        filled, at = filled + 1, stop + 1
    return lines.DONE, at, filled, known


@cached
def write_grams(words, first, logs, weights, path, at, stop, blob, offsets, longest, order, uniform, bos, out):
    """Write the lines of the nodes from `at` to `stop` (all of one length) until `out` is full.

    Args:
        path: (length,) the node of each shorter n-gram that begins the one at `at`; moved along.
        longest: bytes of the longest word. order: of the model; its longest n-grams have no weight.
        uniform: see `score_stream`. Where it is not 0, an n-gram that a longer context may fall back to (it does not
            begin with `bos`) is written as uniform, so that the file says of whole contexts what the model says.
            `bos` itself, which is never predicted, is written with log10 p 0, as KenLM's lmplz does.

    Returns:
        (bytes written, the node that comes next).
    """
    length, used = path.shape[0], 0
    while at < stop:
        if used + 80 + length * (longest + 1) > out.shape[0]:
            return used, at
        path[length - 1] = at
        for k in range(length - 2, -1, -1):  # the node whose children hold the next one
            while path[k + 1] >= first[path[k] + 1]:
                path[k] += 1
        inside = uniform != 0.0 and words[path[0]] != bos
        log = uniform if inside and length < order else logs[at]
        if length == 1 and words[at] == bos and log <= ZERO:  # never predicted: lmplz gives it 1
            log = 0.0
        used = lines.write_number(log, out, used)
        for k in range(length):
            out[used] = 9 if k == 0 else 32
            used += 1
            word = words[path[k]]
            for i in range(offsets[word], offsets[word + 1]):
                out[used] = blob[i]
                used += 1
        if length < order:
            out[used] = 9
            used = lines.write_number(0.0 if inside and length < order - 1 else weights[at], out, used + 1)
        out[used] = 10
        used, at = used + 1, at + 1
    return used, at
