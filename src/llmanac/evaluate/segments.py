"""Hypotheses and references out of files, paired row by row: lines of text, or a column of a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError
from llmanac.data.columns import no_column
from llmanac.data.command_problems import CommandProblems
from llmanac.data.lines import lines
from llmanac.data.readers import table_rows
from llmanac.data.texts import is_table


@dataclass(frozen=True)
class SegmentRows:
    """The rows of a file: `values` (text, or what a column holds) and the line of each."""

    path: Path
    values: list[Any]
    lines: list[int]

    def place(self, row: int) -> str:
        """A row, from 0, as messages name it."""
        return f"{self.path}:{self.lines[row]}"


def read_rows(path: Path, column: str, flag: str) -> SegmentRows:
    """Every row of a file, blank lines of text included.

    Raises:
        DataError: a file that cannot be read, or a row without the column; it names file, line and `flag`.
    """
    problems = CommandProblems(column=flag)
    if not is_table(path, problems):
        numbered = list(lines(path, problems))
        return SegmentRows(path, [text for _, text in numbered], [line for line, _ in numbered])
    values, places = [], []
    for row in table_rows(path, problems):
        if column not in row.values:
            raise DataError(f"{path}:{row.line}: {no_column(column, row.values)}; name it with {flag}")
        values.append(row.values[column])
        places.append(row.line)
    return SegmentRows(path, values, places)


def texts_of(rows: SegmentRows) -> list[str]:
    """The rows as texts. Raises DataError where one is not."""
    for row, value in enumerate(rows.values):
        if not isinstance(value, str):
            raise DataError(f"{rows.place(row)}: holds {type(value).__name__} where text was expected")
    return rows.values


def check_paired(rows: SegmentRows, hypotheses: SegmentRows) -> None:
    """Raises DataError for files with other numbers of rows."""
    if len(rows.values) != len(hypotheses.values):
        raise DataError(
            f"{rows.path} has {len(rows.values)} rows and {hypotheses.path} has {len(hypotheses.values)}; both need "
            "the same segments in the same order"
        )


def references_of(files: Sequence[SegmentRows], hypotheses: SegmentRows, *, blank: bool = False) -> list[list[Any]]:
    """The references of each hypothesis: a text of each file, or all texts of a row that holds a list.

    Args:
        blank: whether an empty reference means something (no answer, in SQuAD 2).

    Raises:
        DataError: files with other numbers of rows, or an empty reference; it names file and line.
    """
    out: list[list[Any]] = [[] for _ in hypotheses.values]
    for rows in files:
        check_paired(rows, hypotheses)
        for row, value in enumerate(rows.values):
            given = value if isinstance(value, list) else [value]
            for one in given:
                if not isinstance(one, (str, list)):
                    raise DataError(f"{rows.place(row)}: holds {type(one).__name__} where a reference was expected")
            if not given or not (blank or all(one.strip() if isinstance(one, str) else one for one in given)):
                raise DataError(f"{rows.place(row)}: the reference is empty; give a text, or leave the row out")
            out[row] += given
    return out
