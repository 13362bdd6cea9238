"""Rows and columns of tables, whatever their format. Columns without a name go by number, the first is 1."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, nearest
from llmanac.data.quarantine import Unreadable

SHOWN_NAMES, SHOWN_NAME = 20, 60  # columns that a message lists, and characters of each


@dataclass(frozen=True)
class Row:
    """One row of a table: its values, and its line or row, 1-based."""

    values: Mapping[str, Any]
    line: int


def column_places(columns: Sequence[str]) -> list[int] | None:
    """The places of columns given by number in a row, from 0 on; None where one of them is a name, or there is none.

    Raises:
        DataError: the number 0.
    """
    if not columns or not all(column.isascii() and column.isdecimal() for column in columns):
        return None
    places = [int(column) - 1 for column in columns]
    if min(places) < 0:
        raise DataError("column 0: columns without a name are counted from 1, as in a spreadsheet")
    return places


def check_columns(path: Path, names: Sequence[str], wanted: Sequence[str] | None) -> None:
    """Raise Unreadable for a column that is there twice and looked at: it is not known which of the two is meant."""
    seen: set[str] = set()
    for name in names:
        if name in seen and (wanted is None or name in wanted):
            raise Unreadable(
                path, f"the column {name[:SHOWN_NAME]!r} is there twice; rename one of the two", "two-columns"
            )
        seen.add(name)


def shown_columns(names: Iterable[Any]) -> str:
    """The columns that a message lists: the first of them, each cut short."""
    found = [str(name)[:SHOWN_NAME] for name in itertools.islice(names, SHOWN_NAMES + 1)]
    return ", ".join([*found[:SHOWN_NAMES], *(["..."] if len(found) > SHOWN_NAMES else [])]) or "none"


def no_column(column: str, names: Collection[Any]) -> str:
    """A message's words for a column that is not there: those that are, and the nearest of them."""
    some = [str(name) for name in itertools.islice(names, 1000) if len(str(name)) <= 100]
    return f"no column {column!r}{nearest(column, some)} (has: {shown_columns(sorted(map(str, names)))})"
