"""How similar two documents of a corpus are, read from the summaries, and what is said of every dropped one."""

import functools
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from llmanac.data.stages._positions import Positions
from llmanac.kernels.dedup import minhash as kernel

TENTHS = 10


class PairSimilarity:
    """Similarities of documents by their positions: estimated from signatures, or exact from the shingle sets."""

    def __init__(self, positions: Positions, by: Literal["signature", "exact"], threshold: float) -> None:
        self.positions, self.by, self.threshold = positions, by, threshold
        self._held = functools.lru_cache(maxsize=64)(self._set if by == "exact" else self._signature)
        self._tenths = np.zeros(TENTHS + 1, np.int64)
        self._below, self._sum = 0, 0.0

    def _signature(self, position: int) -> np.ndarray:
        reader, block, row = self.positions.locate(position)
        return reader.read(block, "signatures", row, row + 1)[0]

    def _set(self, position: int) -> np.ndarray:
        reader, block, row = self.positions.locate(position)
        ends = reader.read(block, "set_ends", max(0, row - 1), row + 1)
        return reader.read(block, "sets", int(ends[0]) if row else 0, int(ends[-1]))

    def similarity(self, one: int, other: int) -> float:
        """Of two positions: from 0 to 1."""
        left, right = self._held(one), self._held(other)
        return float(np.mean(left == right)) if self.by == "signature" else jaccard(left, right)

    def drops(self, kept: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        """For every document that goes, in order: its position, the id of the one that stays, their similarity."""
        for reader, block, start in self.positions.blocks():
            place = np.arange(start, start + reader.shape(block, "counts")[0])
            gone = place[kept[place] != place]
            if not len(gone):
                continue
            others = kept[gone]
            if self.by == "signature":
                own = reader.read(block, "signatures")[gone - start]
                distinct, which = np.unique(others, return_inverse=True)
                values = np.empty(len(gone))
                for i, other in enumerate(distinct.tolist()):
                    values[which == i] = (own[which == i] == self._held(other)).mean(axis=1)
            else:
                values = np.array([self.similarity(*pair) for pair in zip(gone.tolist(), others.tolist(), strict=True)])
            np.add.at(self._tenths, (values * TENTHS + 1e-9).astype(np.int64), 1)
            self._below += int((values < self.threshold).sum())
            self._sum += float(values.sum())
            for position, other, value in zip(gone.tolist(), others.tolist(), values.tolist(), strict=True):
                yield position, {"kept": self.positions.name(other), "similarity": round(value, 4)}

    def report(self) -> dict[str, Any]:
        """Over all documents that went: what their similarity to the one that stays is, and how many are below the
        threshold (joined by chance, or over a chain of others)."""
        count = int(self._tenths.sum())
        return {
            "by": "shingle sets" if self.by == "exact" else "signatures",
            "mean": round(self._sum / count, 4) if count else None,
            "below_threshold": self._below,
            "by_tenths": {f"{i / TENTHS:.1f}": n for i, n in enumerate(self._tenths.tolist()) if n},
        }

    def without_shingles(self) -> int:
        """Documents that have none."""
        return sum(int((reader.read(block, "counts") == 0).sum()) for reader, block, _ in self.positions.blocks())


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Of two sorted arrays without repeats: shared items over all items; 0 where both are empty."""
    shared = kernel.common(left, right)
    return shared / max(1, len(left) + len(right) - shared)
