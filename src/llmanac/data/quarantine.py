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
KEPT = 10_000  # entries that the file lists; beyond it each file's first, the others are only counted


@dataclass(frozen=True)
class Bounds:
    """How much one input may cost before it is set aside.

    Attributes:
        document: bytes of text of one document.
        ratio: bytes that one byte of a compressed file may become, once more than `free` bytes have come out.
        expanded: bytes that may come out of one compressed file at all.
        free: bytes that may come out of a compressed file whatever its ratio.
        text_line: bytes of one line of plain text, which is held to be measured; None streams lines of any length.
        longer: what a message says of the limit on a document.
        ratio_advice, expanded_advice: what it says of the ratio, and of all that comes out.
    """

    document: int = 1 << 30
    ratio: float = 200.0
    expanded: float = 1 << 40
    free: int = 16 << 20
    text_line: int | None = None
    longer: str = "limits.max_bytes"
    ratio_advice: str = "what follows is left out (limits.ratio)"
    expanded_advice: str = "what follows is left out (limits.expanded)"

    @property
    def line(self) -> int:
        """Bytes of one line of JSON: escaped letters take up to three times the room of their UTF-8."""
        return 3 * self.document + (1 << 16)


class Unreadable(DataError):
    """A file (`place`) that cannot be used from some place on; its `code` is as the counts name the reason."""

    code: str

    def __init__(self, place: object, reason: str, code: str = "unreadable") -> None:
        super().__init__(reason, place=place, code=code)
        self.reason = reason


class MissingLibrary(Unreadable):
    """A file of a format whose library is not installed."""

    def __init__(self, place: object, reason: str) -> None:
        super().__init__(place, reason, "not-installed")


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
        bounds: what the readers hold input to.
    """

    advice = 'fix it, or set on_error="skip" to set such input aside'  # how a fatal message ends

    def __init__(
        self, on_error: OnError = "fatal", file: str | Path | None = None, bounds: Bounds | None = None
    ) -> None:
        self.on_error, self.file = on_error, file
        self.bounds = Bounds() if bounds is None else bounds
        self.counts: Counter[str] = Counter()
        self.kept: list[Problem] = []

    def report(self, file: object, line: int | None, reason: str, raw: str = "", *, code: str = "unreadable") -> None:
        """Take note of one problem; `code` is its reason in one word. Raises DataError under the policy "fatal"."""
        problem = Problem(str(file), line, reason, raw[:SHOWN])
        if self.on_error == "fatal":
            raise DataError(f"{problem}; {self.advice}")
        self.counts[problem.file] += 1
        if len(self.kept) < KEPT or self.counts[problem.file] == 1:
            self.kept.append(problem)

    def blank(self, file: object, line: int | None) -> None:
        """A row or file without any text: no problem; builds count it."""

    def pass_over(self, file: object, detail: str, *, code: str) -> None:
        """A file that is not read because it is no text: no problem either, and to be accounted for."""

    def tell_passed(self) -> None:
        """Report what was skipped, once all files are known; commands print it."""

    @property
    def total(self) -> int:
        """How many rows were set aside."""
        return self.counts.total()

    def named(self, name: str) -> Problems:
        """These problems, each under one name: that of a file inside another, or of standard input."""
        return _Named(self, name)

    def save(self) -> Path | None:
        """Write the quarantine file, if anything was set aside and a file was named. Returns its path."""
        if not self.total or self.file is None:
            return None
        lines = [json.dumps(vars(problem), ensure_ascii=True) for problem in self.kept]
        return files.write_text(self.file, "\n".join(lines) + "\n")


class _Named(Problems):
    """Passes problems on under another name than that of the file that is read."""

    def __init__(self, outer: Problems, name: str) -> None:
        super().__init__(outer.on_error, None, outer.bounds)
        self.outer, self.name = outer, name

    def report(self, file: object, line: int | None, reason: str, raw: str = "", *, code: str = "unreadable") -> None:
        self.counts[str(file)] += 1
        self.outer.report(self.name, line, reason, raw, code=code)

    def blank(self, file: object, line: int | None) -> None:
        self.outer.blank(self.name, line)

    def pass_over(self, file: object, detail: str, *, code: str) -> None:
        self.outer.pass_over(self.name, detail, code=code)
