"""Evaluation sets as items to look for: JSON Lines, JSON, CSV, Parquet or plain text, compressed or not."""

import contextlib
import functools
import math
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmanac.core.errors import DataError
from llmanac.data.columns import Row, column_places, no_column
from llmanac.data.command_problems import CommandProblems, up_to_damage
from llmanac.data.lines import lines
from llmanac.data.quarantine import Problems
from llmanac.data.readers import csv_rows, table_rows
from llmanac.data.texts import is_table
from llmanac.data.unpack import format_of


class Item(NamedTuple):
    """One evaluation item: `id` is `file:line` (with the path as given where two files have one name), `fields` the
    texts that it consists of."""

    id: str
    fields: tuple[str, ...]


def read_items(
    paths: Sequence[str | Path],
    columns: Sequence[str] = (),
    *,
    problems: Problems | None = None,
    named: str = "columns",
) -> list[Item]:
    """Every item of some evaluation files.

    Args:
        paths: files; of a plain text file every line that is not blank is an item.
        columns: which columns of a table hold the item; a dot goes into objects (`context.question`), and a number
            counts columns from 1 in a CSV file without a header. A row needs one of them; files may differ in which.
            Empty takes every text in the row. Lists and objects give all texts in them. A number is the text that it
            is written as; null, NaN and booleans are no text, and a row whose chosen columns hold nothing else is bad
            (one whose texts are blank is no item).
        problems: what happens to a bad row; by default it ends the reading.
        named: what the message calls `columns`.

    Raises:
        DataError: a file that cannot be read or has no item, a bad row, or a column that no row has; the message names
            file and line.
    """
    problems = CommandProblems() if problems is None else problems
    items: list[Item] = []
    unseen = set(columns)
    names = Counter(Path(path).name for path in paths)
    for path in map(Path, paths):
        before, bad = len(items), problems.total
        shown = path.name if names[path.name] == 1 else path.as_posix()
        rows = up_to_damage(_rows(path, columns, unseen, problems), path, problems)
        items += (Item(f"{shown}:{line}", fields) for line, fields in rows)
        if len(items) == before:
            skipped = (
                f"; {problems.total - bad} rows were set aside: {problems.kept[-1]}" if problems.total > bad else ""
            )
            raise DataError(f"{path}: no item with any text in it{skipped}; name other columns or another file")
    if unseen and len(unseen) < len(set(columns)):
        raise DataError(f"{named}: no row of {', '.join(map(str, paths))} has a column {sorted(unseen)[0]!r}")
    return items


def _rows(
    path: Path, columns: Sequence[str], unseen: set[str], problems: Problems
) -> Iterator[tuple[int, tuple[str, ...]]]:
    if not is_table(path, problems):
        yield from ((line, (text,)) for line, text in lines(path, problems) if text.strip())
        return
    places = column_places(columns) if format_of(path) in (".csv", ".tsv") else None
    if places is not None:
        yield from _headless(path, places, problems)
        return
    for row in table_rows(path, problems):
        values = _chosen(path, row, columns, unseen, problems) if columns else [dict(row.values)]
        fields = tuple(text for value in values for text in _texts(value))
        if any(text.strip() for text in fields):
            yield row.line, tuple(text for text in fields if text.strip())
        elif values and columns and not fields:
            what = " and ".join(_shown(value) for value in values)
            which = " or ".join(map(repr, columns))
            problems.report(path, row.line, f"column {which} holds {what} where the item's text was expected")


def _headless(path: Path, places: Sequence[int], problems: Problems) -> Iterator[tuple[int, tuple[str, ...]]]:
    for line, row in csv_rows(path, problems):
        if row and max(places) >= len(row):
            reason = f"no column {max(places) + 1}; this row has {len(row)}"
            problems.report(path, line, reason, ",".join(row))
        elif fields := tuple(row[place] for place in places if row and row[place].strip()):
            yield line, fields


def _chosen(path: Path, row: Row, columns: Sequence[str], unseen: set[str], problems: Problems) -> list[Any]:
    found = {}
    for column in columns:
        with contextlib.suppress(KeyError, TypeError):
            steps = [column] if column in row.values else column.split(".")
            found[column] = functools.reduce(operator.getitem, steps, row.values)
    if not found:
        others = "".join(f", nor {column!r}" for column in columns[1:])
        reason = f"{no_column(columns[0], row.values)}{others}"
        problems.report(path, row.line, reason, repr(row.values))
    unseen.difference_update(found)
    return list(found.values())


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)[:60]


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield str(value)
        elif isinstance(value, dict):
            waiting += reversed(list(value.values()))
        elif isinstance(value, (list, tuple)):
            waiting += reversed(value)
