"""A log's files to its items: the form of each by what it begins with, one row after another."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from llmanac.core.errors import DataError, LlmanacError, described
from llmanac.data.command_problems import CommandProblems
from llmanac.data.json_rows import members
from llmanac.data.readers import table_rows
from llmanac.data.unpack import TABLES, blocks, format_of
from llmanac.evaluate.verdict.forms import evalplus, helm, inspect_log, lighteval, lm_eval, own, scores
from llmanac.evaluate.verdict.items import Items, Log, LogRow

FORMS: tuple[ModuleType, ...] = (lm_eval, inspect_log, lighteval, evalplus, helm, own, scores)
SUFFIXES = (*TABLES, ".eval")
SPACE = b"\xef\xbb\xbf \t\r\n"
FIRST = 50  # elements of an object, by whose keys its form is known
PROBLEMS = CommandProblems(advice="the log is cut off or damaged; repeat that evaluation")


def form_of(path: Path) -> ModuleType | None:
    """The form of a file; None for one that is no log. Raises DataError for one whose beginning cannot be read."""
    if format_of(path) == ".eval":
        return inspect_log
    keys = _keys(path)
    return next((form for form in FORMS if any(own <= keys for own in form.KEYS)), None)


def _keys(path: Path) -> set[Any]:
    """The keys of the first row of a table or array, or the first of an object."""
    keys: set[Any] = set()
    start = next(blocks(path, PROBLEMS), b"").lstrip(SPACE) if format_of(path) == ".json" else b"[{"
    if start[:1] == b"{":
        keys |= {place[0] for place, _ in itertools.islice(members(path, PROBLEMS, None), FIRST)}
    elif start[:1] == b"[" and start[1:].lstrip(SPACE)[:1] in (b"{", b""):  # other lists hold no rows
        keys |= next((row.values.keys() for row in table_rows(path, PROBLEMS)), set())
    return keys


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
        if (form := form_of(file)) is None:
            continue
        place = 0
        try:
            for place in _held(log, file, form, fields):  # noqa: B007
                pass
        except LlmanacError:
            raise
        except Exception as error:  # those of json, zipfile, zlib, pyarrow and of missing fields have no common base
            said = f"not as {form.TITLE} writes it, after row {place} ({described(error)}); repeat that evaluation"
            raise DataError(f"{file}: {said}") from error
    if not log.items:
        forms = ", ".join(form.TITLE for form in FORMS)
        raise DataError(
            f"{where}: holds no log with a row (known: {forms}); docs/verdict.md has the forms{_hint(where)}"
        )
    return log


def _hint(where: Path) -> str:
    """What to rename in a table whose columns have a known form's names in other letters."""
    for file in files_of(where):
        keys = {str(key).strip().lower(): key for key in _keys(file)}
        for wanted in (names for form in FORMS for names in form.KEYS if names <= keys.keys()):
            other = [name for name in sorted(wanted) if keys[name] != name]
            return "".join(f"; rename the column {keys[name]!r} to {name!r}" for name in other)
    return ""


def _held(log: Log, file: Path, form: ModuleType, fields: Sequence[str]) -> Iterator[int]:
    """Hold the rows of a file in the log; gives the place of each when it is held."""
    task, rows = form.read(file, PROBLEMS)
    if task.unfinished:
        raise DataError(f"{file}: the run did not end ({task.unfinished}); finish it, or give another log")
    log.readers[file] = functools.partial(form.read, file, PROBLEMS)
    before = set(log.items)
    for row in rows:
        key = (row.task or task.name, row.filter)
        if key in before:
            said = f"holds {key[0] or 'items'}, as {log.items[key].task.path} does"
            raise DataError(f"{file}: {said}; give the file of one run, or another folder")
        if key not in log.items:
            log.items[key] = Items(task, *key, fields)
        log.items[key].add(row)
        yield row.place


def rows_at(log: Log, path: Path, places: Iterable[int]) -> dict[int, LogRow]:
    """Rows of one file, read again, by place."""
    wanted = set(places)
    rows = (row for row in log.readers[path]()[1] if row.place in wanted)
    return {row.place: row for row in itertools.islice(rows, len(wanted))}
