"""What happens to input that cannot be read: it stops the run, or it is counted, set aside and named in a file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmanac.core import files
from llmanac.core.errors import DataError

OnError = Literal["fatal", "skip"]
SHOWN = 2000  # characters of a bad line that the quarantine file keeps
KEPT = 10_000  # entries that the file lists; beyond it they are only counted


@dataclass(frozen=True)
class Problem:
    """One row that could not be used. `line` is 1-based; for a Parquet file it is the row, for a text file the byte."""

    file: str
    line: int | None
    reason: str
    raw: str = ""

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f':{self.line}'}: {self.reason}"


class Problems:
    """Collects problems under one policy.

    Args:
        on_error: "fatal" raises at the first problem; "skip" counts it and goes on.
        file: where `save` writes the problems, one JSON object a line.
    """

    def __init__(self, on_error: OnError = "fatal", file: str | Path | None = None) -> None:
        self.on_error, self.file = on_error, file
        self.counts: Counter[str] = Counter()
        self.kept: list[Problem] = []

    def report(self, file: object, line: int | None, reason: str, raw: str = "") -> None:
        """Take note of one problem. Raises DataError under the policy "fatal"."""
        problem = Problem(str(file), line, reason, raw[:SHOWN])
        if self.on_error == "fatal":
            raise DataError(f'{problem}; mend it, or set on_error="skip" to set such input aside')
        self.counts[problem.file] += 1
        if len(self.kept) < KEPT:
            self.kept.append(problem)

    @property
    def total(self) -> int:
        """How many rows were set aside."""
        return self.counts.total()

    def save(self) -> Path | None:
        """Write the quarantine file, if anything was set aside and a file was named. Returns its path."""
        if not self.total or self.file is None:
            return None
        lines = [json.dumps(vars(problem), ensure_ascii=True) for problem in self.kept]
        return files.write_text(self.file, "\n".join(lines) + "\n")
