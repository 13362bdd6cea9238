"""File formats: plain text in pieces, and rows out of JSON Lines, JSON, CSV and Parquet, compressed or not.

Every reader is lazy, so a file larger than memory can be read, and every error names the file with its line, row or
byte.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from llmanac.core.errors import DataError
from llmanac.data.quarantine import Problems

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_TEXTS = """.txt .text .md .markdown .rst .tex .log .py .pyi .ipynb .js .ts .jsx .tsx .java .c .h .cc .cpp .hpp .cs .go
.rs .rb .php .swift .kt .scala .sh .sql .r .jl .lua .pl .hs .ml .toml .yaml .yml .ini .cfg .html .css .xml"""
TEXTS = tuple(_TEXTS.split())
BLOCK = 1 << 20
BOMS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


@dataclass(frozen=True)
class Row:
    """One row of a table: its values, and where it stands (1-based line or row)."""

    values: Mapping[str, Any]
    line: int


def format_of(path: Path) -> str:
    """The suffix that decides how a file is read, compression taken off: `a.jsonl.gz` -> `.jsonl`."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def open_binary(path: Path) -> BinaryIO:
    """A file's bytes, decompressed. Raises DataError that names the file."""
    try:
        suffix = path.suffix.lower()
        if suffix == ".zst":
            import pyarrow

            return cast(BinaryIO, io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd")))
        if suffix in (".bz2", ".xz"):
            import bz2
            import lzma

            return cast(BinaryIO, bz2.open(path) if suffix == ".bz2" else lzma.open(path))
        return cast(BinaryIO, gzip.open(path)) if suffix == ".gz" else open(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror or error})") from None


def _blocks(path: Path) -> Iterator[bytes]:
    with open_binary(path) as handle:
        try:
            while block := handle.read(BLOCK):
                yield block
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise DataError(f"{path}: cannot read it to its end ({error}); is it truncated?") from None
        except Exception as error:  # lzma.LZMAError and pyarrow's errors have no common base
            raise DataError(f"{path}: cannot decompress it ({error})") from None


def _not_utf8(block: bytes, at: int, byte: int) -> str:
    guess = next((name for bom, name in BOMS.items() if at == 0 and block.startswith(bom)), None)
    hint = f"it looks like {guess}" if guess else f"byte 0x{byte:02x}"
    return f"not UTF-8 at byte {at} ({hint}); convert it to UTF-8, for example with iconv"


def text_pieces(path: Path, problems: Problems, *, limit: int) -> Iterator[str]:
    """A text file's content in pieces of about `limit` characters, cut after a blank line where one is near.

    A file that is not UTF-8 is one problem, named with its byte offset; nothing of it is used after that byte.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    held, seen = "", 0
    for block in _blocks(path):
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block)
        except UnicodeDecodeError as error:
            at = seen - pending + error.start
            problems.report(path, None, _not_utf8(block, at, error.object[error.start]))
            return
        if seen == 0:
            text = text.removeprefix("\ufeff")
        seen += len(block)
        held += text
        while len(held) > limit:
            cut = _cut(held, limit)
            yield held[:cut]
            held = held[cut:]
    if decoder.getstate()[0]:
        problems.report(
            path, None, f"not UTF-8 at byte {seen - len(decoder.getstate()[0])} (it ends inside a character)"
        )
        return
    if held:
        yield held


def _cut(text: str, limit: int) -> int:
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, limit // 2, limit)
        if at >= 0:
            return at + len(mark)
    return limit


def _lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; a line that is not UTF-8 is a problem of its own."""
    number, rest, offset = 0, b"", 0
    for block in _blocks(path):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            number += 1
            text = _decode_line(path, number, line, offset, problems)
            offset += len(line) + 1
            if text is not None:
                yield number, text
    if rest:
        text = _decode_line(path, number + 1, rest, offset, problems)
        if text is not None:
            yield number + 1, text


def _decode_line(path: Path, number: int, line: bytes, offset: int, problems: Problems) -> str | None:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r")
    except UnicodeDecodeError as error:
        reason = _not_utf8(line, offset + error.start, error.object[error.start])
        problems.report(path, number, reason, line.decode("utf-8", "replace"))
        return None


def _json_lines(path: Path, problems: Problems) -> Iterator[Row]:
    for number, line in _lines(path, problems):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = error.msg + f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            problems.report(path, number, f"not JSON ({reason})", line)
            continue
        if not isinstance(value, dict):
            problems.report(path, number, f"expected a JSON object, got {type(value).__name__}", line)
            continue
        yield Row(value, number)


def _json_array(path: Path, problems: Problems) -> Iterator[Row]:
    data = b"".join(_blocks(path))
    try:
        values = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        problems.report(path, None, _not_utf8(data, error.start, data[error.start]))
        return
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object a line, whatever the file is called
            yield from _json_lines(path, problems)
            return
        problems.report(path, error.lineno, f"not JSON ({error.msg} at column {error.colno})")
        return
    for number, value in enumerate(values if isinstance(values, list) else [values], 1):
        if isinstance(value, dict):
            yield Row(value, number)
        else:
            problems.report(path, number, f"expected a JSON object, got {type(value).__name__}")


def _csv(path: Path, problems: Problems) -> Iterator[Row]:
    csv.field_size_limit(1 << 30)
    reader = csv.reader(
        (line + "\n" for _, line in _lines(path, problems)), delimiter="\t" if format_of(path) == ".tsv" else ","
    )
    try:
        header = next(reader, None)
        for values in reader:
            if header is None or not values:
                continue
            if len(values) != len(header):
                reason = f"{len(values)} fields where the header has {len(header)}"
                problems.report(path, reader.line_num, reason, ",".join(values))
                continue
            yield Row(dict(zip(header, values, strict=True)), reader.line_num)
    except csv.Error as error:
        problems.report(path, reader.line_num, f"not CSV ({error})")


def _parquet(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            have = file.schema_arrow.names
            wanted = None if columns is None else [c for c in have if c in columns]
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=wanted or None):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, number)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None


def table_rows(path: Path, problems: Problems, *, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a table file, lazily.

    Args:
        columns: what the caller will look at; a column store then reads nothing else (a row may hold more or less).

    Raises:
        DataError: a file that cannot be read at all, or any bad row under the policy "fatal".
    """
    kind = format_of(path)
    if kind in (".jsonl", ".ndjson"):
        return _json_lines(path, problems)
    if kind == ".json":
        return _json_array(path, problems)
    if kind in (".csv", ".tsv"):
        return _csv(path, problems)
    if kind == ".parquet":
        return _parquet(path, columns)
    raise DataError(f"{path}: not a table that can be read (known: {', '.join(TABLES)}, each also with .gz)")
