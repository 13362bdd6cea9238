"""Evaluation sets as items to look for: JSON Lines, JSON, CSV, Parquet or plain text, compressed or not."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmanac.core.errors import DataError, nearest
from llmanac.data import readers
from llmanac.data.quarantine import Problems


class Item(NamedTuple):
    """One evaluation item: `id` is `file:line`, `fields` the texts that it consists of."""

    id: str
    fields: tuple[str, ...]


def read_items(paths: Sequence[str | Path], columns: Sequence[str] = ()) -> list[Item]:
    """Every item of some evaluation files.

    Args:
        paths: files; of a plain text file every line that is not blank is an item.
        columns: which columns of a table hold the item; a dot goes into objects (`context.question`), and a number
            counts columns from 1 in a CSV file without a header. Empty takes every text in the row. Lists and objects
            give all texts in them.

    Raises:
        DataError: a file that cannot be read, lacks a column, or has no item; the message names file and line.
    """
    items: list[Item] = []
    for path in map(Path, paths):
        before = len(items)
        items += _items(path, columns)
        if len(items) == before:
            raise DataError(f"{path}: no item with any text in it; name other columns or another file")
    return items


def _items(path: Path, columns: Sequence[str]) -> Iterator[Item]:
    kind = readers.format_of(path)
    if kind not in readers.TABLES:
        yield from _lines(path)
    elif kind in (".csv", ".tsv") and columns and all(column.isdigit() for column in columns):
        yield from _headless(path, columns, "\t" if kind == ".tsv" else ",")
    else:
        for row in readers.table_rows(path, Problems("fatal")):
            values = [_column(path, row, column) for column in columns] if columns else [dict(row.values)]
            fields = tuple(text for value in values for text in _texts(value))
            if fields:
                yield Item(f"{path.name}:{row.line}", fields)


def _lines(path: Path) -> Iterator[Item]:
    held, number = "", 0
    for piece in readers.text_pieces(path, Problems("fatal"), limit=1 << 20):
        *whole, held = (held + piece).split("\n")
        for line in whole:
            number += 1
            if line.strip():
                yield Item(f"{path.name}:{number}", (line,))
    if held.strip():
        yield Item(f"{path.name}:{number + 1}", (held,))


def _headless(path: Path, columns: Sequence[str], delimiter: str) -> Iterator[Item]:
    try:
        with readers.open_binary(path) as handle:
            reader = csv.reader(io.TextIOWrapper(handle, "utf-8-sig", newline=""), delimiter=delimiter)
            for row in reader:
                if not row:
                    continue
                for column in columns:
                    if not 1 <= int(column) <= len(row):
                        raise DataError(f"{path}:{reader.line_num}: no column {column}; this row has {len(row)}")
                fields = tuple(row[int(column) - 1] for column in columns if row[int(column) - 1].strip())
                if fields:
                    yield Item(f"{path.name}:{reader.line_num}", fields)
    except (csv.Error, UnicodeDecodeError, EOFError, OSError) as error:
        raise DataError(f"{path}: cannot read it as CSV ({error}); mend it or convert it to UTF-8") from None


def _column(path: Path, row: readers.Row, column: str) -> Any:
    if column in row.values:
        return row.values[column]
    value: Any = row.values
    for step in column.split("."):
        if not isinstance(value, dict) or step not in value:
            has = ", ".join(map(str, row.values)) or "none"
            raise DataError(f"{path}:{row.line}: no column {column!r}{nearest(column, row.values)} (has: {has})")
        value = value[step]
    return value


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if value.strip():
                yield value
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield str(value)
        elif isinstance(value, dict):
            waiting += reversed(list(value.values()))
        elif isinstance(value, (list, tuple)):
            waiting += reversed(value)
