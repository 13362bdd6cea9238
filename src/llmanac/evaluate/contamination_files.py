"""Contamination of evaluation files with training files.

How much of a benchmark is in a training corpus: for each item the fraction of its n-grams that are.

An n-gram is 13 words in a row (Brown et al. 2020, appendix C); `data/overlap.py` says how words are compared, what
happens to items of fewer words, and why no hit is a collision of hashes. An item's fraction is 1 where all its n-grams
are in the corpus, and 0 where none is. Fractions between them are often quotations that both contain; the threshold for
contamination is the user's choice, so fractions are reported, not only a verdict.

Memory: the index of the benchmark and one flag an n-gram; the corpus is read once, a document at a time.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.core.outputs import check_output
from llmanac.core.progress import progress
from llmanac.data.command_problems import asked, command_bounds, save_and_tell
from llmanac.data.documents import Document
from llmanac.data.evaluation_items import Item, read_items
from llmanac.data.overlap import ItemIndex, Looked
from llmanac.data.texts import documents, files_of


@dataclass(frozen=True)
class ItemReport:
    """One item: how it was looked for, how many n-grams it has and how many were found, and where it was first met."""

    item: Item
    looked: Looked
    found: int
    document: str | None

    @property
    def fraction(self) -> float:
        """Fraction of its n-grams found, from 0 to 1; 0 for an item too short to look for."""
        return self.found / self.looked.grams if self.looked.grams else 0.0

    def as_json(self) -> dict[str, Any]:
        """One row of the report."""
        return {
            "item": self.item.id, "by": self.looked.by, "ngrams": self.looked.grams, "found": self.found,
            "share": round(self.fraction, 4), "document": self.document,
        }  # fmt: skip


@dataclass(frozen=True)
class Contamination:
    """The reports of all items in order, and over how much text."""

    items: list[ItemReport]
    documents: int
    bytes: int
    index_bytes: int

    def found(self, above: float = 0.0) -> list[ItemReport]:
        """The items of which more than this fraction was found."""
        return [report for report in self.items if report.fraction > above]

    def summary(self) -> dict[str, Any]:
        """Counts over all items."""
        by = {kind: sum(r.looked.by == kind for r in self.items) for kind in ("grams", "whole", "too short")}
        looked_for = len(self.items) - by["too short"]
        fractions = [report.fraction for report in self.items if report.looked.grams]
        return {
            "items": len(self.items), "looked_for": looked_for, "by_ngrams": by["grams"], "whole": by["whole"],
            "too_short": by["too short"], "found": len(self.found()), "found_wholly": len(self.found(1 - 1e-9)),
            "mean_share": round(float(np.mean(fractions)), 4) if fractions else None,
            "documents": self.documents, "bytes": self.bytes, "index_bytes": self.index_bytes,
        }  # fmt: skip


def contamination(
    documents: Iterable[Document], items: Sequence[Item], *, n: int = 13, shortest: int = 4
) -> Contamination:
    """Look for every item in every document.

    Args:
        n: words in a row that count as one n-gram.
        shortest: items of fewer than `n` words are looked for as one phrase if they have this many.

    Raises:
        DataError: no item, or `n` and `shortest` that make no sense.
    """
    if not items:
        raise DataError("items: none to look for; name an evaluation set")
    index = ItemIndex(items, n, shortest)
    met = np.zeros(len(index.row_items), bool)
    first: dict[int, str] = {}
    count = size = 0
    with progress("contamination", unit="MB") as bar:
        for document in documents:
            count += 1
            size += document.bytes
            for hit in index.find(document.text):
                met[hit.rows] = True
                for item in index.row_items[hit.rows].tolist():
                    first.setdefault(item, document.id)
            bar.update(size / 1e6)
    found = np.bincount(index.row_items[met], minlength=len(items))
    reports = [
        ItemReport(item, looked, int(found[i]), first.get(i))
        for i, (item, looked) in enumerate(zip(items, index.looked, strict=True))
    ]
    return Contamination(reports, count, size, index.nbytes)


QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True)
class ContaminationResult:
    """The result.

    Attributes:
        summary: sums over all items and by file, plain data.
        result: item by item.
        left_out: counts of the skipped rows, if there were any.
    """

    summary: dict[str, Any]
    result: Contamination
    left_out: dict[str, int | str] | None


def contamination_files(
    train: Sequence[str],
    evaluation: Sequence[str],
    *,
    columns: Sequence[str] = (),
    text: str = "text",
    n: int = 13,
    shortest: int = 4,
    out: Path | None = None,
    on_error: str = "fatal",
    force: bool = False,
    max_bytes: int | None = None,
    include: Sequence[str] = (),
) -> ContaminationResult:
    """Look for the items of evaluation files in training files; write a row an item to `out`.

    Args:
        columns: of an item; all texts by default. text: the column of the training text.
        n, shortest: see `contamination`.
        on_error: "skip" writes rows that cannot be used to `quarantine.jsonl`, or next to `out`.
        force: write over an `out` that is there, unless it is an input.
        max_bytes: bytes of text that a document may have, `LimitSpec.max_bytes` by default.
        include: patterns that files of folders must match, all of them by default.

    Raises:
        LlmanacError: files that cannot be read, lack a column, or are empty; an `out` that may not be written.
    """
    if not train or not evaluation:
        raise DataError(f"{'--eval' if train else '--train'}: no file; name files, a folder or a glob pattern")
    spec = files_of(evaluation, include=include)
    source = files_of(train, column=text, include=include)
    evaluated = [path for path, _ in spec.files()]
    inputs = [*evaluated, *(path for path, _ in source.files())]
    if out is not None:
        check_output(out, "--out", inputs, force=force)
    quarantine = Path(QUARANTINE) if out is None else out.with_name(f"{out.stem}.{QUARANTINE}")
    bounds = command_bounds(max_bytes)
    problems = asked(on_error, quarantine, inputs=inputs, bounds=bounds, column="--text")
    items = read_items(evaluated, columns, problems=problems, named="--column")
    result = contamination(documents(source, problems), items, n=n, shortest=shortest)
    skipped = save_and_tell(problems)
    document: dict[str, Any] = {"n": n, "shortest": shortest, **result.summary(), "files": _by_file(result)}
    document |= skipped or {}
    if out is not None:
        rows = [json.dumps(report.as_json(), ensure_ascii=False) for report in result.items]
        files.write_text(out, "\n".join(rows) + "\n")
    return ContaminationResult(document, result, skipped)


def _by_file(result: Contamination) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[ItemReport]] = {}
    for report in result.items:
        groups.setdefault(report.item.id.rpartition(":")[0], []).append(report)
    return {
        name: Contamination(reports, result.documents, result.bytes, result.index_bytes).summary()
        for name, reports in groups.items()
    }
