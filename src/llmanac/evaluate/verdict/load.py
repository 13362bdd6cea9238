"""A log's files to its items: the form of each by what it begins with, one row after another."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from llmanac.core.errors import DataError
from llmanac.data.command_problems import CommandProblems
from llmanac.data.json_rows import members
from llmanac.data.quarantine import Problems
from llmanac.data.readers import table_rows
from llmanac.data.unpack import TABLES, blocks, format_of
from llmanac.evaluate.verdict.forms import evalplus, helm, inspect_log, lighteval, lm_eval, own, scores
from llmanac.evaluate.verdict.items import Items, Log, Row

FORMS: tuple[ModuleType, ...] = (lm_eval, inspect_log, lighteval, evalplus, helm, own, scores)
SUFFIXES = (*TABLES, ".eval")
FIRST_KEYS = 4  # of an object, by which its form is known
ADVICE = "the log is cut off or damaged: repeat that evaluation, or take the row out of both logs"


def problems_of() -> Problems:
    return CommandProblems(advice=ADVICE)


def form_of(path: Path) -> ModuleType | None:
    """The form of a file; None for one that is no log. Raises DataError for one whose beginning cannot be read."""
    keys: set[Any] = set()
    first: dict[str, Any] = {}
    if format_of(path) == ".json" and _begin(path) == b"{":
        for place, _ in members(path, problems_of(), ("samples", "eval")):
            keys.add(place[0])
            if len(keys) >= FIRST_KEYS:
                break
    elif format_of(path) != ".eval":
        first = next((dict(row.values) for row in table_rows(path, problems_of())), {})
        keys = set(first)
    return next((form for form in FORMS if form.recognises(path, keys, first)), None)


def _begin(path: Path) -> bytes:
    return next(blocks(path, problems_of()), b"").removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def files_of(path: Path) -> list[Path]:
    """The files of a folder that may be logs, or the file itself. Raises DataError where there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; give a log, or the folder that a harness wrote")
    return sorted(p for p in path.rglob("*") if format_of(p) in SUFFIXES and p.is_file() and p.name[:1] != ".")


def read_log(path: str | Path, label: str, fields: Sequence[str] = ()) -> Log:
    """All items of a file or of a folder.

    Args:
        label: what the log is called; fields: dotted fields of rows that are kept as labels.

    Raises:
        DataError: nothing that is a log, a row that cannot be read, a run that did not end, or two logs of one task.
            It names file and line.
    """
    log, where = Log(label), Path(path)
    for file in files_of(where):
        form = form_of(file)
        if form is None:
            continue
        task, rows = form.read(file, problems_of())
        if task.unfinished:
            raise DataError(f"{file}: the run did not end ({task.unfinished}); finish it, or give another log")
        log.readers[file] = functools.partial(form.read, file, problems_of())
        before = set(log.items)
        for row in rows:
            key = (row.task or task.name, row.filter)
            if key in before:
                other = log.items[key].task.path
                raise DataError(
                    f"{file}: holds {key[0] or 'items'}, as {other} does; give the file of one run, or another folder"
                )
            items = log.items.get(key)
            if items is None:
                items = log.items[key] = Items(task, *key, fields)
            items.add(row)
    if not log.items:
        forms = ", ".join(form.TITLE for form in FORMS)
        raise DataError(f"{where}: holds no log with a row (known: {forms}); docs/evaluate.md has the forms")
    return log


def rows_at(log: Log, path: Path, places: Iterable[int]) -> dict[int, Row]:
    """Rows of one file, read again, by place."""
    wanted, found = set(places), dict[int, Row]()
    if wanted:
        for row in log.readers[path]()[1]:
            if row.place in wanted:
                found[row.place] = row
                if len(found) == len(wanted):
                    break
    return found
