"""File formats: plain text in pieces, and rows out of JSON Lines, JSON, CSV and Parquet, compressed or not.

Every reader is lazy and bounded: a file larger than memory can be read, a line longer than `Bounds.line` is skipped
without being held, a compressed file that swells past `Bounds.ratio` is left where it does so, and every error names
the file with its line, row or byte.
"""

from __future__ import annotations

import codecs
import csv
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, nearest
from llmanac.data.quarantine import SHOWN, Problems, Unreadable
from llmanac.data.unpack import TABLES, Span, blocks, format_of, unpacked

SHOWN_NAMES, SHOWN_NAME = 20, 60  # columns that a message lists, and characters of each
PARQUET_ROWS = 64  # rows that are held at once; a row may be as long as a document may be
NULS, FEWEST_NULS = 0.01, 16  # share and number of NUL bytes in a block from which on it is no text
BOMS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


@dataclass(frozen=True)
class Row:
    """One row of a table: its values, and where it stands (1-based line or row)."""

    values: Mapping[str, Any]
    line: int


def why_binary(block: bytes, at: int) -> str:
    """What shows that a block of a file, from byte `at` on, is no text; empty where nothing does."""
    nuls = block.count(0)
    if nuls < max(FEWEST_NULS, NULS * len(block)):
        return ""
    found = f"from byte {at + block.find(0)} on it is binary: {nuls:,} of {len(block):,} bytes are NUL"
    return f"{found} (UTF-16 without its mark?)"


def not_utf8(block: bytes, at: int, byte: int) -> str:
    guess = next((name for bom, name in BOMS.items() if at == 0 and block.startswith(bom)), None)
    hint = f"it looks like {guess}" if guess else f"byte 0x{byte:02x}"
    return f"not UTF-8 at byte {at} ({hint}); convert it to UTF-8, for example with iconv"


