"""Exact substrings: text of `min_length` bytes or more that occurs several times is cut from all but its first place.

A window of `min_length` bytes inside a document is a copy if the same bytes start anywhere earlier in the corpus. What
copies cover is cut, and so is every longer repeat, since all its windows are copies. A cut that would split a UTF-8
character is shortened to whole ones. With `overlaps = "keep"` an earlier window counts only if it ends before this one
starts: of a run of one letter the first `min_length` stay instead of one.

Copies are found in a suffix array: equal windows are next to each other in it. Building it takes 20 bytes a byte of
text. Where that is more than the memory given, the corpus is cut into parts that fit two at a time, and each part is
compared with each one before it: the same cuts, in time that grows with the square of the parts (at most `PARTS`).

Lee et al. 2022, "Deduplicating training data makes language models better".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.progress import progress
from llmanac.core.ranges import COUNT, FRACTION, within
from llmanac.data.documents import Document
from llmanac.data.stages import CorpusStage, Dropped, StageSpec
from llmanac.data.stages._blocks import BlockReader, BlockWriter, opened
from llmanac.data.stages._cuts import Cuts, write_cuts
from llmanac.kernels.dedup import suffix_array as kernel

CARD = {
    "title": "Repeated substrings across documents, by suffix array",
    "paper": "Lee et al. 2022, Deduplicating training data makes language models better",
    "aliases": {},
    "test": "tests/references/test_dedup_substring.py::test_cuts_equal_brute_force",
}

BLOCK = 8 << 20
PARTS = 64
APART = bytes([kernel.APART])


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """What counts as a repeat, and when a document is dropped.

    Attributes:
        min_length: length of a repeat in bytes (50 tokens of English are about 200).
        overlaps: "cut" also what repeats with itself overlapping (`-----`), or "keep" it.
        max_removed: fraction of its bytes that a document may lose; one that loses more is dropped. 1 drops none.
    """

    renamed: ClassVar[Mapping[str, str]] = {"minimum": "min_length", "most": "max_removed"}

    min_length: int = 200
    overlaps: Literal["cut", "keep"] = "cut"
    max_removed: float = 1.0

    ranges = within(COUNT, "min_length") | within(FRACTION, "max_removed")

    def build(self, **dims: Any) -> Substring:
        return Substring(self)


class Substring(CorpusStage):
    """Reasons: `mostly-duplicate-text`, `nothing-left`. A summary is the shard's text once more."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def summarise(self, documents: Iterable[Document], summary: Path) -> None:
        """The texts one after another."""
        with BlockWriter(summary) as writer:
            held: list[bytes] = []
            size = count = 0
            for document in documents:
                count += 1
                held += [_bytes(document.text), APART]
                size += len(held[-2])
                if size >= BLOCK:
                    writer.add(text=np.frombuffer(b"".join(held), np.uint8))
                    held, size = [], 0
            if held:
                writer.add(text=np.frombuffer(b"".join(held), np.uint8))
            writer.facts["documents"] = count

    def decide(self, summaries: Sequence[Path], decisions: Sequence[Path], *, memory: int) -> dict[str, Any]:
        """Raises DataError where even `PARTS` parts need more memory; the message says how much they need."""
        with opened(summaries) as readers:
            stream = _Stream(readers)
            size, parts = self._parts(stream.total, memory)
            cut = 0

            def ranges() -> Iterator[np.ndarray]:
                nonlocal cut
                for rows in _joined(self._ranges(stream, size, parts)):
                    cut += int((rows[:, 1] - rows[:, 0]).sum())
                    yield rows

            documents = [reader.facts["documents"] for reader in readers]
            count = write_cuts(decisions, stream.sizes, ranges(), documents)
            letters = stream.total - sum(documents)
            return {
                "documents": sum(documents), "bytes": letters, "cut_bytes": cut, "ranges": count,
                "share": round(cut / letters, 4) if letters else 0.0, "minimum": self.spec.min_length, "parts": parts,
            }  # fmt: skip

    def _parts(self, total: int, memory: int) -> tuple[int, int]:
        """`(bytes a part, parts)`."""
        if total * kernel.BYTES_A_BYTE <= memory and total <= kernel.LONGEST:
            return max(1, total), 1
        reach = self.spec.min_length  # a part's last window reaches this far into the next
        size = min(memory // (2 * kernel.BYTES_A_BYTE), kernel.LONGEST // 2) - reach
        if size < 1 or -(-total // size) > PARTS:
            need = 2 * kernel.BYTES_A_BYTE * (-(-total // PARTS) + reach)
            limit = (kernel.LONGEST // 2 - reach) * PARTS
            if total > limit:
                raise DataError(f"substring: {total} bytes of text are more than {limit}; split the corpus")
            raise DataError(f"memory: {memory} bytes are too few for {total} bytes of text; give {need} or more")
        return size, -(-total // size)

    def _ranges(self, stream: _Stream, size: int, parts: int) -> Iterator[np.ndarray]:
        """What is cut of each part, as (n, 2) ranges of positions in the corpus."""
        minimum = self.spec.min_length
        gap = minimum if self.spec.overlaps == "keep" else 1
        with progress("suffix arrays", total=max(1, parts * (parts - 1) // 2), unit="pairs") as bar:
            for part in range(parts):
                start = part * size
                own = stream.read(start, start + size + minimum - 1)
                copies = np.zeros(len(own), np.uint8)
                for other in range(max(part, 1)):
                    if part == 0:
                        text, border, shift = own, 0, 0
                    else:
                        before = stream.read(other * size, (other + 1) * size + minimum - 1)
                        text = np.concatenate([before, np.frombuffer(APART, np.uint8), own])
                        border = len(before) + 1
                        shift = start - (other * size + border)
                    suffixes = kernel.suffix_array(text)
                    shared = kernel.prefixes_before(text, suffixes)
                    kernel.mark_copies(suffixes, shared, minimum, gap, border, shift, copies)
                    del suffixes, shared
                    bar.advance()
                yield kernel.covered(copies, minimum) + start

    def apply(self, documents: Iterable[Document], decisions: Path) -> Iterator[Document | Dropped]:
        cuts = Cuts(decisions)
        at = count = 0
        for document in documents:
            data = _bytes(document.text)
            ranges = cuts.within(at, at + len(data) + 1)
            at += len(data) + 1
            count += 1
            yield self._left(document, data, ranges) if ranges else document
        cuts.check(count, at)

    def _left(self, document: Document, data: bytes, ranges: list[list[int]]) -> Document | Dropped:
        kept, end = [], 0
        for start, stop in ranges:
            while start < stop and data[start] & 0xC0 == 0x80:
                start += 1
            while stop > start and stop < len(data) and data[stop] & 0xC0 == 0x80:
                stop -= 1
            kept.append(data[end:start])
            end = max(end, stop)
        left = b"".join([*kept, data[end:]])
        share = 1 - len(left) / len(data)
        detail = f"{len(data) - len(left)} of {len(data)} bytes in {len(ranges)} ranges"
        if share > self.spec.max_removed:
            return Dropped(document, "mostly-duplicate-text", detail)
        text = left.decode("utf-8", "surrogatepass")
        return document.with_text(text) if text.strip() else Dropped(document, "nothing-left", detail)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class _Stream:
    """All texts of all shards as one run of bytes, each text followed by APART."""

    def __init__(self, readers: Sequence[BlockReader]) -> None:
        self._places = [(reader, block) for reader in readers for block in range(len(reader))]
        lengths = [reader.shape(block, "text")[0] for reader, block in self._places]
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.total = int(self._starts[-1])
        self.sizes = [sum(reader.shape(b, "text")[0] for b in range(len(reader))) for reader in readers]

    def read(self, start: int, stop: int) -> np.ndarray:
        """The bytes from `start` up to `stop`, or to the end."""
        stop = min(stop, self.total)
        place = int(np.searchsorted(self._starts, start, "right")) - 1
        parts = []
        while start < stop:
            reader, block = self._places[place]
            first = int(self._starts[place])
            parts.append(reader.read(block, "text", start - first, stop - first))
            start = int(self._starts[place + 1])
            place += 1
        return np.concatenate(parts) if parts else np.empty(0, np.uint8)


def _joined(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Ranges in order, those that touch over the end of a block made one."""
    last = np.empty((0, 2), np.int64)
    for rows in blocks:
        if not len(rows):
            continue
        if len(last) and rows[0, 0] <= last[0, 1]:
            rows = rows.copy()
            rows[0, 0], rows[0, 1] = last[0, 0], max(last[0, 1], rows[0, 1])
        elif len(last):
            yield last
        yield rows[:-1]
        last = rows[-1:]
    if len(last):
        yield last
