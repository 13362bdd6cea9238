"""How much of a benchmark is in a training corpus: for each item the fraction of its n-grams that are.

An n-gram is 13 words in a row (Brown et al. 2020, appendix C); `data/overlap.py` says how words are compared, what
happens to items of fewer words, and why no hit is a collision of hashes. An item's fraction is 1 where all its n-grams
are in the corpus, and 0 where none is. Fractions between them are often quotations that both contain; the threshold for
contamination is the user's choice, so fractions are reported, not only a verdict.

Memory: the index of the benchmark and one flag an n-gram; the corpus is read once, a document at a time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.progress import progress
from llmanac.data.documents import Document
from llmanac.data.evaluation_items import Item
from llmanac.data.overlap import ItemIndex, Looked


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
