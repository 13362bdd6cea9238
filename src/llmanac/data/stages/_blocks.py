"""The files that corpus stages hand from step to step: named arrays in blocks, so that no reader holds a whole file.

A file is the arrays' bytes one after another, then a JSON index (what the file is, facts about it, where each array of
each block lies), the index's length in eight bytes, and a closing mark. A file without the mark was not written to its
end and is refused. The bytes depend on what was written only.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.files import atomic_file

MARK = b"llmanac1"


class BlockWriter:
    """Use as a context; `add` blocks of arrays in order."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = Path(path), what
        self.facts: dict[str, Any] = {}
        self._index: list[dict[str, list[Any]]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> BlockWriter:
        self._handle = self._stack.enter_context(atomic_file(self.path))
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
            index = {"what": self.what, "facts": self.facts, "blocks": self._index}
            data = json.dumps(index, sort_keys=True).encode("utf-8")
            self._handle.write(data + len(data).to_bytes(8, "little") + MARK)
        self._stack.__exit__(kind, error, trace)


class BlockReader:
    """Reads the arrays of a file one block at a time.

    Raises:
        DataError: the file is absent, was cut off, or was written by another stage or with other choices.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = Path(path)
        try:
            self._handle = open(self.path, "rb")  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise DataError(f"{path}: cannot read it ({error.strerror or error}); run the earlier step again") from None
        index = self._read_index()
        if index["what"] != what:
            self.close()
            raise DataError(f"{path}: holds {index['what']!r}, expected {what!r}; run the earlier step again")
        self.facts: dict[str, Any] = index["facts"]
        self._index: list[dict[str, list[Any]]] = index["blocks"]

    def _read_index(self) -> Any:
        size = self._handle.seek(0, os.SEEK_END)
        tail = len(MARK) + 8
        if size >= tail:
            self._handle.seek(size - tail)
            end = self._handle.read(tail)
            length = int.from_bytes(end[:8], "little")
            if end[8:] == MARK and length <= size - tail:
                self._handle.seek(size - tail - length)
                with contextlib.suppress(ValueError):
                    return json.loads(self._handle.read(length))
        self.close()
        raise DataError(f"{self.path}: not a whole file of this pipeline; delete it and run the earlier step again")

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
def opened(paths: Any, what: str) -> Iterator[list[BlockReader]]:
    """Readers of several files, closed together."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(BlockReader(path, what)) for path in paths]
