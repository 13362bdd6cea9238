"""Hashed n-grams of a text and a linear model over them, in numba over code points.

Features of a text are its words, pairs of neighbouring words and the character n-grams inside words, each hashed into
one of 2^bits buckets; a bucket's value is `1 + log(count)`, and the vector has length 1.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import math

import numpy as np

from llmanac.kernels.english.classes import SPACE, WORD
from llmanac.kernels.text import cached, inner

ONE, MIX = np.uint64(1), np.uint64(0x9E3779B97F4A7C15)
SHIFT = np.uint64(29)


@inner
def _mixed(value):
    value = (value ^ (value >> SHIFT)) * MIX
    return value ^ (value >> SHIFT)


@inner
def _word_spans(text, classes):
    """Runs of letters and digits, and every other character that is no white space alone."""
    starts, ends = np.empty(text.shape[0], np.int64), np.empty(text.shape[0], np.int64)
    count, at, size = 0, 0, text.shape[0]
    while at < size:
        kind = classes[text[at]]
        if kind & SPACE:
            at += 1
            continue
        start = at
        at += 1
        if kind & WORD:
            while at < size and classes[text[at]] & WORD:
                at += 1
        starts[count], ends[count] = start, at
        count += 1
    return starts[:count], ends[:count]


@cached
def features(text, classes, bits, shortest, longest):
    """`(buckets, values)` of a text, buckets in ascending order.

    Args:
        text: (n,) uint32 code points.
        bits: there are 2^bits buckets.
        shortest, longest: lengths of the character n-grams; none where `longest` is 0.
    """
    starts, ends = _word_spans(text, classes)
    words = starts.shape[0]
    room = 2 * words
    if longest:
        room += text.shape[0] * (longest - shortest + 1)
    hashes = np.empty(room, np.uint64)
    count, before = 0, np.uint64(0)
    for word in range(words):
        value = np.uint64(0x51)
        for at in range(starts[word], ends[word]):
            value = _mixed(value + np.uint64(text[at]))
        hashes[count] = value
        count += 1
        if word:
            hashes[count] = _mixed(before * MIX + value)
            count += 1
        before = value
        if longest:
            for at in range(starts[word], ends[word]):
                value = np.uint64(0xC3)
                for end in range(at, min(at + longest, ends[word])):
                    value = _mixed(value + np.uint64(text[end]))
                    if end - at + 1 >= shortest:
                        hashes[count] = value
                        count += 1
    buckets = np.empty(count, np.int64)
    mask = np.uint64((1 << bits) - 1)
    for i in range(count):
        buckets[i] = np.int64((_mixed(hashes[i]) >> np.uint64(7)) & mask)
    buckets.sort()
    values = np.empty(count, np.float32)
    kept, at, square = 0, 0, 0.0
    while at < count:
        after = at
        while after < count and buckets[after] == buckets[at]:
            after += 1
        value = 1.0 + math.log(after - at)
        buckets[kept], values[kept] = buckets[at], value
        square += value * value
        kept += 1
        at = after
    if square > 0:
        scale = 1.0 / math.sqrt(square)
        for i in range(kept):
            values[i] = values[i] * scale
    return buckets[:kept].astype(np.int32), values[:kept].copy()


@cached
def linear(buckets, values, weights, bias):
    """The logit of a text."""
    total = bias
    for i in range(buckets.shape[0]):
        total += values[i] * weights[buckets[i]]
    return total


@cached
def train_epoch(order, starts, buckets, values, labels, shares, weights, squares, bias, rate, decay):
    """One pass of logistic regression by AdaGrad over texts in the given order, in place.

    Args:
        starts: (texts + 1,) where each text's features start in `buckets` and `values`.
        labels: (texts,) 0 or 1; shares: (2,) the weight of a negative and of a positive text.
        weights, squares: (2^bits,) float64; bias: (2,) float64, itself and its sum of squares.

    Returns:
        the mean weighted loss, in nats.
    """
    loss = 0.0
    for text in order:
        total = bias[0]
        for i in range(starts[text], starts[text + 1]):
            total += values[i] * weights[buckets[i]]
        label = labels[text]
        share = shares[label]
        probability = 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, total))))
        loss -= share * math.log(max(probability if label else 1.0 - probability, 1e-12))
        slope = share * (probability - label)
        bias[1] += slope * slope
        bias[0] -= rate * slope / (math.sqrt(bias[1]) + 1e-8)
        for i in range(starts[text], starts[text + 1]):
            bucket = buckets[i]
            gradient = slope * values[i] + decay * weights[bucket]
            squares[bucket] += gradient * gradient
            weights[bucket] -= rate * gradient / (math.sqrt(squares[bucket]) + 1e-8)
    return loss / order.shape[0]
