"""Input that cannot be read, as commands take it: `--on-error fatal` stops, `--on-error skip` sets it aside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar, cast

from llmanac.core.errors import DataError, SpecError
from llmanac.data.quarantine import Bounds, OnError, Problem, Problems, Unreadable

T = TypeVar("T")
FLAG = "mend it, or set such input aside with --on-error skip"
MEND = "mend or drop it"  # for commands without the flag: what they report on may miss nothing


class CommandProblems(Problems):
    """Problems whose message says what the command at hand offers.

    Args:
        on_error: "fatal" raises at the first problem; "skip" counts it and goes on.
        file: where `save` writes what was set aside, one JSON object a line.
        advice: how a fatal message ends.
    """

    def __init__(
        self,
        on_error: OnError = "fatal",
        file: str | Path | None = None,
        bounds: Bounds | None = None,
        *,
        advice: str = MEND,
    ) -> None:
        super().__init__(on_error, file, bounds)
        self.advice = advice

    def report(self, file: object, line: int | None, reason: str, raw: str = "", *, code: str = "unreadable") -> None:
        """Take note of one problem. Raises DataError under the policy "fatal"."""
        if self.on_error == "fatal":
            raise DataError(f"{Problem(str(file), line, reason)}; {self.advice}")
        super().report(file, line, reason, raw, code=code)


def asked(on_error: str, file: str | Path) -> CommandProblems:
    """What the flag --on-error asks for; `file` lists what is set aside. Raises SpecError for another word."""
    if on_error not in ("fatal", "skip"):
        raise SpecError(f"--on-error: {on_error!r} is not fatal or skip")
    return CommandProblems(cast(OnError, on_error), file, advice=FLAG)


def up_to_damage(rows: Iterable[T], path: Path, problems: Problems) -> Iterator[T]:
    """Rows up to where their file is damaged; the rest of it is one problem. Raises it under the policy "fatal"."""
    try:
        yield from rows
    except Unreadable as error:
        if problems.on_error == "fatal":
            raise
        problems.report(path, None, str(error).removeprefix(f"{path}: "), code=error.code)


def save_and_tell(problems: Problems) -> dict[str, int | str] | None:
    """Write the quarantine file if anything was set aside; returns how much and where, as JSON data."""
    place = problems.save()
    return None if place is None else {"set_aside": problems.total, "quarantine": str(place)}


def left_out(told: dict[str, int | str]) -> str:
    """What `save_and_tell` returned, in a sentence."""
    return f"{told['set_aside']:,} unusable rows were left out; {told['quarantine']} lists them with the reason"
