"""Every n-gram of a stream of tokens with its count, sorted, within a stated amount of memory.

While an order is counted it takes 14 bytes a token and about 64 a different n-gram; each finished order keeps 16 bytes
an n-gram. Counting stops with an error that names the order before it passes the limit, by default four fifths of
the free memory, so that the machine never swaps.
"""

from dataclasses import dataclass

import numpy as np

from llmanac.core.device import system_memory
from llmanac.core.errors import DataError, SpecError
from llmanac.core.progress import progress
from llmanac.kernels.ngrams import count as ngram_count
from llmanac.models.ngrams.trie import MAX_NODES, MAX_ORDER

TOKEN_BYTES, GRAM_BYTES, KEPT_BYTES = 14, 64, 32
FREE_FRACTION = 0.8
DIRECT = 1 << 23  # entries of a table without hashing


@dataclass(frozen=True)
class OrderCounts:
    """The n-grams of one length, sorted by (the n-gram without its last token, that token).

    Attributes:
        words: (n,) int32 the last token. counts: (n,) int32 occurrences.
        suffix: (n,) int32 index of the n-gram without its first token in the level below.
        starts: (n_below + 1,) int64 where the n-grams that continue each n-gram of the level below begin.
        initial: (n,) bool, whether it begins with the start token.
    """

    words: np.ndarray
    counts: np.ndarray
    suffix: np.ndarray
    starts: np.ndarray
    initial: np.ndarray

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class Counts:
    """All levels; `levels[k]` holds the (k + 1)-grams.

    Attributes:
        start: the token that begins each sequence and is context only, or None: then every token is an event.
        tokens: events counted.
    """

    levels: tuple[OrderCounts, ...]
    vocab_size: int
    start: int | None
    tokens: int

    @property
    def order(self) -> int:
        return len(self.levels)

    def continuations(self, level: int) -> np.ndarray:
        """(n,) how many different tokens precede each n-gram; the plain count of one that begins a sequence.

        The highest order has plain counts.
        """
        own = self.levels[level]
        if level == self.order - 1:
            return own.counts
        found = np.bincount(self.levels[level + 1].suffix, minlength=len(own)).astype(np.int32)
        if level:
            found[own.initial] = own.counts[own.initial]
        elif self.start is not None and own.counts[self.start] == 0:
            found[self.start] = 0
        return found

    def predictable(self) -> np.ndarray:
        """(V,) bool: tokens that may follow something: all, but for a start token that only ever begins a sequence."""
        allowed = np.ones(self.vocab_size, np.bool_)
        if self.start is not None and self.levels[0].counts[self.start] == 0:
            allowed[self.start] = False
        return allowed


def check_order(order: int, name: str = "order") -> int:
    """The order, if it can be counted. Raises SpecError otherwise."""
    if not 1 <= order <= MAX_ORDER:
        raise SpecError(f"{name}: {order} is not between 1 and {MAX_ORDER}")
    return order


