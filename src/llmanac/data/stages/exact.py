"""Exact duplicates: of all documents with one and the same text, the first stays.

A text is compared by 16 bytes of BLAKE2b over its UTF-8, so two different texts are taken for one with probability
2^-128 a pair. Nothing is normalised first: texts that differ in a space, in case or in Unicode form are different; put
a cleaning stage before this one, or use `minhash`.

Records `(hash, position)` are sorted, in files where they do not fit in memory; in each run of one hash the smallest
position stays. Cost: O(N log N) for N documents, 24 bytes a document on disk.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.data.dedup import text_key
from llmanac.data.documents import Document
from llmanac.data.stages import CorpusStage, Dropped, StageSpec
from llmanac.data.stages._blocks import BlockWriter, opened
from llmanac.data.stages._clusters import later_copies, scratch, sorted_rows
from llmanac.data.stages._positions import Positions, drop_matched, pack_names, write_drops

CARD = {
    "title": "Exact duplicates of whole documents",
    "aliases": {},
    "test": "tests/references/test_dedup_exact.py::test_kept_documents_equal_a_set_of_texts",
}

BLOCK = 4096  # documents


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """There is nothing to choose."""

    def build(self, **dims: Any) -> Exact:
        return Exact()


class Exact(CorpusStage):
    """Reasons: `exact-duplicate`."""

    def summarise(self, documents: Iterable[Document], summary: Path) -> None:
        """16 bytes a document, and its id."""
        with BlockWriter(summary) as writer:
            waiting = iter(documents)
            while batch := list(itertools.islice(((d.id, text_key(d.text)) for d in waiting), BLOCK)):
                keys = np.frombuffer(b"".join(key for _, key in batch), np.uint64).reshape(-1, 2)
                writer.add(keys=keys, **pack_names([name for name, _ in batch]))

    def decide(self, summaries: Sequence[Path], decisions: Sequence[Path], *, memory: int) -> dict[str, Any]:
        """Raises DataError for a memory that is too small to sort in."""
        with opened(summaries) as readers:
            positions = Positions(readers, "keys")
            pairs = later_copies(positions.keyed(), 2, memory=memory // 4, folder=scratch(decisions, "sorting-1"))
            dropped = 0

            def drops() -> Iterator[tuple[int, dict[str, Any]]]:
                nonlocal dropped
                for rows in sorted_rows(pairs, 2, memory=memory // 4, folder=scratch(decisions, "sorting-2")):
                    for position, first in rows.tolist():
                        dropped += 1
                        yield position, {"kept": positions.name(first)}

            write_drops(decisions, positions, drops())
            return {"documents": positions.total, "dropped": dropped, "kept": positions.total - dropped}

    def apply(self, documents: Iterable[Document], decisions: Path) -> Iterator[Document | Dropped]:
        return drop_matched(documents, decisions, "exact-duplicate", "of {kept}")
