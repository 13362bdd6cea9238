"""Which groups of documents share so much text that they belong on one side of a split.

A held-out text that is also in the training text measures copying, not learning. Exact duplicates are dropped
before the split, but a chapter may be quoted in full inside another. Two groups are related when one has at least a
given fraction of the other's distinct sequences of eight words; relation carries over from pair to pair.

Memory is bounded: of the sequences' hashes, those in a fixed part of their range are kept, and the part is halved
whenever more than `KEPT` hashes are held (Broder 1997, "On the resemblance and containment of documents"). A corpus of
more than `KEPT` sequences is therefore looked at in a sample: what two groups share is then an estimate, and two small
groups of which hardly a sequence falls into the sample may be missed.
"""

import numpy as np

from llmanac.data.stages._signatures import Signer
from llmanac.kernels.dedup import minhash as kernel

WORDS = 8  # units of a sequence
KEPT = 4_000_000  # hashes held; below it every sequence counts
FEWEST = 8  # common sequences below which nothing is said; halved with the part that is kept, down to two
NEIGHBOURS = 7  # of the groups that share one sequence, each is paired with so many that follow it


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
        hashes = hashes[: np.searchsorted(hashes, self._limit, side="right")].copy()  # else all live on
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
        pairs, counts = self._common()
        ones, others = pairs // max(1, len(self.names)), pairs % max(1, len(self.names))
        fewest = max(2, FEWEST >> self._halvings)
        related = (counts >= fewest) & (counts >= self.share * np.minimum(sizes[ones], sizes[others]))
        parents = np.arange(len(self.names), dtype=np.int64)
        kernel.union(parents, ones[related], others[related])
        kernel.flatten(parents)
        found: dict[int, list[str]] = {}
        for name, number in self.names.items():
            found.setdefault(int(parents[number]), []).append(name)
        return list(found.values())

    def _common(self) -> tuple[np.ndarray, np.ndarray]:
        """`(pairs, counts)`: how many sequences two groups have in common, a pair as one number.

        Of a sequence that more than `NEIGHBOURS` groups have, each is paired with those that follow it next: copies of
        one text are linked in a chain, and pairs do not grow as the square.
        """
        found = [np.empty(0, np.int64)]
        for apart in range(1, NEIGHBOURS + 1):
            same = np.flatnonzero(self._hashes[apart:] == self._hashes[:-apart])
            found.append(self._groups[same] * len(self.names) + self._groups[same + apart])
        return np.unique(np.concatenate(found), return_counts=True)