def text_pieces(path: Path, problems: Problems, *, limit: int, most: int | None = None) -> Iterator[str]:
    """A text file's content in pieces of about `limit` characters, cut after a blank line where one is near.

    A file that is not UTF-8 is one problem, named with its byte offset; nothing of it is used after that byte.

    Args:
        most: bytes that a piece may have; a single line of more is a problem of its own and left out, and a file of
            NUL bytes is refused where they begin.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    held, seen = "", 0
    for at, block in _offsets(blocks(path, problems)) if most is None else _short_lines(path, problems, most):
        if not block:  # a line was left out: what came before it ends here
            yield from _fitting(held, most)
            held = ""
            continue
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block)
        except UnicodeDecodeError as error:
            where = at - pending + error.start
            problems.report(path, None, not_utf8(block, where, error.object[error.start]), code="not-utf8")
            return
        if at == 0:
            text = text.removeprefix("\ufeff")
        seen = at + len(block)
        held += text
        while len(held) > limit:
            cut = _cut(held, limit)
            yield from _fitting(held[:cut], most)
            held = held[cut:]
    if decoder.getstate()[0]:
        where = seen - len(decoder.getstate()[0])
        problems.report(path, None, f"not UTF-8 at byte {where} (it ends inside a character)", code="not-utf8")
        return
    yield from _fitting(held, most)


def _offsets(found: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    at = 0
    for block in found:
        yield at, block
        at += len(block)


def _fitting(piece: str, most: int | None) -> Iterator[str]:
    """A piece, or its parts where it has more than `most` bytes."""
    if most is None or len(piece) < 2 or 4 * len(piece) <= most or len(piece.encode("utf-8", "surrogatepass")) <= most:
        if piece:
            yield piece
        return
    cut = _cut(piece, max(1, len(piece) // 2))
    yield from _fitting(piece[:cut], most)
    yield from _fitting(piece[cut:], most)


def _cut(text: str, limit: int) -> int:
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, limit // 2, limit)
        if at >= 0:
            return at + len(mark)
    return limit


def _short_lines(path: Path, problems: Problems, most: int) -> Iterator[tuple[int, bytes]]:
    """A text file's bytes, each part with its offset; a line of more than `most` bytes is left out for an empty part.

    Parts end where lines do. At most `most` bytes and a block are held.
    """
    held: list[bytes] = []
    number, size = 1, 0  # of the unfinished line: its number, and its bytes up to this block
    for at, block in _offsets(blocks(path, problems)):
        if not (at == 0 and block.startswith(tuple(BOMS))) and (reason := why_binary(block, at)):
            problems.report(path, None, reason, code="not-text")
            return
        start, end = 0, block.find(b"\n")
        while end >= 0:  # to the end of the unfinished line; then over all the short lines that follow at once
            if size + end - start > most:
                reason = f"a line of {size + end - start:,} bytes, more than {most:,} ({problems.bounds.longer})"
                problems.report(path, number, f"{reason}; it is left out", code="too-large")
                yield at, b""
            elif part := b"".join([*held, block[start : end + 1]]):
                yield at + start - size, part
            held.clear()
            number, start, size = number + block.count(b"\n", start, end + 1), end + 1, 0
            end = block.rfind(b"\n", start) if len(block) - start <= most else block.find(b"\n", start)
        size += len(block) - start
        if size <= most:
            held.append(block[start:])
        else:
            held.clear()
    if size > most:
        reason = f"a line of {size:,} bytes, more than {most:,} ({problems.bounds.longer}); it is left out"
        problems.report(path, number, reason, code="too-large")
    elif size:
        yield at + len(block) - size, b"".join(held)


def lines(path: Path, problems: Problems, span: Span | None = None, *, ends: str = "\r") -> Iterator[tuple[int, str]]:
    """Lines with their numbers; one that is not UTF-8, or longer than `Bounds.line`, is a problem of its own.

    Args:
        ends: characters that are taken off the end of a line beside its newline.
    """
    limit = problems.bounds.line
    number, offset = (1, 0) if span is None else (span.line, span.start)
    held: list[bytes] = []
    size = 0  # bytes of the unfinished line; what is past `limit` is counted and not held

    def finish(last: bytes) -> Iterator[tuple[int, str]]:
        line = b"".join([*held, last]) if held else last
        if size + len(last) > limit:
            reason = f"a line of {size + len(last):,} bytes, more than {limit:,} ({problems.bounds.longer})"
            reason += "; it is left out"
            problems.report(path, number, reason, line[:SHOWN].decode("utf-8", "replace"), code="too-large")
            return
        text = _decode_line(path, number, line, offset, problems)
        if text is not None:
            yield number, text.rstrip(ends)

    for block in blocks(path, problems, span):
        *whole, rest = block.split(b"\n")
        for line in whole:
            yield from finish(line)
            number, offset, size = number + 1, offset + size + len(line) + 1, 0
            held.clear()
        if rest:
            size += len(rest)
            if size <= limit or not held:
                held.append(rest)
            elif len(held) > 1:
                held[:] = [held[0][:SHOWN]]
    if size:
        size, last = size - len(held[-1]), held.pop()
        yield from finish(last)


def _decode_line(path: Path, number: int, line: bytes, offset: int, problems: Problems) -> str | None:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        reason = not_utf8(line, offset + error.start, error.object[error.start])
        problems.report(path, number, reason, line.decode("utf-8", "replace"), code="not-utf8")
        return None


def check_columns(path: Path, names: Sequence[str], wanted: Sequence[str] | None) -> None:
    """Raise Unreadable for a column that is there twice and looked at: which of the two is meant, nobody can say."""
    seen: set[str] = set()
    for name in names:
        if name in seen and (wanted is None or name in wanted):
            raise Unreadable(
                f"{path}: the column {name[:SHOWN_NAME]!r} is there twice; rename one of the two", "two-columns"
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


def _csv(path: Path, columns: Sequence[str] | None, problems: Problems) -> Iterator[Row]:
    csv.field_size_limit(min(1 << 30, problems.bounds.line))
    reader = csv.reader(
        (line + "\n" for _, line in lines(path, problems)), delimiter="\t" if format_of(path) == ".tsv" else ","
    )
    try:
        header = next(reader, None)
        if header is not None:
            # separators at a line's end make columns without a name: each is kept under its number
            blank = {*[number for number, name in enumerate(header) if not name][1:]}
            header = [f"column {number + 1}" if number in blank else name for number, name in enumerate(header)]
            check_columns(path, header, columns)
        for values in reader:
            if header is None or not values:
                continue
            if len(values) != len(header):
                reason = f"{len(values)} fields where the header has {len(header)}"
                problems.report(path, reader.line_num, reason, ",".join(values), code="not-csv")
                continue
            yield Row(dict(zip(header, values, strict=True)), reader.line_num)
    except csv.Error as error:
        problems.report(path, reader.line_num, f"not CSV ({error}); the rest of it is left out", code="not-csv")


def _parquet(path: Path, columns: Sequence[str] | None, problems: Problems, span: Span | None) -> Iterator[Row]:
    with unpacked(path, problems) as plain:
        try:
            yield from _row_groups(plain, columns, problems, span)
        except Unreadable as error:
            raise Unreadable(str(error).replace(str(plain), str(path)), error.code) from None


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
    except (pyarrow.ArrowException, OSError) as error:
        raise Unreadable(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})", "damaged") from None


def _row_count(path: Path, group: Any, problems: Problems) -> int:
    """How many rows to hold at once. Raises Unreadable for a row group that swells past the bounds."""
    columns = [group.column(i) for i in range(group.num_columns)]
    packed = sum(c.total_compressed_size for c in columns)
    size = sum(c.total_uncompressed_size for c in columns)
    if size > problems.bounds.free and size > problems.bounds.ratio * packed:
        raise Unreadable(
            f"{path}: a row group of {packed:,} bytes becomes {size:,}, more than {problems.bounds.ratio:g} times as "
            f"many; {problems.bounds.swollen}",
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
        from llmanac.data import json_rows

        return json_rows.array_rows(path, problems) if kind == ".json" else json_rows.line_rows(path, problems, span)
    if kind in (".csv", ".tsv"):
        return _csv(path, columns, problems)
    if kind == ".parquet":
        return _parquet(path, columns, problems, span)
    raise DataError(f"{path}: not a table that can be read (known: {', '.join(TABLES)}, each also with .gz)")
