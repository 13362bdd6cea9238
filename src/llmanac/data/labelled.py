"""Labelled texts from files: tables with a text and a label column, or lines that start with their label.

    .jsonl .json .csv .parquet      columns by name
    .tsv                            columns by name; by number (1, 2, ...) where the file has no header
    anything else                   `label text`, one example a line (the form of SST-2's stsa files)

All but .tsv and lines go through `readers.py`. A .tsv is read line by line, and a quotation mark in it is an ordinary
character unless it encloses a field: as CSV, one stray mark would swallow all lines up to the next.

Labels are texts. A whole number is taken as its digits (1 and 1.0, which tables make of whole numbers next to gaps, are
both "1") and a boolean as "true" or "false"; a file in which a text and a number, or a text and a boolean, would so
become one label is refused. Anything else (null, NaN, 1.5, a list) is no label.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError
from llmanac.data.columns import check_columns, column_places, no_column
from llmanac.data.command_problems import CommandProblems, up_to_damage
from llmanac.data.lines import lines as numbered_lines
from llmanac.data.quarantine import Problems
from llmanac.data.readers import table_rows
from llmanac.data.texts import is_table
from llmanac.data.unpack import TABLES, format_of

SHOWN = 60  # characters of a value that a message shows
FLAGS = ("--text", "--label")


@dataclass(frozen=True)
class Labelled:
    """Texts with their labels, and the line (or row) of each in the file."""

    texts: list[str]
    labels: list[str]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.texts)


class _Unusable(Exception):
    """What is wrong with one row."""


def read_labelled(
    path: str | Path, *, text: str = "text", label: str = "label", problems: Problems | None = None
) -> Labelled:
    """The examples of a file.

    Args:
        text, label: the columns' names; numbers from 1 for a .tsv without a header.
        problems: what happens to a row that cannot be used; by default it ends the reading, since what is not known
            of it cannot be left out of a result.

    Raises:
        DataError: a file that cannot be read, a column that is missing, a row without text or label, or no row at all;
            the message names the file and the line.
    """
    path = Path(path)
    problems = CommandProblems() if problems is None else problems
    out = Labelled([], [], [])
    sorts: dict[str, tuple[str, int]] = {}  # label -> what it is in the file, and where it was first
    for line, found, given in up_to_damage(_pairs(path, text, label, problems), path, problems):
        try:
            words, name = _text(text, found), _label(label, given)
            if not words.strip():
                raise _Unusable("the text is empty")
            sort, first = sorts.setdefault(name, (_sort(given), line))
            if sort != _sort(given):
                raise _Unusable(
                    f"{label} {_shown(given)} is {_sort(given)} here and {sort} in line {first}, and both would be the "
                    f"label {name[:SHOWN]!r}; write them alike"
                )
        except _Unusable as error:
            problems.report(path, line, str(error), _shown(found))
            continue
        out.texts.append(words)
        out.labels.append(name)
        out.lines.append(line)
    if not out.texts:
        raise _nothing(path, "example", problems)
    return out


def read_rows(path: Path, *, text: str, problems: Problems) -> list[tuple[str, dict[str, Any]]]:
    """`(text, row)` of every row of a table, with all its columns; those of a .tsv without a header are numbers.

    Raises:
        DataError: a file that cannot be read, a row without the column, a column that is there twice, or no row.
    """
    is_table(path, problems)
    out = []
    for line, row in _rows(path, [text], problems, every=True):
        try:
            out.append((_text(text, row[text]), row))
        except _Unusable as error:
            problems.report(path, line, str(error))
    if not out:
        raise _nothing(path, "text", problems)
    return out


def read_lines(path: Path, problems: Problems | None = None) -> list[tuple[int, str]]:
    """The lines of a file that is no table, with their numbers. Raises DataError where there is none."""
    problems = CommandProblems() if problems is None else problems
    is_table(path, problems)
    found = list(numbered_lines(path, problems))
    if not found:
        raise _nothing(path, "text", problems)
    return found


def labels_lead(lines: Sequence[tuple[int, str]], labels: Iterable[str], place: object) -> bool:
    """Whether lines are `label text`: each that is not blank begins with one of these labels and goes on.

    Raises:
        DataError: most lines begin so and one does not: with or without their first word, some would be wrong.
    """
    known, odd, count = set(labels), [], 0
    for line, content in lines:
        words = content.split(None, 1)
        count += bool(words)
        if words and (len(words) < 2 or words[0] not in known):
            odd.append((line, words[0]))
    if count and 0 < len(odd) < count / 2:
        line, word = odd[0]
        raise DataError(
            f"{place}:{line}: begins with {word[:SHOWN]!r} and no label that the classifier knows, as most lines do; "
            "say --with-labels to leave out every first word, or --text-only to take every line whole"
        )
    return bool(count) and not odd


def without_labels(lines: Iterable[tuple[int, str]], place: object) -> list[str]:
    """The texts of `label text` lines; blank ones are passed over. Raises DataError for a line of one word."""
    return [found for _, found, _ in _label_first(lines, place, CommandProblems())]


def _nothing(path: Path, what: str, problems: Problems) -> DataError:
    if problems.total:
        return DataError(f"{path}: no usable {what}; all {problems.total} rows were set aside: {problems.kept[0]}")
    return DataError(f"{path}: has no {what}; name another file")


def _pairs(path: Path, text: str, label: str, problems: Problems) -> Iterator[tuple[int, Any, Any]]:
    """(line, text, label) as they are in the file."""
    if is_table(path, problems):
        yield from ((line, row[text], row[label]) for line, row in _rows(path, [text, label], problems))
    else:
        yield from _label_first(numbered_lines(path, problems), path, problems)


def _rows(
    path: Path, wanted: Sequence[str], problems: Problems, *, every: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table that have the wanted columns; with `every` all columns of a row are read."""
    if format_of(path) == ".tsv":
        yield from _tab_rows(path, wanted, problems, every)
        return
    for row in table_rows(path, problems, columns=None if every else wanted):
        gone = next((number for number, name in enumerate(wanted) if name not in row.values), None)
        if gone is None:
            yield row.line, dict(row.values)
        else:
            names = (not every and _columns(path)) or list(row.values)
            problems.report(path, row.line, _no_column(wanted[gone], names, FLAGS[gone]), _shown(dict(row.values)))


