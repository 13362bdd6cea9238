"""Labelled texts from files: tables with a text and a label column, or lines that start with their label.

    .jsonl .json .csv .parquet      columns by name
    .tsv                            columns by name; by number (0, 1, ...) where the file has no header
    anything else                   `label text`, one example a line (the form of SST-2's stsa files)

All but .tsv and lines go through `readers.py`. A .tsv is read line by line, and a quotation mark in it is an ordinary
character unless it stands around a whole field: as CSV, one stray mark would swallow all lines up to the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, nearest
from llmanac.data.quarantine import Problems
from llmanac.data.readers import TABLES, format_of, table_rows
from llmanac.data.readers import lines as numbered_lines

SHOWN = 60  # characters of a value that a message shows


@dataclass(frozen=True)
class Labelled:
    """Texts with their labels, and the line (or row) of each in the file."""

    texts: list[str]
    labels: list[str]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.texts)


class _Fatal(Problems):
    """The first line that cannot be read ends the reading: what is not known of it cannot be left out of a result."""

    def report(self, file: object, line: int | None, reason: str, raw: str = "", *, code: str = "unreadable") -> None:
        place = f"{file}" if line is None else f"{file}:{line}"
        raise DataError(f"{place}: {reason}; mend or drop the line")


def read_labelled(path: str | Path, *, text: str = "text", label: str = "label") -> Labelled:
    """The examples of a file.

    Args:
        text, label: the columns' names; numbers for a .tsv without a header.

    Raises:
        DataError: a file that cannot be read, a column that is missing, a row without text or label, or no row at all;
            the message names the file and the line.
    """
    path = Path(path)
    out = Labelled([], [], [])
    for line, found, given in _pairs(path, text, label):
        words = _text(path, line, text, found)
        if not words.strip():
            raise DataError(f"{path}:{line}: the text is empty; drop the row")
        out.texts.append(words)
        out.labels.append(_label(path, line, label, given))
        out.lines.append(line)
    if not out.texts:
        raise DataError(f"{path}: has no example")
    return out


def read_texts(path: str | Path, *, text: str = "text") -> list[str]:
    """The texts of a file, labelled or not; a file that is no table has one text a line. Empty ones are kept.

    Raises:
        DataError: a file that cannot be read, or a row without the column.
    """
    path = Path(path)
    if format_of(path) not in TABLES:
        _exists(path)
        return [line for _, line in numbered_lines(path, _Fatal())]
    return [_text(path, line, text, found) for line, found, _ in _pairs(path, text, None)]


def _pairs(path: Path, text: str, label: str | None) -> Iterator[tuple[int, Any, Any]]:
    """(line, text, label) as they stand in the file."""
    _exists(path)
    kind = format_of(path)
    if kind == ".tsv":
        return _tabs(path, text, label)
    if kind in TABLES:
        return _table(path, text, label)
    return _label_first(path)


def _exists(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder; give a file' if path.is_dir() else 'no such file'}")


def _table(path: Path, text: str, label: str | None) -> Iterator[tuple[int, Any, Any]]:
    wanted = [text] if label is None else [text, label]
    for row in table_rows(path, Problems(), columns=wanted):
        for name, flag in zip(wanted, ("--text", "--label"), strict=False):
            if name not in row.values:
                raise _no_column(path, row.line, name, _columns(path) or list(row.values), flag)
        yield row.line, row.values[text], None if label is None else row.values[label]


def _columns(path: Path) -> list[str]:
    """All columns of a column store, of which only those asked for were read; else none."""
    if format_of(path) != ".parquet":
        return []
    import pyarrow.parquet

    return [str(name) for name in pyarrow.parquet.read_schema(path).names]


def _tabs(path: Path, text: str, label: str | None) -> Iterator[tuple[int, Any, Any]]:
    wanted = [text] if label is None else [text, label]
    numbers = [int(name) for name in wanted if name.isdecimal()]
    lines = numbered_lines(path, _Fatal())
    if len(numbers) != len(wanted):
        numbers = []
        head, names = next(((n, _fields(line)) for n, line in lines), (1, []))
        for name, flag in zip(wanted, ("--text", "--label"), strict=False):
            if name not in names:
                raise _no_column(path, head, name, names, flag)
            numbers.append(names.index(name))
    for line, content in lines:
        if not content.strip():
            continue
        fields = _fields(content)
        if max(numbers) >= len(fields):
            raise DataError(f"{path}:{line}: has {len(fields)} fields, column {max(numbers)} (from 0) is asked for")
        yield line, fields[numbers[0]], None if label is None else fields[numbers[1]]


def _fields(line: str) -> list[str]:
    return [_unquoted(field) for field in line.split("\t")]


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    if len(field) >= 2 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return field


def _label_first(path: Path) -> Iterator[tuple[int, Any, Any]]:
    for line, content in numbered_lines(path, _Fatal()):
        if not content.strip():
            continue
        parts = content.split(None, 1)
        if len(parts) < 2:
            raise DataError(
                f"{path}:{line}: {content[:SHOWN]!r} is not `label text`; a table needs one of the endings "
                f"{', '.join(TABLES)}"
            )
        yield line, parts[1], parts[0]


def _no_column(path: Path, line: int, name: str, names: Sequence[str], flag: str) -> DataError:
    has = ", ".join(str(n)[:SHOWN] for n in names[:20]) or "none"
    return DataError(
        f"{path}:{line}: no column {name!r}{nearest(name, map(str, names))} (has: {has}); name it with {flag}"
    )


def _text(path: Path, line: int, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"{path}:{line}: {column} is {_shown(value)}, not text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DataError(f"{path}:{line}: {column} holds half of a character (a lone surrogate); mend it") from None
    return value


def _label(path: Path, line: int, column: str, value: Any) -> str:
    """A label as text: whole numbers and booleans in words."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value) and value.is_integer()):
        return str(int(value))
    if not isinstance(value, str) or value.strip().lower() in ("", "nan"):
        raise DataError(f"{path}:{line}: {column} is {_shown(value)}, which is no label; mend or drop the row")
    return value.strip()


def _shown(value: Any) -> str:
    text = "missing" if value is None else "empty" if value == "" else repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + " ..."
