"""Documents on disk: between two passes, and as the output.

Between passes a document is one line of JSON (id, group, meta, bytes of text), then its text as it is: nothing is
escaped, so a document costs little more than copying it.
"""

import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from llmanac.core.errors import DataError
from llmanac.data.documents import Document

_ENCODE = json.JSONEncoder(ensure_ascii=False, default=str).encode
_RARE = bytes([*range(0x08), 0x0B, *range(0x0E, 0x20)])  # controls that JSON writes as \\u00..
_PLAIN = (b"\\", b'"', b"\n", b"\t", b"\r", b"\b", b"\f")
_ESCAPES = [(plain, json.dumps(plain.decode())[1:-1].encode()) for plain in _PLAIN]


class RecordWriter:
    """Writes documents one after the other; `documents`, `bytes` count what was written."""

    def __init__(self, path: Path) -> None:
        self.path, self.documents, self.bytes = path, 0, 0
        self._handle = open(path, "wb", buffering=1 << 20)  # noqa: SIM115 - closed by close()

    def write(self, document: Document, data: bytes) -> None:
        """`data` is the text in UTF-8."""
        try:
            head = json.dumps([document.id, document.group, dict(document.meta), len(data)], default=str)
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{document.id}: its meta is no JSON data ({error}); fix the stage that set it") from None
        self._handle.write(b"".join((head.encode("ascii"), b"\n", data, b"\n")))
        self.documents += 1
        self.bytes += len(data)

    def close(self) -> None:
        self._handle.close()


class Record(NamedTuple):
    """A document as it is on disk, its text in UTF-8."""

    id: str
    group: str
    meta: dict[str, Any]
    data: bytes


def read_raw(path: Path, skip: int = 0) -> Iterator[Record]:
    """The documents of a file, after the first `skip`."""
    with open(path, "rb", buffering=1 << 20) as handle:
        while head := handle.readline():
            name, group, meta, size = json.loads(head)
            if skip:
                skip -= 1
                handle.seek(size + 1, io.SEEK_CUR)
            else:
                yield Record(name, group, meta, handle.read(size))
                handle.read(1)


def places(path: Path) -> Iterator[tuple[str, int, int]]:
    """The id of each document of a file, where its record begins, and how many bytes its text has."""
    with open(path, "rb", buffering=1 << 16) as handle:
        at = 0
        while head := handle.readline():
            name, _, _, size = json.loads(head)
            yield name, at, size
            at = handle.seek(size + 1, io.SEEK_CUR)


def read_at(path: Path, at: int) -> Record:
    """The document whose record begins at byte `at`."""
    with open(path, "rb") as handle:
        handle.seek(at)
        name, group, meta, size = json.loads(handle.readline())
        return Record(name, group, meta, handle.read(size))


def read_records(path: Path) -> Iterator[tuple[Document, bytes]]:
    """The documents of a file, each with its text in UTF-8."""
    for record in read_raw(path):
        yield Document(record.id, record.data.decode("utf-8"), record.group, record.meta), record.data


def encoded(document: Document) -> bytes | None:
    """The text in UTF-8, or None when it holds half a surrogate pair."""
    try:
        return document.text.encode("utf-8")
    except UnicodeEncodeError:
        return None


def json_line(data: dict[str, Any]) -> bytes:
    """One line of JSON Lines. Half a surrogate pair (in an id or in meta) becomes `?`."""
    return _ENCODE(data).encode("utf-8", "replace") + b"\n"


def json_string(data: bytes) -> bytes:
    """Text in UTF-8 as a JSON string, as `json` writes it, at the speed of copying it."""
    if len(data.translate(None, _RARE)) != len(data):
        return _ENCODE(data.decode("utf-8")).encode("utf-8")
    for plain, written in _ESCAPES:
        if plain in data:
            data = data.replace(plain, written)
    return b'"' + data + b'"'


def _json_row(record: Record) -> bytes:
    parts = [_ENCODE(value).encode("utf-8", "replace") for value in (record.id, record.group, record.meta)]
    text = json_string(record.data)
    return b'{"id": %b, "text": %b, "group": %b, "meta": %b}\n' % (parts[0], text, parts[1], parts[2])


def write_output(path: Path, records: Iterable[Record], format: str) -> None:
    """Write one file of the output; the same documents always give the same bytes."""
    if format == "parquet":
        _write_parquet(path, records)
        return
    with contextlib.ExitStack() as stack:
        handle: BinaryIO = stack.enter_context(open(path, "wb", buffering=1 << 20))
        if format == "jsonl.gz":
            # neither the time nor the name goes into the header; level 4 takes half the time of 6 for 5% more bytes
            packed = gzip.GzipFile("", "wb", compresslevel=4, fileobj=handle, mtime=0)
            handle = stack.enter_context(packed)  # type: ignore[assignment]
        for record in records:
            handle.write(_json_row(record))


def _write_parquet(path: Path, records: Iterable[Record]) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, pyarrow.string()) for name in ("id", "text", "group", "meta")])
    rows: list[tuple[bytes, bytes, bytes, bytes]] = []
    held = 0
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:

        def flush() -> None:
            nonlocal held
            columns = [pyarrow.array([row[n] for row in rows], pyarrow.string()) for n in range(4)]
            writer.write_table(pyarrow.table(columns, schema=schema))
            rows.clear()
            held = 0

        for record in records:
            others = (t.encode("utf-8", "replace") for t in (record.id, record.group, _ENCODE(record.meta)))
            name, group, meta = others
            rows.append((name, record.data, group, meta))
            held += len(record.data)
            if held > 16 << 20 or len(rows) >= 16_384:
                flush()
        flush()


def read_output(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of an output file. Raises DataError when it is damaged."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=256):
                    yield from ({**row, "meta": json.loads(row["meta"])} for row in batch.to_pylist())
        else:
            with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as handle:
                for line in handle:
                    yield json.loads(line)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: damaged ({error}); delete it and run its build again") from None
