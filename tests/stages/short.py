"""A stage for tests: drops texts of few words, and writes the others in capitals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llmanac.data.documents import Document
from llmanac.data.stages import Dropped, Stage, StageSpec


class Short(Stage):
    def __init__(self, words: int) -> None:
        self.words = words

    def apply(self, documents: Iterable[Document]) -> Iterator[Document | Dropped]:
        for document in documents:
            count = len(document.text.split())
            if count < self.words:
                yield Dropped(document, "short", f"{count} words")
            else:
                yield document.with_text(document.text.upper())


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    words: int = 5

    def build(self, **dims: Any) -> Short:
        return Short(self.words)
