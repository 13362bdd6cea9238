"""The files between the steps of corpus stages: named arrays in blocks, so that no reader holds a complete file.

A file is the arrays' bytes one after another, then a JSON index (facts about the file, and the place of each array of
each block), then the index's length in eight bytes. The bytes depend on what was written only. A file takes its name
when it is complete, and the pipeline compares its hash before it goes on with it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from llmanac.core.files import atomic_file


class BlockWriter:
    """Use as a context; `add` blocks of arrays in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {}
        self._index: list[dict[str, list[Any]]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> BlockWriter:
        self._handle = self._stack.enter_context(atomic_file(self.path, durable=False))
        return self

    def add(self, **arrays: np.ndarray) -> None:
        """Append one block."""
        entry = {}
        for name, array in arrays.items():
            entry[name] = [self._handle.tell(), array.dtype.str, list(array.shape)]
            self._handle.write(np.ascontiguousarray(array).data if array.size else b"")
        self._index.append(entry)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            data = json.dumps({"facts": self.facts, "blocks": self._index}, sort_keys=True).encode("utf-8")
            self._handle.write(data + len(data).to_bytes(8, "little"))
        self._stack.__exit__(kind, error, trace)


class BlockReader:
    """Reads the arrays of a file one block at a time."""

    def __init__(self, path: Path) -> None:
        self._handle = open(path, "rb")  # noqa: SIM115 (closed by `close`)
        end = self._handle.seek(-8, os.SEEK_END)
        length = int.from_bytes(self._handle.read(8), "little")
        self._handle.seek(end - length)
        index = json.loads(self._handle.read(length))
        self.facts: dict[str, Any] = index["facts"]
        self._index: list[dict[str, list[Any]]] = index["blocks"]

    def __len__(self) -> int:
        return len(self._index)

    def shape(self, block: int, name: str) -> tuple[int, ...]:
        """The shape of one array, without reading it."""
        return tuple(self._index[block][name][2])

    def read(self, block: int, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows `start:stop` of one array (its first axis)."""
        at, kind, shape = self._index[block][name]
        stop = shape[0] if stop is None else min(stop, shape[0])
        dtype = np.dtype(kind)
        row = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        self._handle.seek(at + start * row)
        data = self._handle.read(max(0, stop - start) * row)
        return np.frombuffer(data, dtype).reshape(-1, *shape[1:]) if len(shape) > 1 else np.frombuffer(data, dtype)

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def opened(paths: Iterable[Path]) -> Iterator[list[BlockReader]]:
    """Readers of several files, closed together."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(BlockReader(path)) for path in paths]