def _columns(path: Path) -> list[str]:
    """All columns of a column store, of which only those asked for were read; else none."""
    if format_of(path) != ".parquet":
        return []
    import pyarrow.parquet

    return [str(name) for name in pyarrow.parquet.read_schema(path).names]


def _tab_rows(
    path: Path, wanted: Sequence[str], problems: Problems, every: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a .tsv. Its columns are called by the header, or by number where columns are wanted by number."""
    lines = numbered_lines(path, problems)
    names: list[str] = []
    places = column_places(wanted)
    if places is None:
        head, names = next(((n, _fields(line)) for n, line in lines), (1, []))
        for name, flag in zip(wanted, FLAGS, strict=False):
            if name not in names:
                raise DataError(f"{path}:{head}: {_no_column(name, names, flag)}")
        check_columns(path, names, wanted)
        places = [names.index(name) for name in wanted]
    if every:
        names = [name or f"column {number}" for number, name in enumerate(names, 1)]
        check_columns(path, names, None)
    for line, content in lines:
        fields = _fields(content)
        if not content.strip():
            continue
        if len(fields) <= max(places):
            reason = f"has {len(fields)} fields, and number {max(places) + 1} is asked for"
            problems.report(path, line, reason, content)
            continue
        numbered = (str(number) for number in range(len(names) + 1, len(fields) + 1))
        row = dict(zip([*names, *numbered], fields, strict=False)) if every else {}
        yield line, row | {name: fields[place] for name, place in zip(wanted, places, strict=True)}


def _fields(line: str) -> list[str]:
    return [_unquoted(field) for field in line.split("\t")]


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    if len(field) >= 2 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return field


def _label_first(lines: Iterable[tuple[int, str]], place: object, problems: Problems) -> Iterator[tuple[int, Any, Any]]:
    for line, content in lines:
        parts = content.split(None, 1)
        if len(parts) == 2:
            yield line, parts[1], parts[0]
        elif parts:
            reason = f"{content[:SHOWN]!r} is not `label text`; a table needs one of the endings {', '.join(TABLES)}"
            problems.report(place, line, reason, content)


def _no_column(name: str, names: Sequence[str], flag: str) -> str:
    return f"{no_column(name, names)}; name it with {flag}"


def _text(column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _Unusable(f"{column} is {_shown(value)}, not text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Unusable(f"{column} holds half of a character (a lone surrogate)") from None
    return value


def _label(column: str, value: Any) -> str:
    """A label as text; see the module."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value) and value.is_integer()):
        return str(int(value))
    if not isinstance(value, str) or value.strip().lower() in ("", "nan"):
        raise _Unusable(f"{column} is {_shown(value)}, which is no label")
    return _text(column, value).strip()


def _sort(value: Any) -> str:
    return "a boolean" if isinstance(value, bool) else "a text" if isinstance(value, str) else "a number"


def _shown(value: Any) -> str:
    text = "missing" if value is None else "empty" if value == "" else repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + " ..."
