"""Columns of tables without a header, by number. The first is 1, as in a spreadsheet."""

from __future__ import annotations

from collections.abc import Sequence

from llmanac.core.errors import DataError


def column_places(columns: Sequence[str]) -> list[int] | None:
    """Where columns given by number stand in a row, from 0 on; None where one of them is a name, or there is none.

    Raises:
        DataError: the number 0.
    """
    if not columns or not all(column.isascii() and column.isdecimal() for column in columns):
        return None
    places = [int(column) - 1 for column in columns]
    if min(places) < 0:
        raise DataError("column 0: columns without a name are counted from 1, as in a spreadsheet")
    return places
