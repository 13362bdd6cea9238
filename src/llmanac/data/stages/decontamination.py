"""Decontamination: documents that hold text of an evaluation set are dropped, or lose that text with its surroundings.

An evaluation item is found in a document if they share `n` words in a row (13, as for GPT-3), or, for an item of fewer
words, all of it in a row; `data/overlap.py` says how words are compared and which items are too short. Every hit is
compared word by word. With `action = "cut"` the hit goes with `context` characters on both sides; what is left between
cuts stays if it has `min_piece` characters, joined by a blank line; a document in more than `max_pieces` pieces is
dropped, as by GPT-3. `max_documents` ignores n-grams that occur in more documents than that (GPT-3: 10): phrases of law
and liturgy, but also an item that leaked that often. It is off unless set.

The report names every item that was found and in how many documents. Memory: the index, about 55 bytes a word of the
evaluation set, in every process that summarises; a document's own words are looked up in pieces.

Brown et al. 2020, "Language models are few-shot learners", appendix C.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from llmanac.core.errors import DataError, SpecError
from llmanac.core.files import atomic_file
from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
from llmanac.data.documents import Document
from llmanac.data.evaluation_items import read_items
from llmanac.data.overlap import ItemIndex, original_ranges
from llmanac.data.stages import CorpusStage, Dropped, StageSpec
from llmanac.data.stages._blocks import BlockReader, BlockWriter, opened
from llmanac.data.stages._positions import decision_line, matched

CARD = {
    "title": "Decontamination: n-grams shared with evaluation sets",
    "paper": "Brown et al. 2020, Language models are few-shot learners, appendix C",
    "aliases": {},
    "test": "tests/references/test_contamination.py::test_every_planted_item_is_found_and_no_other",
}

BLOCK = 1 << 16  # hits
NAMED = 5  # items that the detail of a dropped document names


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """Which evaluation sets, what counts as found, and what happens then.

    Attributes:
        evaluation: files with the items (JSON Lines, JSON, CSV, Parquet; of plain text, each line is an item).
        columns: which columns hold an item; empty takes every text of a row.
        n: words in a row that an item and a document must share.
        shortest: an item of fewer than `n` words is searched in full if it has this many.
        action: "drop" the document, or "cut" the found text out of it.
        context: characters that are cut on both sides of what was found.
        min_piece: characters that a piece between cuts needs to stay.
        max_pieces: a document that cuts leave in more pieces is dropped.
        max_documents: ignore n-grams that are found in more documents than this.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        "smallest": "min_piece", "pieces": "max_pieces", "common": "max_documents",
    }  # fmt: skip

    evaluation: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    n: int = 13
    shortest: int = 4
    action: Literal["drop", "cut"] = "drop"
    context: int = 200
    min_piece: int = 200
    max_pieces: int = 10
    max_documents: int | None = None

    ranges = within(NOT_NEGATIVE, "context min_piece max_pieces") | within(COUNT, "max_documents")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.shortest <= self.n <= 1000:
            raise SpecError(f"shortest: {self.shortest} and n: {self.n} are not 1 <= shortest <= n <= 1000")

    def build(self, **dims: Any) -> Decontamination:
        return Decontamination(self)


