"""Tables as rows: JSON Lines, JSON, CSV and Parquet, compressed or not.

Every reader is lazy and bounded: a compressed file that decompresses to more than `Bounds.ratio` allows is read up to
there, and every error names the file with its line, row or byte.
"""

import csv
import itertools
import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError
from llmanac.data import json_rows
from llmanac.data.columns import Row, check_columns
from llmanac.data.lines import lines
from llmanac.data.quarantine import SHOWN, Problems, Unreadable
from llmanac.data.unpack import TABLES, Span, format_of, unpacked

REREAD = 16 << 20  # characters of a .csv that are read a second time, at most
_NAME = re.compile(r'(?P<quote>"?)\w[\w .()/-]{0,60}(?P=quote)')  # of a column
PARQUET_ROWS = 64  # rows that are held at once; a row may be as long as a document may be


def csv_rows(path: Path, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """The rows of a .csv or .tsv as lists, each with the number of its last line; a header is a row like any other.

    Of a row whose quotes do not fit, the first line is left out and those after it are read again: an open quote would
    take all that follows into one field.
    """
    csv.field_size_limit(min(1 << 30, problems.bounds.line))
    feed, first = _Lines(path, problems), True
    feed.waiting.extend(itertools.islice(feed.source, 1))
    header = feed.waiting[0][1] if feed.waiting else ""
    delimiter = "\t" if format_of(path) == ".tsv" else _delimiter(header)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.begin()
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = "a quote is never closed" if "unexpected end" in str(error) else f"{error}, in line {feed.last}"
            if first or not feed.again():  # without its header nothing is known of the rows
                problems.report(path, feed.first, f"not CSV ({reason}); the rest of it is left out", code="not-csv")
                return
            problems.report(path, feed.first, f"not CSV ({reason})", feed.raw, code="not-csv")
        else:
            yield feed.last, values
            first = False


class _Lines:
    """The lines of a file for `csv.reader`, of which it may read again those of a row that was none.

    Attributes:
        first, last: the numbers of the lines of this row; raw: how the first begins.
    """

    def __init__(self, path: Path, problems: Problems) -> None:
        self.path, self.problems = path, problems
        self.source = lines(path, problems, ends="")  # a quoted field keeps its line ends
        self.waiting: deque[tuple[int, str]] = deque()
        self.row: list[tuple[int, str]] = []  # the lines after the first, as far as they may be read again
        self.first, self.last, self.raw, self.size, self.left = 0, 0, "", 0, REREAD

    def begin(self) -> None:
        """What follows is another row."""
        self.first, self.size = 0, 0
        self.row.clear()

    def again(self) -> bool:
        """Let the lines of this row but its first be read again; False where they are too many."""
        self.left -= self.size  # a file may open a quote in every line
        if self.left >= 0:
            self.waiting.extendleft(reversed(self.row))
        return self.left >= 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.last, line = self.waiting.popleft() if self.waiting else next(self.source)
        while "\0" in line:
            self.problems.report(self.path, self.last, "holds a NUL byte, so it is no text", line, code="not-text")
            self.last, line = self.waiting.popleft() if self.waiting else next(self.source)
        if not self.first:
            self.first, self.raw = self.last, line[:SHOWN].rstrip("\r")
        else:
            self.size += len(line)
            if self.size <= REREAD:
                self.row.append((self.last, line))
        return line + "\n"


def _delimiter(header: str) -> str:
    """Of a .csv: `;` (spreadsheets of many countries) or a tab where the header is names with it between them."""
    for mark in (";", "\t"):
        names = header.strip("\r\n\ufeff").split(mark)
        if len(names) > 1 and all(_NAME.fullmatch(name) for name in names):
            return mark
    return ","


def _csv(path: Path, columns: Sequence[str] | None, problems: Problems) -> Iterator[Row]:
    rows = csv_rows(path, problems)
    _, header = next(rows, (0, []))
    # separators at a line's end make columns without a name: each is kept under its number
    blank = {*[number for number, name in enumerate(header) if not name][1:]}
    header = [f"column {number + 1}" if number in blank else name for number, name in enumerate(header)]
    check_columns(path, header, columns)
    for line, values in rows:
        if values and len(values) == len(header):
            yield Row(dict(zip(header, values, strict=True)), line)
        elif values:
            reason = f"{len(values)} fields where the header has {len(header)}"
            problems.report(path, line, reason, ",".join(values), code="not-csv")


def _parquet(path: Path, columns: Sequence[str] | None, problems: Problems, span: Span | None) -> Iterator[Row]:
    with unpacked(path, problems) as plain:
        try:
            yield from _row_groups(plain, columns, problems, span)
        except Unreadable as error:
            raise Unreadable(path, error.reason, error.code) from None


def _row_groups(path: Path, columns: Sequence[str] | None, problems: Problems, span: Span | None) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
        check_columns(path, schema.names, columns)
        wanted = None if columns is None else [c for c in schema.names if c in columns]
        # a dictionary keeps a value that a small file repeats a million times once
        texts = [f.name for f in schema if pyarrow.types.is_string(f.type) or pyarrow.types.is_binary(f.type)]
        number = 0 if span is None else span.line - 1
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            for group in range(metadata.num_row_groups) if span is None else range(span.start, span.stop):
                rows = _row_count(path, metadata.row_group(group), problems)
                for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=wanted or None):
                    for at in range(batch.num_rows):
                        number += 1
                        cells = zip(batch.schema.names, batch.columns, strict=True)
                        yield Row({name: column[at].as_py() for name, column in cells}, number)
    except FileNotFoundError:
        raise Unreadable(path, "no such file") from None
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # of a text
        raise Unreadable(path, f"not a readable Parquet file ({str(error).splitlines()[0]})", "damaged") from None


def _row_count(path: Path, group: Any, problems: Problems) -> int:
    """How many rows to hold at once. Raises Unreadable for a row group that decompresses to too much."""
    columns = [group.column(i) for i in range(group.num_columns)]
    packed = sum(c.total_compressed_size for c in columns)
    size = sum(c.total_uncompressed_size for c in columns)
    if size > problems.bounds.free and size > problems.bounds.ratio * packed:
        raise Unreadable(
            path,
            f"a row group of {packed:,} bytes becomes {size:,}, more than {problems.bounds.ratio:g} times as "
            f"many; {problems.bounds.ratio_advice}",
            code="bomb",
        )
    return max(1, min(PARQUET_ROWS, (16 << 20) // max(1, size // max(1, group.num_rows))))


def table_rows(
    path: Path, problems: Problems, *, columns: Sequence[str] | None = None, span: Span | None = None
) -> Iterator[Row]:
    """The rows of a table file, lazily.

    Args:
        columns: what the caller will look at; a column store then reads nothing else (a row may hold more or less).
        span: only this part, for the formats that `splits` names.

    Raises:
        DataError: a file that cannot be read at all, or any bad row under the policy "fatal".
    """
    kind = format_of(path)
    if kind in (".jsonl", ".ndjson", ".json"):
        return json_rows.array_rows(path, problems) if kind == ".json" else json_rows.line_rows(path, problems, span)
    if kind in (".csv", ".tsv"):
        return _csv(path, columns, problems)
    if kind == ".parquet":
        return _parquet(path, columns, problems, span)
    raise DataError(f"{path}: not a table that can be read (known: {', '.join(TABLES)}, each also with .gz)")
