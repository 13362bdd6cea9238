"""Input that cannot be read, as commands take it: `--on-error fatal` stops, `--on-error skip` sets it aside."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar, cast

from llmanac.core.errors import SpecError
from llmanac.core.files import readable
from llmanac.core.outputs import check_apart
from llmanac.core.progress import say_once
from llmanac.data.quarantine import Bounds, OnError, Problems, Unreadable
from llmanac.data.unpack import COMPRESSED, blocks

T = TypeVar("T")
FLAG = "fix it, or set such input aside with --on-error skip"
UNPACK = "if that is right, unpack it first and give the unpacked file"
FIX = "fix or drop it"  # for commands without the flag: what they report on may miss nothing


class CommandProblems(Problems):
    """Problems whose message says what the command at hand offers.

    Args:
        on_error: "fatal" raises at the first problem; "skip" counts it and goes on.
        file: where `save` writes what was set aside, one JSON object a line.
        advice: how a fatal message ends.
        column: the flag that names the column of the text, where the command has one.
    """

    def __init__(
        self,
        on_error: OnError = "fatal",
        file: str | Path | None = None,
        bounds: Bounds | None = None,
        *,
        advice: str = FIX,
        column: str = "",
    ) -> None:
        bounds = bounds or Bounds(ratio_advice=UNPACK, expanded_advice=UNPACK)
        super().__init__(on_error, file, bounds)
        self.advice, self.column = advice, column
        self._passed: dict[str, list[tuple[str, str]]] = {}

    def report(self, file: object, line: int | None, reason: str, raw: str = "", *, code: str = "unreadable") -> None:
        """Take note of one problem. Raises DataError under the policy "fatal"."""
        if code == "no-text" and self.column:
            reason = f"{reason}; name the text's column with {self.column}"
        super().report(file, line, reason, raw, code=code)

    def pass_over(self, file: object, detail: str, *, code: str) -> None:
        self._passed.setdefault(detail if code == "unknown-format" else code, []).append((str(file), detail))

    def tell_passed(self) -> None:
        """Say once what of the input is not read, a line a reason and for each unknown format."""
        for found in self._passed.values():
            (name, detail), more = found[0], len(found) - 1
            others = f", nor {'is' if more == 1 else 'are'} {more:,} more of its kind" if more else ""
            say_once(f"note: {readable(name)} is not read{others}: {detail}")
        self._passed.clear()


def command_bounds(max_bytes: int | None = None, *, longer: str = "a larger --max-bytes lets it in") -> Bounds:
    """The bounds of commands on untrusted files: a build's own limits (`LimitSpec`), but lines of text of any length.

    Args:
        longer: what a message says of the limit on a document.
    """
    from llmanac.data.pipeline.recipe import LimitSpec  # a recipe's inputs are read with this module

    most = LimitSpec.max_bytes if max_bytes is None else max_bytes
    return Bounds(most, longer=longer, ratio_advice=UNPACK, expanded_advice=UNPACK)


def asked(
    on_error: str, file: str | Path, *, inputs: Iterable[str | Path] = (), bounds: Bounds | None = None,
    column: str = "",
) -> CommandProblems:  # fmt: skip
    """What the flag --on-error asks for; `file` lists what is set aside.

    Args:
        inputs: files that the command reads, which `file` must not be.

    Raises:
        SpecError: another word, or a `file` that is an input or something else than such a list.
    """
    if on_error not in ("fatal", "skip"):
        raise SpecError(f"--on-error: {on_error!r} is not fatal or skip")
    if on_error == "skip":
        check_apart([Path(file)], "--on-error skip", inputs)
        if Path(file).exists() and not _is_list(Path(file)):
            raise SpecError(
                f"--on-error skip: {file} would list what is set aside, and is something else; move it away"
            )
    return CommandProblems(cast(OnError, on_error), file, bounds, advice=FLAG, column=column)


def _is_list(path: Path) -> bool:
    """Whether a file is what `Problems.save` writes."""
    try:
        with open(path, encoding="utf-8") as handle:
            first = json.loads(handle.readline(1 << 20))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and first.keys() == {"file", "line", "reason", "raw"}


def check_packed(path: Path, problems: Problems) -> None:
    """Raise Unreadable for a file that decompresses to more than the bounds allow, before any row is held in memory."""
    if path.suffix.lower() not in COMPRESSED or problems.bounds.ratio == float("inf"):
        return
    try:
        for _ in blocks(path, problems):
            pass
    except Unreadable as error:  # other damage is met when it is read: what came before is good
        if error.code == "bomb":
            raise


def up_to_damage(rows: Iterable[T], path: Path, problems: Problems) -> Iterator[T]:
    """Rows up to where their file is damaged; the rest of it is one problem. Raises it under the policy "fatal"."""
    try:
        yield from rows
    except Unreadable as error:
        if problems.on_error == "fatal":
            raise
        problems.report(path, None, error.reason, code=error.code)


def save_and_tell(problems: Problems) -> dict[str, int | str] | None:
    """Write the quarantine file if anything was set aside; returns how much and where, as JSON data."""
    place = problems.save()
    return None if place is None else {"set_aside": problems.total, "quarantine": str(place)}


def left_out(saved: dict[str, int | str]) -> str:
    """What `save_and_tell` returned, in a sentence."""
    return f"{saved['set_aside']:,} unusable rows were left out; {saved['quarantine']} lists them with the reason"