class Decontamination(CorpusStage):
    """Reasons: `contaminated`."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    @functools.cached_property
    def index(self) -> ItemIndex:
        """The items' n-grams; read when first needed. Raises DataError for evaluation files that cannot be read."""
        if not self.spec.evaluation:
            raise DataError("evaluation: no file; name the evaluation sets to look for")
        return ItemIndex(read_items(self.spec.evaluation, self.spec.columns), self.spec.n, self.spec.shortest)

    def summarise(self, documents: Iterable[Document], summary: Path) -> None:
        """For each document with hits a block or more: rows `(start, stop, n-gram)`, in bytes of the prepared text."""
        with BlockWriter(summary) as writer:
            blocks: list[list[int]] = []  # of each document with hits: its number, and how many blocks it has
            count = 0
            for count, document in enumerate(documents, 1):
                hits = self.index.find(document.text)
                written = 0
                while batch := [(hit.start, hit.stop, hit.gram) for hit in itertools.islice(hits, BLOCK)]:
                    writer.add(hits=np.array(batch, np.int64))
                    written += 1
                if written:
                    blocks.append([count - 1, written])
            writer.facts |= {"documents": count, "blocks": blocks}

    def decide(self, summaries: Sequence[Path], decisions: Sequence[Path], *, memory: int) -> dict[str, Any]:
        found: Counter[int] = Counter()
        contaminated = 0
        with opened(summaries) as readers:
            ignored = self._ignored(readers)
            for reader, path in zip(readers, decisions, strict=True):
                with atomic_file(path, durable=False) as handle:
                    handle.write(decision_line({"documents": reader.facts["documents"]}))
                    for number, ranges, items in self._documents(reader, ignored):
                        found.update(items)
                        contaminated += 1
                        named = [self.index.items[item].id for item in items[:NAMED]]
                        line = {"document": number, "ranges": ranges, "items": len(items), "named": named}
                        handle.write(decision_line(line))
            total = sum(reader.facts["documents"] for reader in readers)
        looked = Counter(looked.by for looked in self.index.looked)
        return {
            "documents": total, "contaminated": contaminated, "n": self.spec.n, "index_bytes": self.index.nbytes,
            "items": len(self.index.items), "items_by_ngrams": looked["grams"], "items_whole": looked["whole"],
            "items_too_short": looked["too short"], "items_found": len(found), "ignored_ngrams": int(ignored.sum()),
            "found": {self.index.items[item].id: found[item] for item in sorted(found)},
        }  # fmt: skip

    def _documents(self, reader: BlockReader, ignored: np.ndarray) -> Iterator[tuple[int, list[list[int]], list[int]]]:
        """Of each document with hits that count: its number, the union of their ranges, the items found."""
        for number, rows in _hits(reader):
            ranges: list[list[int]] = []
            grams: set[int] = set()
            for block in rows:
                for start, stop, gram in block[~ignored[block[:, 2]]].tolist():
                    grams.add(gram)
                    while ranges and start <= ranges[-1][1]:  # hits come in order of where they end
                        start = min(start, ranges.pop()[0])
                    ranges.append([start, stop])
            if ranges:
                yield number, ranges, self.index.items_of(np.array(sorted(grams)))

    def _ignored(self, readers: Sequence[BlockReader]) -> np.ndarray:
        """(n-grams,) bool: which are in too many documents to count."""
        counts = np.zeros(self.index.grams, np.int64)
        if self.spec.max_documents is None:
            return counts > 0
        for reader in readers:
            for _, blocks in _hits(reader):
                own = np.zeros(self.index.grams, bool)
                for rows in blocks:
                    own[rows[:, 2]] = True
                counts += own
        return counts > self.spec.max_documents

    def apply(self, documents: Iterable[Document], decisions: Path) -> Iterator[Document | Dropped]:
        for document, decision in matched(documents, decisions):
            if decision is None:
                yield document
                continue
            detail = f"{decision['items']} evaluation items: {', '.join(decision['named'])}"
            yield (
                Dropped(document, "contaminated", detail)
                if self.spec.action == "drop"
                else self._cut(document, decision["ranges"], detail)
            )

    def _cut(self, document: Document, ranges: Sequence[Sequence[int]], detail: str) -> Document | Dropped:
        pieces, end = [], 0
        for start, stop in original_ranges(document.text, ranges):
            pieces.append(document.text[end : max(end, start - self.spec.context)])
            end = max(end, stop + self.spec.context)
        pieces.append(document.text[end:])
        pieces = [piece for piece in pieces if len(piece) >= self.spec.min_piece and piece.strip()]
        if not pieces or len(pieces) > self.spec.max_pieces:
            return Dropped(document, "contaminated", f"{detail}; {len(pieces)} pieces left")
        return document.with_text("\n\n".join(pieces))


def _hits(reader: BlockReader) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """Each document with hits, and its blocks of them."""
    first = 0
    for number, blocks in reader.facts["blocks"]:
        yield number, (reader.read(block, "hits") for block in range(first, first + blocks))
        first += blocks
