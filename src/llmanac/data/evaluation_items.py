"""Evaluation sets as items to look for: JSON Lines, JSON, CSV, Parquet or plain text, compressed or not."""

from __future__ import annotations

import contextlib
import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmanac.core.errors import DataError, nearest
from llmanac.data import readers
from llmanac.data.quarantine import Problems


class Item(NamedTuple):
    """One evaluation item: `id` is `file:line` (with the path as given where two files have one name), `fields` the
    texts that it consists of."""

    id: str
    fields: tuple[str, ...]


def read_items(paths: Sequence[str | Path], columns: Sequence[str] = ()) -> list[Item]:
    """Every item of some evaluation files.

    Args:
        paths: files; of a plain text file every line that is not blank is an item.
        columns: which columns of a table hold the item; a dot goes into objects (`context.question`), and a number
            counts columns from 1 in a CSV file without a header. A row needs one of them; files may differ in which.
            Empty takes every text in the row. Lists and objects give all texts in them.

    Raises:
        DataError: a file that cannot be read or has no item, a row with none of the columns, or a column that no row
            has; the message names file and line.
    """
    items: list[Item] = []
    unseen = set(columns)
    names = Counter(Path(path).name for path in paths)
    for path in map(Path, paths):
        before = len(items)
        shown = path.name if names[path.name] == 1 else path.as_posix()
        items += (Item(f"{shown}:{line}", fields) for line, fields in _rows(path, columns, unseen))
        if len(items) == before:
            raise DataError(f"{path}: no item with any text in it; name other columns or another file")
    if unseen and len(unseen) < len(set(columns)):
        raise DataError(f"columns: no row of {', '.join(map(str, paths))} has a column {sorted(unseen)[0]!r}")
    return items


def _rows(path: Path, columns: Sequence[str], unseen: set[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    kind = readers.format_of(path)
    if kind not in readers.TABLES:
        yield from _lines(path)
    elif kind in (".csv", ".tsv") and columns and all(column.isdigit() for column in columns):
        yield from _headless(path, columns, "\t" if kind == ".tsv" else ",")
    else:
        for row in readers.table_rows(path, Problems("fatal")):
            values = _chosen(path, row, columns, unseen) if columns else [dict(row.values)]
            fields = tuple(text for value in values for text in _texts(value))
            if fields:
                yield row.line, fields


def _lines(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    held, number = "", 0
    for piece in readers.text_pieces(path, Problems("fatal"), limit=1 << 20):
        *whole, held = (held + piece).split("\n")
        for line in whole:
            number += 1
            if line.strip():
                yield number, (line,)
    if held.strip():
        yield number + 1, (held,)


def _headless(path: Path, columns: Sequence[str], delimiter: str) -> Iterator[tuple[int, tuple[str, ...]]]:
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
                    yield reader.line_num, fields
    except (csv.Error, UnicodeDecodeError, EOFError, OSError) as error:
        raise DataError(f"{path}: cannot read it as CSV ({error}); mend it or convert it to UTF-8") from None


def _chosen(path: Path, row: readers.Row, columns: Sequence[str], unseen: set[str]) -> list[Any]:
    found = {}
    for column in columns:
        with contextlib.suppress(KeyError, TypeError):
            found[column] = row.values[column] if column in row.values else _inside(row.values, column.split("."))
    if not found:
        has = ", ".join(map(str, row.values)) or "none"
        wanted = " or ".join(map(repr, columns))
        raise DataError(f"{path}:{row.line}: no column {wanted}{nearest(columns[0], row.values)} (has: {has})")
    unseen.difference_update(found)
    return list(found.values())


def _inside(value: Any, steps: Sequence[str]) -> Any:
    for step in steps:
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
