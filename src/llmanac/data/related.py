"""Which groups of documents share so much text that they belong on one side of a split.

A held-out text that also stands in the training text measures copying, not learning. Exact duplicates are dropped
before the split, but a chapter may be quoted whole inside another. Two groups are related when one has at least a
given share of the other's distinct sequences of eight words; relation carries over from pair to pair.

Memory is bounded: of the sequences' hashes, those in a fixed part of their range are kept, and the part is halved
whenever more than `KEPT` hashes are held (Broder 1997, "On the resemblance and containment of documents").
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from llmanac.data.stages._signatures import Signer
from llmanac.kernels import minhash as kernel

WORDS = 8  # units of a sequence
KEPT = 4_000_000  # hashes held; below it every sequence counts
FEWEST = 8  # common sequences below which nothing is said
EVERY_PAIR = 8  # groups that share one sequence, up to which each pair of them is counted


class Relations:
    """Takes in groups' texts one by one; `components` says which belong together.

    Args:
        share: of the smaller group's sequences that the other must have, in (0, 1].
    """

    def __init__(self, share: float, kept: int = KEPT) -> None:
        self.share, self.kept = share, kept
        self.names: dict[str, int] = {}
        self._signer = Signer(1, WORDS, "words", "nfkc-lower", "fast", 0)
        self._halvings = 0
        self._hashes, self._groups = np.empty(0, np.uint64), np.empty(0, np.int64)  # distinct pairs, sorted
        self._new: list[tuple[np.ndarray, int]] = []
        self._waiting = 0

    def add(self, group: str, text: str) -> None:
        """Take in one document of a group."""
        number = self.names.setdefault(group, len(self.names))
        hashes = self._signer.sets(text)
        hashes = hashes[: np.searchsorted(hashes, self._limit, side="right")]
        self._new.append((hashes, number))
        self._waiting += len(hashes)
        if self._waiting > self.kept // 4:
            self._merge()

    @property
    def _limit(self) -> np.uint64:
        """The largest hash that is kept."""
        return np.uint64((1 << (64 - self._halvings)) - 1)

    def _merge(self) -> None:
        hashes = np.concatenate([self._hashes, *(new for new, _ in self._new)])
        groups = np.concatenate([self._groups, *(np.full(len(new), number) for new, number in self._new)])
        order = np.lexsort((groups, hashes))
        hashes, groups = hashes[order], groups[order]
        first = np.ones(len(hashes), bool)
        first[1:] = (hashes[1:] != hashes[:-1]) | (groups[1:] != groups[:-1])
        hashes, groups = hashes[first], groups[first]
        while len(hashes) > self.kept:
            self._halvings += 1
            hashes = hashes[: np.searchsorted(hashes, self._limit, side="right")]
        self._hashes, self._groups = hashes, groups[: len(hashes)]
        self._new, self._waiting = [], 0

    def components(self) -> list[list[str]]:
        """The groups that belong together, each component and all of them in the order in which they came."""
        self._merge()
        sizes = np.bincount(self._groups, minlength=len(self.names))
        counts: dict[tuple[int, int], int] = {}
        for members in self._shared():
            # of a sequence that very many have, each is paired with the first alone: else pairs grow as the square
            few = len(members) <= EVERY_PAIR
            pairs = itertools.combinations(members, 2) if few else ((members[0], other) for other in members[1:])
            for pair in pairs:
                counts[pair] = counts.get(pair, 0) + 1
        parents = np.arange(len(self.names), dtype=np.int64)
        related = [
            (one, other)
            for (one, other), count in counts.items()
            if count >= FEWEST and count >= self.share * min(sizes[one], sizes[other])
        ]
        if related:
            ones, others = np.array(related, np.int64).T
            kernel.union(parents, np.ascontiguousarray(ones), np.ascontiguousarray(others))
        kernel.flatten(parents)
        found: dict[int, list[str]] = {}
        for name, number in self.names.items():
            found.setdefault(int(parents[number]), []).append(name)
        return list(found.values())

    def _shared(self) -> Iterator[Sequence[int]]:
        """For each sequence that several groups have, their numbers in rising order."""
        hashes = self._hashes
        edges = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1], [True]]))
        for start in np.flatnonzero(np.diff(edges) > 1):
            yield self._groups[edges[start] : edges[start + 1]].tolist()
