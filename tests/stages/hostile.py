"""A stage for tests that goes wrong in every way a text asks for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.data.documents import Document
from llmanac.data.stages import Dropped, Stage, StageSpec


class Hostile(Stage):
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def apply(self, documents: Iterable[Document]) -> Iterator[Document | Dropped]:
        for document in documents:
            word = document.text.split()[0]
            if word == "LOOP":
                while True:
                    pass
            if word == "HANG":
                sum(range(10**13))  # compiled code that never looks up
            if word == "CRASH":
                raise ValueError("no such luck")
            if word == "DEEP":
                document = document.with_text(_deep(0))
            if word == "DIE" and not (Path(self.mark) / "died").exists():
                (Path(self.mark) / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "DIES":
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "SLOW" and not (Path(self.mark) / "no-longer").exists():
                time.sleep(0.02)
            if word == "SURROGATE":
                document = document.with_text("half \ud83d a pair")
            if word != "LOSE":
                yield document


def _deep(depth: int) -> str:
    return _deep(depth + 1) + "."


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    mark: str = ""

    def build(self, **dims: Any) -> Hostile:
        return Hostile(self.mark)
