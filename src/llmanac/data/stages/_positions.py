"""Positions of documents in a corpus of shards, and the files of decisions that drop some of them.

A document's position is its number in the corpus, shard after shard. A file of decisions is JSON Lines: how
many documents were decided over, then one line for each document that is dropped or cut, in order.
"""

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.files import atomic_file
from llmanac.data.documents import Document
from llmanac.data.stages import Dropped
from llmanac.data.stages._blocks import BlockReader


def pack_names(names: Sequence[str]) -> dict[str, np.ndarray]:
    """Document ids as two arrays of a block: their bytes, and where each ends."""
    data = [name.encode("utf-8", "surrogatepass") for name in names]
    ends = np.cumsum([len(name) for name in data], dtype=np.int64)
    return {"names": np.frombuffer(b"".join(data), np.uint8), "name_ends": ends}


class Positions:
    """Where the document at each position is; every block has an array `counted` with one entry a document."""

    def __init__(self, readers: Sequence[BlockReader], counted: str) -> None:
        self.readers = readers
        self.places = [(s, b) for s, reader in enumerate(readers) for b in range(len(reader))]
        sizes = [readers[s].shape(b, counted)[0] for s, b in self.places]
        self.starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.total = int(self.starts[-1])
        first = np.searchsorted([s for s, _ in self.places], np.arange(len(readers) + 1))
        self.shards = self.starts[first]  # where each shard starts, and the end
        self._names = functools.lru_cache(maxsize=8)(self._read_names)

    def keyed(self) -> Iterator[np.ndarray]:
        """Records `(key ..., position)` of the array `keys`, block by block."""
        for reader, block, start in self.blocks():
            keys = reader.read(block, "keys")
            yield np.column_stack([keys, np.arange(start, start + len(keys), dtype=np.uint64)])

    def blocks(self) -> Iterator[tuple[BlockReader, int, int]]:
        """`(reader, block, position of its first document)` in order."""
        for (shard, block), start in zip(self.places, self.starts.tolist(), strict=False):
            yield self.readers[shard], block, start

    def locate(self, position: int) -> tuple[BlockReader, int, int]:
        """`(reader, block, row)` of the document at a position."""
        place = int(np.searchsorted(self.starts, position, "right")) - 1
        shard, block = self.places[place]
        return self.readers[shard], block, position - int(self.starts[place])

    def _read_names(self, place: int) -> tuple[bytes, np.ndarray]:
        shard, block = self.places[place]
        reader = self.readers[shard]
        return reader.read(block, "names").tobytes(), reader.read(block, "name_ends")

    def name(self, position: int) -> str:
        """The id of the document at a position."""
        place = int(np.searchsorted(self.starts, position, "right")) - 1
        data, ends = self._names(place)
        row = position - int(self.starts[place])
        start = int(ends[row - 1]) if row else 0
        return data[start : int(ends[row])].decode("utf-8", "surrogatepass")


def write_drops(paths: Sequence[Path], positions: Positions, drops: Iterable[tuple[int, dict[str, Any]]]) -> None:
    """Write each shard's decisions; `drops` are `(position, what to note)` in order of position."""
    waiting = iter(drops)
    drop = next(waiting, None)
    for shard, path in zip(range(len(positions.readers)), paths, strict=True):
        start, stop = int(positions.shards[shard]), int(positions.shards[shard + 1])
        with atomic_file(path, durable=False) as handle:
            handle.write(decision_line({"documents": stop - start}))
            while drop is not None and drop[0] < stop:
                handle.write(decision_line({"document": drop[0] - start} | drop[1]))
                drop = next(waiting, None)


def decision_line(data: dict[str, Any]) -> bytes:
    """One line of a file of decisions."""
    return json.dumps(data, allow_nan=False).encode("ascii") + b"\n"


def matched(documents: Iterable[Document], path: Path) -> Iterator[tuple[Document, dict[str, Any] | None]]:
    """Each document with its decision, or None where there is none.

    Raises:
        DataError: the shard has other documents than when it was summarised (another number of them).
    """
    with open(path, "rb") as handle:
        decided = json.loads(handle.readline())["documents"]
        lines = map(json.loads, handle)
        line, count = next(lines, None), 0
        for document in documents:
            found = line is not None and line["document"] == count
            yield document, line if found else None
            if found:
                line = next(lines, None)
            count += 1
    if count != decided:
        raise DataError(f"{path}: decided over {decided} documents, the shard has {count}; summarise it again")


def drop_matched(documents: Iterable[Document], path: Path, reason: str, detail: str) -> Iterator[Document | Dropped]:
    """Drop the documents that have a decision; `detail` is a format over the decision's fields."""
    for document, decision in matched(documents, path):
        yield document if decision is None else Dropped(document, reason, detail.format(**decision))
