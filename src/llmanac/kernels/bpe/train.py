# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
"""Training byte-pair encoding in numba: the same merges as `BpeTrainer` of Hugging Face tokenizers, tie for tie.

The most frequent pair of neighbours is merged; of equally frequent ones the pair with the lower ids. Words stay flat in
one array: a token of n bytes keeps its id in its first and its last place, so both neighbours are one step away and
nothing ever moves. Each pair keeps lists of the places where it arose, so a merge visits only those; lists wait in
buckets by the magnitude of their count, and only the bucket in turn is a heap.

A merge whose bytes are a token already (a special token may equal a mergeable string) takes that token's id; then
`tokenizers` rescans whole words, and so does this.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from llmanac.core.progress import progress
from llmanac.kernels.bpe import parts
from llmanac.kernels.bpe.tokens import token_of, token_slot
from llmanac.kernels.text import borrowed, cached, grown, grown_rows


@cached
def _index_tokens(letters, starts, lengths, index, first_free):
    for token in range(first_free):
        if lengths[token] > 0:
            slot, key = token_slot(letters, starts, lengths, index, token, token, np.int64(lengths[token]))
            if index[slot, parts.NUMBER] == 0:
                index[slot, parts.KEY], index[slot, parts.NUMBER] = key, token + 1


@partial(cached, nogil=True)
def _learn(
    symbols, word_of, word_start, word_counts, letters, used, starts, lengths, tokens, token_index, pairs, n_pairs,
    lists, places, placed, vocab_size, min_count, status,
):  # fmt: skip
    """The loop: take the best pair, merge it, file the lists of the pairs that arose. Returns `(merges, visited)`.

    `status` is read and written by another thread: [0] how many tokens there are, [1] stop now if it is not 0.
    """
    symbols, word_of, word_start = borrowed(symbols), borrowed(word_of), borrowed(word_start)
    word_counts = borrowed(word_counts)
    starts, lengths, token_index, status = borrowed(starts), borrowed(lengths), borrowed(token_index), borrowed(status)
    n_lists = lists.shape[0]
    buckets, current = np.full(64, -1, np.int64), parts.ZERO
    heap, size = np.empty((1024, 3), np.int64), parts.ZERO
    for which in range(n_lists):
        bucket = parts.magnitude(parts.count_of(pairs, lists[which, parts.LIST_PAIR]))
        lists[which, parts.LIST_NEXT], buckets[bucket] = buckets[bucket], which
        current = max(current, bucket + 1)
    before, after = np.zeros((starts.shape[0], 4), np.int64), np.zeros((starts.shape[0], 4), np.int64)
    touched_0, touched_1 = np.empty(starts.shape[0], np.int64), np.empty(starts.shape[0], np.int64)
    arisen_0, arisen_1, done = (
        np.empty((1024, 2), np.int64),
        np.empty((1024, 2), np.int64),
        np.empty((1024, 4), np.int64),
    )
    stamps = np.full(word_counts.shape[0], -1, np.int64)
    made, merges, visited = np.empty((vocab_size, 4), np.int64), parts.ZERO, parts.ZERO
    while tokens < vocab_size and status[1] == 0:
        status[0] = tokens
        which, count, current, heap, size = parts.take_best(current, pairs, lists, buckets, heap, size)
        if which < 0 or count < max(1, min_count):
            break
        pair, start, n = lists[which, parts.LIST_PAIR], lists[which, parts.LIST_START], lists[which, parts.LIST_SIZE]
        left, right = pair >> 32, pair & parts.LOW
        new, letters = token_of(letters, used, starts, lengths, token_index, left, right, tokens)
        if new == tokens:
            tokens += 1
            used += lengths[new]
        if merges >= made.shape[0]:  # reused ids make more merges than tokens
            made = grown_rows(made, merges + 1)
        made[merges, 0], made[merges, 1], made[merges, 2], made[merges, 3] = left, right, new, count
        where = places
        if pairs[parts.pair_slot(pairs, left, right), parts.PAIR_COUNT] & parts.LISTS > 1:
            where, n = parts.rescan(
                places, start, n, symbols, word_of, word_start, lengths, left, right, stamps, merges
            )
            start = 0
        merges += 1
        visited += n
        if 2 * n > done.shape[0]:
            done, arisen_0, arisen_1 = grown_rows(done, 2 * n), grown_rows(arisen_0, 2 * n), grown_rows(arisen_1, 2 * n)
        n = parts.merge_places(where, start, n, symbols, word_of, word_counts, lengths, left, right, new, done)
        n_before, before_arisen = parts.note_before(done, n, lengths, new, before, touched_0, arisen_0)
        n_after, after_arisen = parts.note_after(done, n, new, after, touched_1, arisen_1)
        n = n_before + n_after
        if 2 * (n_pairs + 2 * n) > pairs.shape[0]:
            pairs = parts.rehashed_pairs(pairs, 2 * (n_pairs + 2 * n))
        parts.ask(touched_0, n_before, parts.ONE, left, new, pairs)
        parts.ask(touched_1, n_after, parts.ZERO, right, new, pairs)
        if n_lists + n > lists.shape[0]:
            lists = grown_rows(lists, n_lists + n)
        if size + n > heap.shape[0]:
            heap = grown_rows(heap, size + n)
        n_pairs = parts.lose(before, touched_0, n_before, parts.ONE, left, pairs, n_pairs)
        n_pairs = parts.lose(after, touched_1, n_after, parts.ZERO, right, pairs, n_pairs)
        n_pairs, n_lists, placed, size = parts.win(
            before, touched_0, n_before, parts.ONE, new, pairs, n_pairs, lists, n_lists, placed,
            current, buckets, heap, size,
        )  # fmt: skip
        n_pairs, n_lists, placed, size = parts.win(
            after, touched_1, n_after, parts.ZERO, new, pairs, n_pairs, lists, n_lists, placed,
            current, buckets, heap, size,
        )  # fmt: skip
        if placed > places.shape[0]:
            places = grown(places, placed)
        parts.place_lists(before, touched_0, n_before, arisen_0, before_arisen, places)
        parts.place_lists(after, touched_1, n_after, arisen_1, after_arisen, places)
    return made[:merges], visited


@dataclass(frozen=True)
class LearnedMerges:
    """`merges` (n, 4) int64: left, right, new, count, in the order learned; `visited`: places looked at (the work)."""

    merges: np.ndarray
    visited: int


def train(
    words: np.ndarray, offsets: np.ndarray, counts: np.ndarray, byte_ids: np.ndarray, reserved: Sequence[bytes],
    first_free: int, vocab_size: int, min_count: int = 0,
) -> LearnedMerges:  # fmt: skip
    """Learn merges until the vocabulary is full or no pair is left that occurs `min_count` times (and at least once).

    Args:
        words, offsets, counts: bytes of the distinct words, where each starts, (W,) int64 how often each occurs.
        byte_ids: (256,) int32 token of each byte.
        reserved: bytes of the tokens 0, 1, ... that exist before training; an empty one is never the result of a merge.
        first_free: the first id that a merge may take.
    """
    n_words, room = len(counts), vocab_size + 1
    symbols = np.full(len(words) + n_words + 1, parts.BOUNDARY, np.int32)
    word_of, word_start = np.full(len(symbols), -1, np.int32), np.empty(n_words, np.int32)
    totals, lists, places = _first_pairs(words, offsets, counts, byte_ids, symbols, word_of, word_start)

    data = bytes(range(256)) + b"".join(reserved)
    starts, lengths = np.zeros(room, np.int64), np.zeros(room, np.int32)
    lengths[: len(reserved)] = [len(token) for token in reserved]
    starts[: len(reserved)] = 256 + np.cumsum(lengths[: len(reserved)]) - lengths[: len(reserved)]
    starts[byte_ids], lengths[byte_ids] = np.arange(256), 1
    placed = int(lists[:, parts.LIST_SIZE].sum())
    layout = symbols, word_of, word_start, counts
    return learn(layout, data, starts, lengths, totals, lists, places, placed, first_free, vocab_size, min_count)


def learn(
    layout: tuple[np.ndarray, ...], data: bytes, starts: np.ndarray, lengths: np.ndarray, totals: np.ndarray,
    lists: np.ndarray, places: np.ndarray, placed: int, first_free: int, vocab_size: int, min_count: int,
) -> LearnedMerges:  # fmt: skip
    """Learn merges from words laid out in tokens and the pairs that occur in them.

    Args:
        layout: `symbols`, `word_of`, `word_start` and the words' counts.
        data: bytes of the tokens; `starts` and `lengths` (vocab_size + 1,) say where each token's are.
        totals, lists, places: how often each pair occurs, its list (`parts.LIST_*`), and `placed` places with room for
            more.
    """
    room = len(starts)
    letters = np.concatenate([np.frombuffer(data, np.uint8), np.empty(16 * (room - first_free), np.uint8)])
    token_index = np.zeros((max(1024, 1 << (4 * room).bit_length()), 2), np.int64)
    _index_tokens(letters, starts, lengths, token_index, first_free)
    pairs = np.zeros((max(1 << 16, 1 << (4 * len(lists)).bit_length()), 2), np.int64)
    _index_pairs(pairs, lists, totals)
    status = np.zeros(2, np.int64)
    run = partial(
        _learn, *layout, letters, len(data), starts, lengths, first_free, token_index, pairs, len(lists), lists,
        places, placed, vocab_size, min_count, status,
    )  # fmt: skip
    merges, visited = _watched(run, status, first_free, vocab_size)
    return LearnedMerges(merges, int(visited))


def _watched(learn: Callable[[], Any], status: np.ndarray, first: int, last: int) -> Any:
    """Learn in a thread of its own, so that progress shows and Ctrl-C is heard."""
    with progress("merge pairs", total=last - first, unit="merges") as bar, ThreadPoolExecutor(1) as pool:
        learning = pool.submit(learn)
        try:
            while not wait([learning], timeout=0.2).done:
                bar.update(max(0, int(status[0]) - first))
            return learning.result()
        finally:
            status[1] = 1


@cached
def _index_pairs(pairs, lists, totals):
    """Put the pairs of lists and their counts into a table."""
    for which in range(lists.shape[0]):
        key = lists[which, parts.LIST_PAIR]
        slot = parts.pair_slot(pairs, key >> 32, key & parts.LOW)
        pairs[slot, parts.PAIR_KEY], pairs[slot, parts.PAIR_COUNT] = key + 1, totals[which] << parts.COUNT_SHIFT | 1


@cached
def _first_pairs(words, offsets, counts, byte_ids, symbols, word_of, word_start):
    """Lay the words out in `symbols`; number the pairs of bytes that occur.

    Returns `(how often each occurs, a list for each, places)`: the lists' places one after the other, then room for
    more.
    """
    size, total = np.zeros(65536, np.int64), np.zeros(65536, np.int64)
    at = 1
    for word in range(counts.shape[0]):
        word_start[word] = at
        for i in range(offsets[word], offsets[word + 1]):
            symbols[at], word_of[at] = byte_ids[words[i]], word
            at += 1
            if i + 1 < offsets[word + 1]:
                code = np.int64(words[i]) * 256 + words[i + 1]
                size[code] += 1
                total[code] += counts[word]
        at += 1
    n = 0
    for code in range(65536):
        n += size[code] > 0
    totals, lists = np.empty(n, np.int64), np.empty((n, 4), np.int64)
    pair, placed = 0, 0
    for code in range(65536):
        if size[code] > 0:
            totals[pair] = total[code]
            lists[pair, parts.LIST_PAIR] = np.int64(byte_ids[code >> 8]) << 32 | byte_ids[code & 255]
            lists[pair, parts.LIST_START], lists[pair, parts.LIST_SIZE] = placed, size[code]
            placed += size[code]
            size[code] = placed - size[code]  # from here on: where its next place goes
            pair += 1
    places = np.empty(placed + 2 * symbols.shape[0] + 16, np.int32)
    for word in range(counts.shape[0]):
        at = np.int64(word_start[word])
        for i in range(offsets[word], offsets[word + 1] - 1):
            code = np.int64(words[i]) * 256 + words[i + 1]
            places[size[code]] = at
            size[code] += 1
            at += 1
    return totals, lists, places
