# mypy: disable-error-code="assignment, call-arg, call-overload"
# (numba types these functions itself)
"""Asking an n-gram trie in numba: the score of every token of a stream, and whole distributions.

The trie is flat (see `models/ngrams/trie.py`): node i < V is token i; the children of an inner node i are
first[i] .. first[i + 1] - 1, sorted by token. Streams are scored order by order, not token by token: no look-up then
waits for the one before it, so the processor overlaps their cache misses. Every index is checked against the arrays it
goes into, since a trie may come from a damaged file. `plain_score` is the form that the rest must equal.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from llmanac.kernels.text import cached, prefetch

ONE, TWO = np.uint64(1), np.uint64(2)
BLOCK = 2048  # tokens whose intermediate results stay in the cache
ZERO = -99.0  # the logarithm of 0, as in ARPA files


def plain_score(table: Mapping[tuple[int, ...], tuple[float, float]], context: Sequence[int], token: int) -> float:
    """log10 p(token | context) by the definition of a back-off model; `table`: n-gram -> (log10 p, log10 weight)."""
    gram = (*context, token)
    if gram in table:
        return table[gram][0]
    if not context:
        return ZERO
    return table.get(tuple(context), (0.0, 0.0))[1] + plain_score(table, context[1:], token)


@cached
def _search(words, low, high, word):
    """Where `word` is between two nodes that have one context, or -1."""
    stop = high
    while low < high:
        middle = (low + high) >> 1
        if words[np.uint64(middle)] < word:
            low = middle + 1
        else:
            high = middle
    if low < stop and words[np.uint64(low)] == word:
        return low
    return np.int64(-1)


@cached
def child(words, first, inner, node, word):
    """The node that `word` leads to from `node`, or -1."""
    if node < 0 or node >= inner:
        return np.int64(-1)
    low, high = np.int64(first[np.uint64(node)]), np.int64(first[np.uint64(node) + ONE])
    if low < 0 or high > words.shape[0]:
        return np.int64(-1)
    return _search(words, low, high, word)


@cached
def score_stream(words, first, logs, weights, order, uniform, tokens, place, scores, matched):
    """log10 p of every token given the tokens before it in its sequence.

    Args:
        uniform: log10 of the probability that a model without back-off gives what it has not seen; 0 for all others.
        tokens: (N,) int32, each below V. place: (N,) uint8 place in the sequence (0 has nothing before it).
        scores: (N,) float64, filled. matched: (N,) uint8, filled with the length of the n-gram that was found.
    """
    inner, total = weights.shape[0], words.shape[0]
    words_at, logs_at = np.uint64(words.ctypes.data), np.uint64(logs.ctypes.data)
    first_at, weights_at = np.uint64(first.ctypes.data), np.uint64(weights.ctypes.data)
    now, before = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
    low, high, weight = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64), np.empty(BLOCK, np.float64)
    value = np.empty(BLOCK, np.float64)
    start = np.int64(0)
    while start < tokens.shape[0]:
        # a block begins early enough that its first new token has its whole context in it
        begin = max(start - (order - 1), 0)
        n = min(BLOCK, tokens.shape[0] - begin)
        skip = start - begin
        for i in range(n):
            now[i] = tokens[begin + i]
        for i in range(skip, n):
            value[i] = logs[np.uint64(now[i])]
            matched[begin + i] = 1
        for length in range(2, order + 1):
            before, now = now, before
            now[0] = -1
            # one small loop after the other: each overlaps as many cache misses as the processor can
            for i in range(1, n):
                node = before[i - 1]
                known = place[begin + i] >= length - 1 and node >= 0 and node < inner
                low[i], high[i], weight[i] = 0, 0, 0.0
                if known:
                    at = np.uint64(node)
                    low[i], high[i] = max(first[at], 0), min(first[at + ONE], total)
                    weight[i] = weights[at]
                    prefetch(words_at + (np.uint64((low[i] + high[i]) >> 1) << TWO))
            for i in range(1, n):
                now[i] = -1
                if low[i] < high[i]:
                    found = _search(words, low[i], high[i], tokens[begin + i])
                    now[i] = found
                    if found >= 0:
                        ahead = np.uint64(found) << TWO
                        prefetch(logs_at + ahead)
                        if found < inner:
                            prefetch(first_at + ahead)
                            prefetch(weights_at + ahead)
            for i in range(max(skip, 1), n):
                found, at = now[i], begin + i
                if found >= 0:
                    value[i] = logs[np.uint64(found)]
                    matched[at] = length
                elif uniform == 0.0:
                    value[i] += weight[i]
                elif place[at] >= length - 1 and (length == order or place[at] == length - 1):
                    value[i] = uniform + weight[i]
                    matched[at] = 0
        for i in range(skip, n):
            scores[begin + i] = value[i]
        start = begin + n


@cached
def add_up(tokens, place, scores, matched, unknown, found):
    """Sums over what does not begin a sentence: (log10 p, that of known words, tokens, unknown ones).

    found: (order + 1,) int64, to which the tokens found at each length are added.
    """
    total, known, count, odd = 0.0, 0.0, 0, 0
    for i in range(tokens.shape[0]):
        if place[i] > 0:
            total += scores[i]
            count += 1
            found[matched[i]] += 1
            if tokens[i] == unknown:
                odd += 1
            else:
                known += scores[i]
    return total, known, count, odd


@cached
def contexts_of(words, first, inner, order, tokens, place, nodes):
    """Fill `nodes` (N, order - 1): column k has the node of the last k + 1 tokens up to each place, -1 for none."""
    for i in range(tokens.shape[0]):
        for k in range(order - 1):
            node = np.int64(-1)
            if place[i] >= k:
                if k == 0:
                    node = np.int64(tokens[i])
                else:
                    node = child(words, first, inner, nodes[i - 1, k - 1], tokens[i])
            nodes[i, k] = node if node < inner else -1


@cached
def score_targets(words, first, logs, weights, uniform, nodes, depth, targets, scores):
    """log10 p of `targets` (N,) after the contexts `nodes` (N, order - 1); `depth` (N,): tokens of context there are.

    A target below 0 is passed over (0 is written).
    """
    inner, length = weights.shape[0], nodes.shape[1]
    for i in range(targets.shape[0]):
        word = targets[i]
        if word < 0:
            scores[i] = 0.0
            continue
        value = np.float64(logs[word])
        whole = min(length, depth[i])
        for k in range(whole):
            node = nodes[i, k]
            found = child(words, first, inner, node, word)
            if found >= 0:
                value = logs[found]
            elif uniform != 0.0:
                if k == whole - 1:
                    value = uniform + (weights[node] if node >= 0 else 0.0)
            elif node >= 0:
                value += weights[node]
        scores[i] = value


@cached
def distributions(words, first, logs, weights, uniform, nodes, depth, out):
    """Fill `out` (N, V) float32 with the natural logarithm of p(every token | context)."""
    length, vocabulary = nodes.shape[1], out.shape[1]
    scale = np.log(10.0)
    for i in range(out.shape[0]):
        whole = min(length, depth[i])
        rest = 0.0  # the weights of all contexts longer than the one in turn
        if uniform != 0.0 and whole > 0:
            node = nodes[i, whole - 1]
            level = np.float32((uniform + (weights[node] if node >= 0 else 0.0)) * scale)
            for v in range(vocabulary):
                out[i, v] = level
        else:
            for k in range(whole):
                if nodes[i, k] >= 0:
                    rest += weights[nodes[i, k]]
            for v in range(vocabulary):
                out[i, v] = np.float32((logs[v] + rest) * scale)
        for k in range(whole):
            node = nodes[i, k]
            if node < 0 or (uniform != 0.0 and k < whole - 1):
                continue
            rest -= weights[node]
            low, high = max(np.int64(first[node]), 0), min(np.int64(first[node + 1]), words.shape[0])
            for j in range(low, high):
                if 0 <= words[j] < vocabulary:
                    shorter = rest if uniform == 0.0 else 0.0
                    out[i, words[j]] = np.float32((logs[j] + shorter) * scale)
