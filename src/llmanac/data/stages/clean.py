"""Cleaning as a stage: line ends, control characters, trailing space and runs of blank lines (`data/clean.py`).

Nothing that is said changes; a document that has nothing left is dropped as `empty`. Cleaning twice changes nothing.
"""

from dataclasses import dataclass
from typing import Any

from llmanac.data.clean import clean
from llmanac.data.documents import Document
from llmanac.data.stages import Dropped, Stage, StageSpec

CARD = {
    "title": "Cleaning: line ends, control characters, trailing space, blank lines",
    "aliases": {},
    "test": "tests/end_to_end/test_data.py::test_cleaning_twice_changes_nothing_and_keeps_every_letter",
}


class Clean(Stage):
    """Drops `empty`."""

    def one(self, document: Document) -> Document | Dropped:
        text = clean(document.text)
        if not text.strip():
            return Dropped(document, "empty", "nothing is left after cleaning")
        return document if text == document.text else document.with_text(text)


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """There is nothing to choose."""

    def build(self, **dims: Any) -> Clean:
        return super().build(**dims) if dims else Clean()  # type: ignore[return-value]
