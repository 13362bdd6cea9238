"""Sorting more records than memory holds: sorted runs in files, merged block by block.

A record is a row of uint64 columns, ordered by the first, then the second, and so on. Nothing depends on how records
are spread over runs, so any memory gives the same order.
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from llmanac.core.errors import DataError

SMALLEST = 64  # records a run's buffer holds at least while merging


def scratch(decisions: Sequence[Path], name: str) -> Path:
    """A folder next to a stage's decisions, for runs that are sorted there."""
    first = decisions[0] if decisions else Path("decisions")
    return first.with_name(f"{first.name}.{name}")


def in_order(rows: np.ndarray) -> np.ndarray:
    """The (n, columns) rows, sorted."""
    if rows.shape[1] == 1:
        return np.sort(rows, axis=0)
    return rows[np.lexsort(rows.T[::-1])]


def sorted_rows(batches: Iterable[np.ndarray], columns: int, *, memory: int, folder: Path) -> Iterator[np.ndarray]:
    """All rows of the batches in order, as (n, columns) blocks.

    Args:
        batches: (n, columns) uint64 arrays, each small compared with `memory`.
        memory: bytes that may be held at once.
        folder: where the runs go; made and removed here.

    Raises:
        DataError: the memory is too small to merge even two runs.
    """
    width = columns * 8
    most = memory // (4 * width)  # a run, its order and its sorted copy are held at once
    together = most // SMALLEST  # runs that are merged at a time
    if together < 2:
        raise DataError("memory: too little to sort in; give 1MB or more")
    held: list[np.ndarray] = []
    count, runs = 0, 0
    shutil.rmtree(folder, ignore_errors=True)
    try:
        for batch in batches:
            at = 0
            while at < len(batch):
                part = batch[at : at + most - count]
                held.append(part)
                count += len(part)
                at += len(part)
                if count == most:
                    _spill(held, _run(folder, runs))
                    held, count, runs = [], 0, runs + 1
        if not runs:
            rows = in_order(np.concatenate(held)) if held else np.empty((0, columns), np.uint64)
            held = []
            for start in range(0, len(rows), most):
                yield rows[start : start + most]
            return
        if held:
            _spill(held, _run(folder, runs))
            held, runs = [], runs + 1
        paths = [_run(folder, i) for i in range(runs)]
        while len(paths) > together:
            group, paths = paths[:together], paths[together:]
            with open(_run(folder, runs), "wb") as handle:
                for rows in _merged(group, most // together, columns):
                    rows.tofile(handle)
            for path in group:
                path.unlink()
            paths.append(_run(folder, runs))
            runs += 1
        yield from _merged(paths, most // len(paths), columns)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, number: int) -> Path:
    return folder / f"run-{number:06}"


def _spill(held: list[np.ndarray], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    in_order(np.concatenate(held)).tofile(path)


def _merged(paths: list[Path], size: int, columns: int) -> Iterator[np.ndarray]:
    with contextlib.ExitStack() as stack:
        handles = [stack.enter_context(open(path, "rb")) for path in paths]
        buffers = [_next(handle, size, columns) for handle in handles]
        while live := [i for i, buffer in enumerate(buffers) if len(buffer)]:
            bound = min(tuple(buffers[i][-1].tolist()) for i in live)
            parts = []
            for i in live:
                taken = _not_above(buffers[i], bound)
                parts.append(buffers[i][:taken])
                buffers[i] = buffers[i][taken:]
                if not len(buffers[i]):
                    buffers[i] = _next(handles[i], size, columns)
            yield in_order(np.concatenate(parts))


def _next(handle: object, size: int, columns: int) -> np.ndarray:
    return np.fromfile(handle, np.uint64, size * columns).reshape(-1, columns)  # type: ignore[call-overload]


def _not_above(rows: np.ndarray, bound: tuple[int, ...]) -> int:
    """How many of the sorted rows are at or before `bound`: a binary search in each column in turn."""
    low, high = 0, len(rows)
    for column, value in enumerate(bound):
        part = rows[low:high, column]
        key = np.uint64(value)
        low, high = low + int(np.searchsorted(part, key, "left")), low + int(np.searchsorted(part, key, "right"))
    return high


def group_starts(rows: np.ndarray, keys: int, previous: tuple[int, ...] | None) -> np.ndarray:
    """(n,) bool: where a row's first `keys` columns differ from the row before (`previous`, for the first)."""
    new = np.ones(len(rows), bool)
    if len(rows):
        new[1:] = (rows[1:, :keys] != rows[:-1, :keys]).any(axis=1)
        new[0] = previous is None or tuple(rows[0, :keys].tolist()) != previous
    return new


def later_copies(records: Iterable[np.ndarray], keys: int, *, memory: int, folder: Path) -> Iterator[np.ndarray]:
    """Of records `(keys ..., position)`: `(position, first position with the same keys)` of all but the first."""
    previous: tuple[int, ...] | None = None
    first = np.uint64(0)
    for rows in sorted_rows(records, keys + 1, memory=memory, folder=folder):
        if not len(rows):
            continue
        new = group_starts(rows, keys, previous)
        opening = np.where(new, np.arange(len(rows)), 0)
        firsts = rows[np.maximum.accumulate(opening), keys]
        if not new[0]:
            firsts[: int(np.argmax(new)) if new.any() else len(rows)] = first
        previous, first = tuple(rows[-1, :keys].tolist()), firsts[-1]
        yield np.column_stack([rows[~new, keys], firsts[~new]])
