"""A stage over the corpus for tests: of equal texts the first stays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.data.documents import Document
from llmanac.data.stages import CorpusStage, Dropped, StageSpec


class FirstSeen(CorpusStage):
    def summarise(self, documents: Iterable[Document], summary: Path) -> None:
        lines = [hashlib.sha256(document.text.encode()).hexdigest() + "\n" for document in documents]
        summary.write_text("".join(lines))

    def decide(self, summaries: Sequence[Path], decisions: Sequence[Path], *, memory: int) -> dict[str, Any]:
        seen: set[str] = set()
        copies = 0
        for summary, decision in zip(summaries, decisions, strict=True):
            marks = []
            for line in summary.read_text().splitlines():
                marks.append("1" if line not in seen else "0")
                copies += line in seen
                seen.add(line)
            decision.write_text("".join(marks))
        return {"copies": copies}

    def apply(self, documents: Iterable[Document], decisions: Path) -> Iterator[Document | Dropped]:
        for document, mark in zip(documents, decisions.read_text(), strict=True):
            yield document if mark == "1" else Dropped(document, "copy")


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    def build(self, **dims: Any) -> FirstSeen:
        return FirstSeen()
