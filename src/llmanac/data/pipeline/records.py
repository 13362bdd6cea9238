"""Documents on disk: between two passes, and as the output.

Between passes a document is one line of JSON (id, group, meta, bytes of text), then its text as it is: nothing is
escaped, so a document costs little more than copying it.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from llmanac.core.errors import DataError
from llmanac.data.documents import Document


class RecordWriter:
    """Writes documents one after the other; `documents`, `bytes` count what was written."""

    def __init__(self, path: Path) -> None:
        self.path, self.documents, self.bytes = path, 0, 0
        self._handle = open(path, "wb", buffering=1 << 20)  # noqa: SIM115 - closed by close()

    def write(self, document: Document, data: bytes) -> None:
        """`data` is the text in UTF-8."""
        head = json.dumps([document.id, document.group, dict(document.meta), len(data)], default=str)
        self._handle.write(b"".join((head.encode("ascii"), b"\n", data, b"\n")))
        self.documents += 1
        self.bytes += len(data)

    def close(self) -> None:
        self._handle.close()


def read_records(path: Path, skip: int = 0) -> Iterator[Document]:
    """The documents of a file, after the first `skip`. Raises DataError when the file is damaged."""
    try:
        opened = open(path, "rb", buffering=1 << 20)  # noqa: SIM115 - the next line closes it
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}); build anew with --no-resume") from None
    with opened as handle:
        while head := handle.readline():
            try:
                name, group, meta, size = json.loads(head)
                if skip:
                    skip -= 1
                    handle.seek(size + 1, io.SEEK_CUR)
                    continue
                data = handle.read(size)
                if len(data) != size or handle.read(1) != b"\n":
                    raise ValueError("it ends inside a document")
                text = data.decode("utf-8")
            except ValueError as error:
                raise DataError(f"{path}: damaged ({error}); remove it and run the build again") from None
            yield Document(name, text, group, meta)


def encoded(document: Document) -> bytes | None:
    """The text in UTF-8, or None when it holds half a surrogate pair."""
    try:
        return document.text.encode("utf-8")
    except UnicodeEncodeError:
        return None


def json_line(data: dict[str, Any]) -> bytes:
    """One line of JSON Lines. Half a surrogate pair (in an id or in meta) becomes `?`."""
    return json.dumps(data, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"


def _row(document: Document) -> dict[str, Any]:
    return {"id": document.id, "text": document.text, "group": document.group, "meta": dict(document.meta)}


def write_output(path: Path, documents: Iterable[Document], format: str) -> None:
    """Write one file of the output; the same documents always give the same bytes."""
    if format == "parquet":
        _write_parquet(path, documents)
        return
    with contextlib.ExitStack() as stack:
        handle: BinaryIO = stack.enter_context(open(path, "wb", buffering=1 << 20))
        if format == "jsonl.gz":
            # neither the time nor the name goes into the header; level 4 takes half the time of 6 for 5% more bytes
            packed = gzip.GzipFile("", "wb", compresslevel=4, fileobj=handle, mtime=0)
            handle = stack.enter_context(packed)  # type: ignore[assignment]
        for document in documents:
            handle.write(json_line(_row(document)))


def _write_parquet(path: Path, documents: Iterable[Document]) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, pyarrow.string()) for name in ("id", "text", "group", "meta")])
    rows: list[dict[str, Any]] = []
    held = 0
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:

        def flush() -> None:
            nonlocal rows, held
            columns = {name: [row[name] for row in rows] for name in schema.names}
            writer.write_table(pyarrow.table(columns, schema=schema))
            rows, held = [], 0

        for document in documents:
            row = _row(document)
            row["meta"] = json.dumps(row["meta"], ensure_ascii=False, default=str)
            rows.append({k: v.encode("utf-8", "replace").decode("utf-8") for k, v in row.items()})
            held += len(document.text)
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
        raise DataError(f"{path}: damaged ({error}); build it anew with --no-resume") from None
