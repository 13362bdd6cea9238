"""Duplicate lines and paragraphs: of all equal ones in the corpus, the first stays and every later one is cut out.

A line ends with `\\n`; a paragraph is a run of lines up to and with the blank lines after it. Two are equal if they are
so without the white space at their ends. Only those of at least `min_length` characters (without that white space) are
compared, so that short lines which any text may have (`}`, `return`) stay. Later ones are cut, also in the document
that has the first.

A document that lost more than `max_removed` of its characters is dropped, and so is one of which only white space is
left.

Records `(hash, position)` are sorted as in `exact`, 16 bytes of BLAKE2b each; cost O(L log L) for L lines, in files
where memory is short. Compare the line-level deduplication of CCNet (Wenzek et al. 2020) and C4 (Raffel et al. 2020).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from llmanac.core.ranges import COUNT, FRACTION, within
from llmanac.data.dedup import text_key
from llmanac.data.documents import Document
from llmanac.data.stages import CorpusStage, Dropped, StageSpec
from llmanac.data.stages._blocks import BlockWriter, opened
from llmanac.data.stages._clusters import later_copies, scratch, sorted_rows
from llmanac.data.stages._cuts import Cuts, write_cuts
from llmanac.data.stages._positions import Positions

CARD = {
    "title": "Duplicate lines or paragraphs across documents",
    "paper": "Wenzek et al. 2020, CCNet",
    "aliases": {"paragraphs": {"unit": "paragraph"}},
    "test": "tests/references/test_dedup_exact.py::test_lines_equal_the_plain_way",
}

BLOCK = 1 << 15  # lines
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """What is compared, and when a document is dropped.

    Attributes:
        unit: "line" or "paragraph".
        min_length: characters that a line needs to be looked at.
        max_removed: fraction of its characters that a document may lose; one that loses more is dropped. 1 drops none.
    """

    renamed: ClassVar[Mapping[str, str]] = {"minimum": "min_length", "most": "max_removed"}

    unit: Literal["line", "paragraph"] = "line"
    min_length: int = 30
    max_removed: float = 1.0

    ranges = within(COUNT, "min_length") | within(FRACTION, "max_removed")

    def build(self, **dims: Any) -> Lines:
        return Lines(self)


class Lines(CorpusStage):
    """Reasons: `mostly-duplicate-lines`, `nothing-left`."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def pieces(self, text: str) -> list[str]:
        """The lines or paragraphs of a text; joined they are the text."""
        return _LINE.findall(text) if self.spec.unit == "line" else _paragraphs(text)

    def summarise(self, documents: Iterable[Document], summary: Path) -> None:
        """16 bytes for each line that is long enough."""
        with BlockWriter(summary) as writer:
            keys: list[bytes] = []
            count = 0
            for document in documents:
                count += 1
                for piece in self.pieces(document.text):
                    bare = piece.strip()
                    if len(bare) >= self.spec.min_length:
                        keys.append(text_key(bare))
                        if len(keys) == BLOCK:
                            writer.add(keys=_array(keys))
                            keys = []
            if keys:
                writer.add(keys=_array(keys))
            writer.facts["documents"] = count

    def decide(self, summaries: Sequence[Path], decisions: Sequence[Path], *, memory: int) -> dict[str, Any]:
        """Raises DataError for a memory that is too small to sort in."""
        with opened(summaries) as readers:
            positions = Positions(readers, "keys")  # of lines
            sizes, documents = np.diff(positions.shards).tolist(), [r.facts["documents"] for r in readers]
            pairs = later_copies(positions.keyed(), 2, memory=memory // 4, folder=scratch(decisions, "sorting-1"))
            later = sorted_rows(
                (rows[:, :1] for rows in pairs), 1, memory=memory // 4, folder=scratch(decisions, "sorting-2")
            )
            cut = write_cuts(decisions, sizes, later, documents)
        looked_at = sum(sizes)
        share = round(cut / looked_at, 4) if looked_at else 0.0
        return {"documents": sum(documents), "looked_at": looked_at, "cut": cut, "share": share}

    def apply(self, documents: Iterable[Document], decisions: Path) -> Iterator[Document | Dropped]:
        cuts = Cuts(decisions)
        looked_at = 0
        count = 0
        for document in documents:
            count += 1
            pieces = self.pieces(document.text)
            long = [i for i, piece in enumerate(pieces) if len(piece.strip()) >= self.spec.min_length]
            gone = {long[i] for (i,) in cuts.within(looked_at, looked_at + len(long))}
            looked_at += len(long)
            yield self._left(document, pieces, gone) if gone else document
        cuts.check(count, looked_at)

    def _left(self, document: Document, pieces: list[str], gone: set[int]) -> Document | Dropped:
        text = "".join(piece for i, piece in enumerate(pieces) if i not in gone)
        share = 1 - len(text) / len(document.text)
        detail = f"{len(gone)} of {len(pieces)} {self.spec.unit}s, {share:.1%} of the characters"
        if share > self.spec.max_removed:
            return Dropped(document, "mostly-duplicate-lines", detail)
        return document.with_text(text) if text.strip() else Dropped(document, "nothing-left", detail)


def _paragraphs(text: str) -> list[str]:
    pieces: list[str] = []
    open_piece = False  # whether the next line still belongs to the last paragraph
    for line in _LINE.findall(text):
        blank = not line.strip()
        if pieces and (open_piece or blank):
            pieces[-1] += line
        else:
            pieces.append(line)
        open_piece = not blank
    return pieces


def _array(keys: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 2)
