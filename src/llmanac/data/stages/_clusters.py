"""From band keys to clusters of near-duplicates, with no more memory than given.

For each band the pairs `(key, position)` are sorted (in files where they do not fit); documents with one key are a
bucket. A bucket is joined by a star, every document with the first one, so a bucket of n identical documents costs n
edges, not n^2. Where candidates are verified a document is compared with the bucket's leaders: the first, and each
later one that matched no leader before it, at most `LEADERS` of them.

What is held is at most 80 bytes a document and four megabytes, far less than the signatures.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.progress import progress
from llmanac.data.stages._positions import Positions
from llmanac.data.stages._sorting import group_starts, later_copies, sorted_rows
from llmanac.kernels.dedup import minhash as kernel

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