def count(
    words: np.ndarray,
    place: np.ndarray,
    vocab_size: int,
    order: int,
    *,
    start: int | None = None,
    memory: int | None = None,
) -> Counts:
    """Count every n-gram up to `order` in a stream.

    Args:
        words: (N,) int32 tokens below `vocab_size`, sequence after sequence.
        place: (N,) uint8 position of each in its sequence, see `trie.places`.
        start: the token that every sequence begins with, where it is context and no event.
        memory: bytes that counting may take.

    Raises:
        DataError: there is nothing to count, or it would take more memory; the message says what to do.
    """
    check_order(order)
    limit = int(system_memory()[0] * FREE_FRACTION) if memory is None else memory
    if not len(words):
        raise DataError("an n-gram model needs text to count; there is none")
    if len(words) > MAX_NODES:
        raise DataError(f"{len(words):,} tokens are more than the {MAX_NODES:,} that can be counted; give less text")
    if int(words.min()) < 0 or int(words.max()) >= vocab_size:
        raise DataError(f"token ids from {int(words.min())} to {int(words.max())} do not fit {vocab_size} tokens")
    levels = [_unigrams(words, place, vocab_size, start)]
    ids, counts = words, np.bincount(words, minlength=vocab_size)
    rank = np.arange(vocab_size, dtype=np.int32)
    kept = vocab_size * KEPT_BYTES
    with progress("count n-grams", order, "orders") as bar:
        bar.advance(1)
        for length in range(2, order + 1):
            room = min((limit - TOKEN_BYTES * len(words) - kept) // GRAM_BYTES, MAX_NODES)
            found = _level(words, place, ids, counts, length, vocab_size, room)
            if found is None:
                raise DataError(_too_much(length, order, len(words), limit))
            above, counts, first = found
            level, rank = _sorted(words, place, ids, rank, counts, first, length, len(levels[-1]), vocab_size, start)
            levels.append(level)
            ids, kept = above, kept + len(level) * KEPT_BYTES
            bar.advance(1, **{f"{length}-grams": f"{len(level):,}"})
    if sum(map(len, levels)) > MAX_NODES:
        raise DataError(_too_much(order, order, len(words), limit))
    return Counts(tuple(levels), vocab_size, start, int(levels[0].counts.sum()))


def _level(
    words: np.ndarray, place: np.ndarray, below: np.ndarray, counts_below: np.ndarray, length: int, vocab_size: int,
    room: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:  # fmt: skip
    """(n-gram that ends at each place, counts, first place at which each ends); None for more than `room` of them."""
    ids = np.full(len(words), -1, np.int32)
    size = min(max(1 << 16, len(words) // 8), max(1, room))
    counts, first = np.empty(size, np.int32), np.empty(size, np.int32)
    at, n, held = 1, 0, 0
    entries = len(counts_below) * vocab_size
    direct = entries <= min(DIRECT, 4 * len(words))
    if direct:
        numbers = np.full(entries, -1, np.int32)
    else:
        again, table = np.empty(len(words), np.bool_), np.full((1 << 16, 2), -1, np.int64)
        ngram_count.occurs_again(below, counts_below, again)
    while True:
        if direct:
            at, n = ngram_count.count_level_directly(
                words, place, below, length, vocab_size, numbers, counts, first, ids, at, n
            )
        else:
            at, n, held = ngram_count.count_level(
                words, place, below, again, length, vocab_size, table, counts, first, ids, at, n, held
            )
        if at >= len(words):
            return ids, counts[:n].copy(), first[:n].copy()
        if n >= len(counts):
            if n >= room:
                return None
            size = min(2 * n, room)
            counts, first = (np.concatenate([a, np.empty(size - n, np.int32)]) for a in (counts, first))
        if not direct and 2 * held >= len(table):
            larger = np.full((2 * len(table), 2), -1, np.int64)
            ngram_count.twice_the_room(table, larger)
            table = larger


def _unigrams(words: np.ndarray, place: np.ndarray, vocab_size: int, start: int | None) -> OrderCounts:
    events = words if start is None else words[place > 0]
    counts = np.bincount(events, minlength=vocab_size).astype(np.int32)
    own, none = np.arange(vocab_size, dtype=np.int32), np.zeros(vocab_size, np.int32)
    return OrderCounts(own, counts, none, np.array([0, vocab_size]), own == (-1 if start is None else start))


def _sorted(
    words: np.ndarray, place: np.ndarray, below: np.ndarray, rank: np.ndarray, counts: np.ndarray, first: np.ndarray,
    length: int, owners: int, vocab_size: int, start: int | None,
) -> tuple[OrderCounts, np.ndarray]:  # fmt: skip
    """The level in its order, and the new number of each n-gram. `rank`: that of the level below."""
    last = words[first]
    owner = rank[below[first - 1]]
    order, starts = ngram_count.sorted_order(owner, last, owners, vocab_size)
    renamed = np.empty(len(order), np.int32)
    renamed[order] = np.arange(len(order), dtype=np.int32)
    at = first[order]
    initial = np.zeros(len(order), np.bool_)
    if start is not None:
        initial = (place[at] == length - 1) & (words[at - (length - 1)] == start)
    return OrderCounts(last[order], counts[order], rank[below[at]], starts, initial), renamed


def _too_much(length: int, order: int, tokens: int, limit: int) -> str:
    said = f"{tokens:,} tokens have more different {length}-grams than {limit / 1e9:.2f} GB of memory hold"
    lower = f"; use order {length - 1}" if length > 1 else ""
    return f"order {order}: {said}{lower}, less text, or a larger --memory"
