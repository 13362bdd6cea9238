"""Files of a folder as the rows of its index: those of files that did not change are copied, others are read."""

import hashlib
import os
import time
from array import array
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.core.progress import progress
from llmanac.data.command_problems import up_to_damage
from llmanac.data.quarantine import Problems, Unreadable
from llmanac.data.sources.files import Spec as Files
from llmanac.data.texts import documents_in
from llmanac.data.unpack import BLOCK, CONTAINERS, PAGES, TABLES, format_of, open_binary
from llmanac.retrieve import bm25
from llmanac.retrieve._words import WORDS
from llmanac.retrieve.folder._vectors import place_of
from llmanac.retrieve.folder.chunks import pieces_of

PROSE = (".md", ".markdown", ".rst", ".txt", ".text", "", *PAGES, *TABLES, *CONTAINERS)  # `#` is a heading in these
GROWS = 64 << 20  # bytes by which a file may grow while it is read
SETTLED = 2_000_000_000  # nanoseconds: a file that changed just before it was read is compared by its content
TOLD = 20  # problems of one file that are kept; of the others their number
WORDS_OF = WORDS[bm25.Spec().analyzer]


@dataclass
class Rows:
    """What an index is made of, while it is put together."""

    documents: list[str] = field(default_factory=list)
    passages: list[np.ndarray] = field(default_factory=list)
    text: bytearray = field(default_factory=bytearray)
    words: dict[str, int] = field(default_factory=dict)
    ids: list[np.ndarray] = field(default_factory=list)
    lengths: list[np.ndarray] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)  # the old number of each passage, -1 for a new one


def read_folder(
    folder: Path, place: Path, old: Any, rows: Rows, include: Sequence[str], size: int,
    problems: Problems,
) -> list[str]:  # fmt: skip
    """Fill the rows with all files of a folder, copying those that did not change of `old`, a `FolderIndex` or None."""
    source = Files(paths=(str(folder),), include=tuple(include), on_error=problems.on_error, piece=1 << 26)
    known: dict[str, tuple[dict[str, Any], int, int]] = {}
    first, document = 0, 0
    for record in [] if old is None else old.data["records"]:
        known[record["file"]] = (record, first, document)
        first += sum(count for _, count in record["documents"])
        document += len(record["documents"])
    ends = np.zeros(1, np.int64) if old is None else np.concatenate([[0], np.cumsum(old.arrays["lengths"])])
    own = {place.resolve(), place_of(place).resolve()}
    found = [(p, name) for p, name in source.files(problems) if own.isdisjoint(p.resolve().parents)]
    changed: list[str] = []
    size_now = 0
    with progress("index", len(found), "files") as bar:
        for path, name in found:
            record, start, document = known.get(name, (None, 0, 0))
            try:
                stamp = _stamp(path)
                digest = record["sha256"] if record and record["stamp"] == stamp else _digest(path, stamp[0])
            except (OSError, DataError) as error:  # gone since the folder was looked at, or locked
                why = files.system_reason(error).removeprefix(f"{path}: ")
                problems.report(path, None, f"cannot read it ({why})")
                continue
            if old is not None and record is not None and record["sha256"] == digest:
                _copy(old, record, start, document, ends, rows)
                told, counts = record.get("problems", []), record.get("counts", {})
                for rest, line, reason in told:
                    problems.report(f"{path}{rest}", line, reason)
                problems.counts.update({f"{path}{rest}": more for rest, more in counts.items()})
            else:
                changed.append(name)
                before = len(problems.kept)
                _add(path, name, source, problems, rows, size)
                told = [[p.file.removeprefix(str(path)), p.line, p.reason] for p in problems.kept[before:][:TOLD]]
                counts = {r: problems.counts[f"{path}{r}"] - n for r, n in Counter(r for r, *_ in told).items()}
            settled = stamp if time.time_ns() - max(stamp[1:]) > SETTLED else [stamp[0], 0]
            rows.records[-1] |= {"file": name, "stamp": settled, "sha256": digest, "problems": told, "counts": counts}
            if _stamp(path, gone=[]) != stamp:  # changed while it was read: read again next time
                rows.records[-1] |= {"stamp": [], "sha256": ""}
            size_now += len(rows.passages[-1])
            bar.advance(1, passages=size_now)
    problems.tell_passed()
    return changed


