"""From band keys to clusters of near-duplicates, with no more memory than given.

For each band the pairs `(key, position)` are sorted (in files where they do not fit); documents with one key are a
bucket. A bucket is joined by a star, every document with the first one, so a bucket of n identical documents costs n
edges, not n^2. Where candidates are verified a document is compared with the bucket's leaders: the first, and each
later one that matched no leader before it, at most `LEADERS` of them.

What is held is at most 80 bytes a document and four megabytes, far less than the signatures.

Sorting more records than memory holds: sorted runs in files, merged block by block.

A record is a row of uint64 columns, ordered by the first, then the second, and so on. Nothing depends on how records
are spread over runs, so any memory gives the same order.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.progress import progress
from llmanac.data.stages._positions import Positions
from llmanac.kernels.dedup import minhash as kernel

SMALLEST = 64  # records a run's buffer holds at least while merging


def scratch(decisions: Sequence[Path], name: str) -> Path:
    """A folder next to a stage's decisions, for runs that are sorted there."""
    first = decisions[0] if decisions else Path("decisions")
    return first.with_name(f"{first.name}.{name}")


def in_order(rows: np.ndarray) -> np.ndarray:
    """The (n, columns) rows, sorted."""
    return np.sort(rows, axis=0) if rows.shape[1] == 1 else rows[np.lexsort(rows.T[::-1])]


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


LEADERS = 16
BYTES_A_DOCUMENT, BUFFERS = 80, 4_000_000

Similarity = Callable[[int, int], float]


@dataclass
class Clusters:
    """`parents[i]` is the smallest position in the cluster of the document at position i."""

    parents: np.ndarray
    compared: int = 0
    rejected: int = 0
    unchecked: int = 0  # documents that met more than LEADERS leaders in a bucket and matched none
    facts: dict[str, Any] = field(default_factory=dict)


def find_clusters(
    positions: Positions,
    bands: int,
    *,
    memory: int,
    folder: Path,
    similarity: Similarity | None = None,
    threshold: float = 0.0,
    ordered: bool = False,
) -> Clusters:
    """Join what shares a band.

    Args:
        positions: blocks with `keys` (bands, documents), `counts` (documents,), and `order` where `ordered` is set.
        similarity: of two positions; a candidate below `threshold` is not joined. None joins every candidate.
        ordered: compare in the order of `order`, which goes with the documents, instead of their positions.

    Raises:
        DataError: `memory` is too small for this many documents; the message says what it takes.
    """
    need = BYTES_A_DOCUMENT * positions.total + BUFFERS
    if memory < need:
        raise DataError(
            f"memory: {memory} bytes are too few to cluster {positions.total} documents; give {need} or more"
        )
    found = Clusters(np.arange(positions.total, dtype=np.int64))
    columns = 3 if ordered and similarity is not None else 2
    with progress("buckets", total=bands, unit="bands") as bar:
        for band in range(bands):
            records = _records(positions, band, columns)
            if similarity is None:
                for pairs in later_copies(records, 1, memory=memory // 4, folder=folder):
                    kernel.union(found.parents, *pairs[:, :2].T.astype(np.int64, order="C"))
            else:
                rows = sorted_rows(records, columns, memory=memory // 4, folder=folder)
                _join_verified(rows, found, similarity, threshold)
            bar.advance()
    kernel.flatten(found.parents)
    return found


def _records(positions: Positions, band: int, columns: int) -> Iterator[np.ndarray]:
    for reader, block, start in positions.blocks():
        keys = reader.read(block, "keys", band, band + 1)[0]
        some = reader.read(block, "counts") > 0
        place = np.arange(start, start + len(keys), dtype=np.uint64)
        middle = [reader.read(block, "order")] if columns == 3 else []
        yield np.column_stack([keys, *middle, place])[some]


def _join_verified(blocks: Iterator[np.ndarray], found: Clusters, similarity: Similarity, threshold: float) -> None:
    previous: tuple[int, ...] | None = None
    leaders: list[int] = []
    for rows in blocks:
        if not len(rows):
            continue
        new = group_starts(rows, 1, previous)
        previous = tuple(rows[-1, :1].tolist())
        followed = np.append(~new[1:], True)  # the last row's bucket may go on in the next block
        for i in np.flatnonzero(~new | followed).tolist():
            position = int(rows[i, -1])
            if new[i]:
                leaders = [position]
            elif not _matches_one(position, leaders, found, similarity, threshold):
                if len(leaders) < LEADERS:
                    leaders.append(position)
                else:
                    found.unchecked += 1


def _matches_one(position: int, leaders: list[int], found: Clusters, similarity: Similarity, threshold: float) -> bool:
    own = kernel.root_of(found.parents, position)
    if any(kernel.root_of(found.parents, leader) == own for leader in leaders):
        return True
    for leader in leaders:
        found.compared += 1
        if similarity(position, leader) >= threshold:
            kernel.union(found.parents, np.array([position]), np.array([leader]))
            return True
        found.rejected += 1
    return False


def representatives(positions: Positions, parents: np.ndarray, ordered: bool) -> np.ndarray:
    """(documents,) int64: the position of the document that stays for each; its own where it stays itself.

    The one with the smallest `order` stays, among equals the first; without an order, the first.
    """
    if not ordered:
        return parents
    least = np.full(len(parents), np.iinfo(np.uint64).max, np.uint64)
    for reader, block, start in positions.blocks():
        order = reader.read(block, "order")
        np.minimum.at(least, parents[start : start + len(order)], order)
    first = np.full(len(parents), len(parents), np.int64)
    for reader, block, start in positions.blocks():
        order = reader.read(block, "order")
        roots = parents[start : start + len(order)]
        chosen = np.flatnonzero(order == least[roots])
        np.minimum.at(first, roots[chosen], start + chosen)
    return first[parents]
