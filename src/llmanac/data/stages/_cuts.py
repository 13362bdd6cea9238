"""Decisions that are sorted numbers (which lines or byte ranges of a shard are cut): written and read as streams."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from llmanac.core.errors import DataError
from llmanac.data.stages._blocks import BlockReader, BlockWriter


def write_cuts(
    paths: Sequence[Path], sizes: Sequence[int], numbers: Iterable[np.ndarray], documents: Sequence[int]
) -> int:
    """Split sorted corpus-wide numbers into one file a shard.

    Args:
        sizes: how many numbers each shard has; shard s has those from `sum(sizes[:s])` on.
        numbers: (n, columns) blocks in ascending order of their first column; all columns are of one shard.
        documents: how many documents each shard has.

    Returns:
        How many rows were written.
    """
    blocks = iter(numbers)
    held = np.empty((0, 1), np.int64)
    start = total = 0
    for path, size, count in zip(paths, sizes, documents, strict=True):
        stop = start + size
        with BlockWriter(path) as writer:
            writer.facts = {"documents": count, "numbers": size}
            while True:
                inside = int(np.searchsorted(held[:, 0], stop))
                if inside:
                    writer.add(cuts=held[:inside] - start)
                    total += inside
                    held = held[inside:]
                if len(held):
                    break
                block = next(blocks, None)
                if block is None:
                    break
                held = block.astype(np.int64)
        start = stop
    return total


class Cuts:
    """Reads one shard's numbers in step with its documents."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with BlockReader(path) as reader:
            self.facts = reader.facts
        self._blocks = self._read()
        self._held = np.empty((0, 1), np.int64)

    def _read(self) -> Iterator[np.ndarray]:
        with BlockReader(self.path) as reader:
            for block in range(len(reader)):
                yield reader.read(block, "cuts")

    def within(self, start: int, stop: int) -> list[list[int]]:
        """The rows from `start` up to `stop` (by their first column), less `start`; ask for ascending ranges."""
        found: list[list[int]] = []
        while True:
            inside = int(np.searchsorted(self._held[:, 0], stop))
            found += (self._held[:inside] - start).tolist()
            self._held = self._held[inside:]
            if len(self._held):
                return found
            block = next(self._blocks, None)
            if block is None:
                return found
            self._held = block

    def check(self, documents: int, numbers: int) -> None:
        """Raises DataError where the shard has changed since it was summarised."""
        if (documents, numbers) != (self.facts["documents"], self.facts["numbers"]):
            raise DataError(
                f"{self.path}: decided over {self.facts['documents']} documents, the shard has {documents} "
                "or other text; summarise it again"
            )
