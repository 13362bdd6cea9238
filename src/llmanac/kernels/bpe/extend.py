"""More merges for an existing byte-pair vocabulary: the trainer's loop, started from words cut into its tokens."""

from collections.abc import Sequence

import numpy as np

from llmanac.kernels.bpe.parts import BOUNDARY, INSIDE
from llmanac.kernels.bpe.train import LearnedMerges, learn


def learn_further(
    ids: np.ndarray, word_ends: np.ndarray, counts: np.ndarray, tokens: Sequence[bytes], first_free: int, extra: int
) -> LearnedMerges:
    """Learn up to `extra` merges of neighbouring tokens, the most frequent first, as `bpe_train.train` does.

    Args:
        ids: (tokens,) int32 the tokens of every distinct word, one word after the other.
        word_ends: (W,) int64 where each word's tokens end in `ids`.
        counts: (W,) int64 how often each word occurs.
        tokens: the bytes of each id; empty for one that no word holds.
        first_free: the id that the first merge takes.

    Returns:
        The merges; one whose bytes are a token already has that token's id.
    """
    room = first_free + extra + 1
    lengths = np.zeros(room, np.int32)
    lengths[: len(tokens)] = [len(data) for data in tokens]
    starts = np.zeros(room, np.int64)
    starts[: len(tokens)] = np.cumsum(lengths[: len(tokens)], dtype=np.int64) - lengths[: len(tokens)]

    per_word = np.diff(word_ends, prepend=0)
    word = np.repeat(np.arange(len(counts)), per_word)
    sizes = lengths[ids].astype(np.int64)
    places_of = 1 + np.cumsum(sizes) - sizes + word  # one boundary before every word
    last = places_of + sizes - 1
    symbols = np.full(int(sizes.sum()) + len(counts) + 1, BOUNDARY, np.int32)
    word_of = np.full(len(symbols), -1, np.int32)
    inside = np.repeat(places_of - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
    symbols[inside], word_of[inside] = INSIDE, np.repeat(word, sizes)
    symbols[places_of], symbols[last] = ids, ids
    word_start = np.zeros(len(counts), np.int32)
    firsts = word_ends - per_word
    word_start[per_word > 0] = places_of[firsts[per_word > 0]]

    joined = np.flatnonzero(word[:-1] == word[1:]) if len(ids) else np.empty(0, np.int64)
    keys, which = np.unique((ids[joined].astype(np.int64) << 32) | ids[joined + 1], return_inverse=True)
    total = np.zeros(len(keys), np.int64)
    np.add.at(total, which, counts[word[joined]])
    size = np.bincount(which, minlength=len(keys)).astype(np.int64)
    lists = np.zeros((len(keys), 4), np.int64)
    lists[:, 0], lists[:, 1], lists[:, 2] = keys, np.cumsum(size) - size, size
    places = np.empty(len(joined) + 2 * len(symbols) + 16, np.int32)
    places[: len(joined)] = places_of[joined[np.argsort(which, kind="stable")]]

    layout = symbols, word_of, word_start, counts
    return learn(
        layout, b"".join(tokens), starts, lengths, total, lists, places, len(joined), first_free, first_free + extra, 0
    )