def _stamp(path: Path, gone: list[int] | None = None) -> list[int]:
    """Size and times of a file: of its content, which can be set back, and of its status, which cannot.

    Raises OSError, or returns `gone`, where it cannot be looked at.
    """
    try:
        found = os.stat(path)
    except OSError:
        if gone is None:
            raise
        return gone
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _digest(path: Path, size: int) -> str:
    """The SHA-256 of a regular file. Raises DataError, also where far more comes out of it than its `size`."""
    found, read = hashlib.sha256(), 0
    with files.open_regular(path) as file:
        while block := file.read(BLOCK):
            found.update(block)
            read += len(block)
            if read > size + GROWS:
                raise DataError(f"{path}: it grows while it is read, or is no file of a disk")
    return found.hexdigest()


def _copy(old: Any, record: dict[str, Any], start: int, document: int, ends: np.ndarray, rows: Rows) -> None:
    """Copy the rows of a file, whose first passage and document were numbered `start` and `document`."""
    stop = start + sum(count for _, count in record["documents"])
    table = np.array(old.arrays["passages"][start:stop])
    if len(table):
        begin, end = int(table[0, 1]), int(table[-1, 3])
        table[:, 1:4] += len(rows.text) - begin
        table[:, 0] += len(rows.documents) - document
        rows.text += bytes(old.text[begin:end])
    rows.documents += [document for document, _ in record["documents"]]
    rows.passages.append(table)
    rows.ids.append(np.array(old.arrays["ids"][ends[start] : ends[stop]]))
    rows.lengths.append(np.array(old.arrays["lengths"][start:stop]))
    rows.kept.append(np.arange(start, stop))
    rows.records.append({"documents": record["documents"]})


def _add(path: Path, name: str, source: Files, problems: Problems, rows: Rows, size: int) -> None:
    """Read one file. Where it cannot be read, the problem is taken note of, and it has no passage."""
    documents: list[list[Any]] = []
    table = array("q")
    ids = array("i")
    lengths: list[int] = []
    file, byte, line = "", 0, 0  # a file of plain text, and what its earlier parts had
    for document in up_to_damage(documents_in(path, name, source, problems), path, problems):
        inside = str(document.meta.get("input", name))  # of an archive, the name of one of its files
        kind = format_of(Path(inside))
        plain = kind not in (*TABLES, *PAGES, *CONTAINERS)
        if plain and inside != file:
            file, byte, line = inside, _mark(path) if inside == name else 0, 0
        pieces = pieces_of(document.text, size=size, markup=kind in PROSE)
        for piece in pieces:
            begin = len(rows.text)
            heading = piece.heading.encode()
            rows.text += heading + piece.text.encode()
            place = [byte + piece.start, byte + piece.stop, line + piece.line, line + piece.last]
            if not plain:  # its text has other lines than the file
                place = [piece.start, piece.stop, 0, 0]
            table.extend([len(rows.documents), begin, begin + len(heading), len(rows.text), *place])
            words = WORDS_OF(f"{piece.heading}\n{piece.text}")
            lengths.append(len(words))
            ids.extend([rows.words.setdefault(word, len(rows.words)) for word in words])
        rows.documents.append(inside if plain else document.id)
        documents.append([rows.documents[-1], len(pieces)])
        if plain:
            byte, line = byte + document.bytes, line + document.text.count("\n")
    rows.passages.append(np.frombuffer(table, np.int64).reshape(-1, 8))
    rows.ids.append(np.frombuffer(ids, np.int32))
    rows.lengths.append(np.array(lengths, np.int64))
    rows.kept.append(np.full(len(lengths), -1))
    rows.records.append({"documents": documents})


def _mark(path: Path) -> int:
    """The bytes of a file's byte order mark, which is no part of its text."""
    try:
        with open_binary(path) as file:
            return len(BOM_UTF8) if file.read(len(BOM_UTF8)) == BOM_UTF8 else 0
    except (Unreadable, OSError, EOFError):  # what reads its text says so
        return 0
