"""Text files, tables and web pages on this machine, one by one or a folder with all its subfolders.

A text file is one document (cut into pieces only where it is longer than `piece` characters, so that a corpus in one
file need not fit in memory); a row of a table (JSON Lines, JSON, CSV, Parquet) is one document, its text in the column
named by `text`; so is an HTML file, a page of a WARC archive, and a PDF (`data/pages.py`). Files are taken in the order
of their paths, so two runs read the same stream. In a folder, links to folders and links that lead out of it are not
followed; a file that is named, or that a pattern names, is read wherever it is.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, nearest
from llmanac.core.files import readable, system_reason
from llmanac.core.ranges import Range, within
from llmanac.core.stores import STORE, pull
from llmanac.data import pages, unpack
from llmanac.data.archives import zip_documents
from llmanac.data.columns import Row, no_column
from llmanac.data.command_problems import up_to_damage
from llmanac.data.documents import Document, UniqueNames
from llmanac.data.lines import text_pieces
from llmanac.data.pages import INSTALL, missing_library
from llmanac.data.quarantine import OnError, Problems
from llmanac.data.readers import table_rows
from llmanac.data.sources import SourceSpec
from llmanac.data.unpack import KNOWN, TABLES, Span, format_of

# how files that are neither plain text nor tables are read
PAGES = dict.fromkeys(unpack.PAGES, pages.html_documents) | {
    ".warc": pages.warc_documents, **dict.fromkeys(unpack.BOOKS, pages.book_documents),
}  # fmt: skip
CARD = {
    "title": "Files: text, source code, .jsonl(.gz), .csv, .parquet, .html, .warc(.gz), .pdf, office, .zip, or folders",
    "aliases": {
        "html": {"include": ["*.html", "*.htm", "*.xhtml", "*.html.gz"]},
        "warc": {"include": ["*.warc", "*.warc.gz"]},
        "pdf": {"include": ["*.pdf"]},
    },
    "test": "tests/contracts/test_sources.py::test_every_format_gives_the_same_documents",
}


@dataclass(frozen=True, kw_only=True)
class Spec(SourceSpec):
    """Where the files are and how a row becomes a document.

    Attributes:
        paths: files, folders (read recursively) or glob patterns; or folders and objects of stores (`s3://...`).
        text: the column that holds the text, for tables.
        group: the column whose value groups documents for the split; every row is its own group where it is not given.
        include: glob patterns on the path below a folder (`*.md`, `docs/*`); empty takes every known format.
        on_error: "fatal" stops at the first unusable file or row, "skip" sets it aside and counts it.
        quarantine: the file that lists what was set aside.
        piece: characters after which a long text file continues as a further document.
        license: what the manifest says of the text's licence; unknown where it is empty.
    """

    paths: tuple[str, ...] = ()
    text: str = "text"
    group: str | None = None
    include: tuple[str, ...] = ()
    on_error: OnError = "fatal"
    quarantine: str = "quarantine.jsonl"
    piece: int = 1_000_000
    license: str = ""

    ranges = within(Range(1000), "piece")

    def problems(self) -> Problems:
        return Problems(self.on_error, self.quarantine)

    def documents(self, problems: Problems | None = None) -> Iterator[Document]:
        if not self.paths:
            raise DataError("paths: no input; name a file, a folder or a glob pattern")
        problems = self.problems() if problems is None else problems
        given = 0
        for path, shown in list(self.files(problems)):
            for document in up_to_damage(documents_of(path, shown, self, problems), path, problems):
                given += 1
                yield document
        problems.save()
        problems.tell_passed()
        if not given:
            raise _empty(self.paths, problems)

    def files(self, problems: Problems | None = None) -> Iterator[tuple[Path, str]]:
        """Every file to read, with the name it is shown under.

        Args:
            problems: learns what else is there, and says it when all files are known.

        Raises:
            DataError: a path is not there, or a file or folder may not be read and `problems` do not skip such input.
        """
        for found in self.found():
            if found.why == "unreadable" and problems is not None and problems.on_error == "skip":
                problems.report(found.path, None, found.detail)
                continue
            if found.why == "unreadable":
                raise DataError(f"{found.path}: {found.detail}; fix its permissions, or take it out")
            module = "" if found.why or str(found.path) in self.paths else missing_library(format_of(found.path))
            if module and problems is not None:  # of a folder; a file that is named is refused where it is read
                detail = f"{module} is not installed, which reads {format_of(found.path)} files; run `{INSTALL}`"
                problems.pass_over(found.path, detail, code="not-installed")
            elif not found.why:
                yield found.path, found.shown
            elif problems is not None:
                problems.pass_over(found.path, found.detail, code=found.why)
        if problems is not None:
            problems.tell_passed()

    def found(self) -> Iterator[FoundFile]:
        """Every file, also those of the folders that cannot be read, in order; each name is there once.

        Raises:
            DataError: a path is not there, is no regular file, or there is nothing to read.
        """
        seen: set[str] = set()
        names = UniqueNames()
        for given in self.paths:
            for found in _expand(str(pull(given)) if STORE.match(given) else given, self.include):
                real = str(found.path) if found.why else os.path.realpath(found.path)
                if real not in seen:
                    seen.add(real)
                    yield replace(found, shown=names.free(readable(found.shown)))


@dataclass(frozen=True)
class FoundFile:
    """A file of an input: where it is, the name it is shown under, and why it is not read (in a word and in words)."""

    path: Path
    shown: str
    why: str = ""
    detail: str = ""


def documents_of(
    path: Path, shown: str, spec: Spec, problems: Problems, span: Span | None = None
) -> Iterator[Document]:
    """The documents of one file, whatever its format; of `spec` `text`, `group`, `piece` and `license` count."""
    meta = {"input": shown, "license": spec.license}
    kind = format_of(path)
    if kind == ".zip":
        yield from zip_documents(path, shown, problems, lambda p, name, found: documents_of(p, name, spec, found))
        return
    if kind in PAGES:
        yield from PAGES[kind](path, shown, meta, problems)
        return
    if kind not in TABLES:
        blank = True
        most = problems.bounds.text_line
        limit = spec.piece if most is None else min(spec.piece, most)
        pieces = text_pieces(path, problems, limit=limit, most=most)
        for number, piece in enumerate(pieces):
            if piece.strip():
                blank = False
                yield Document(shown if number == 0 else f"{shown}#{number}", piece, shown, meta)
        if blank and not problems.counts[str(path)]:
            problems.blank(path, None)
        return
    columns = [spec.text] + ([spec.group] if spec.group else [])
    rows = table_rows(path, problems, columns=present(path, columns), span=span)
    if kind == ".json" and str(path) not in spec.paths:  # in a folder: perhaps settings, no data
        first = list(itertools.islice(rows, 2))
        if len(first) == 1 and spec.text not in first[0].values:
            problems.pass_over(path, f"it is one object with {no_column(spec.text, first[0].values)}", code="no-text")
            return
        rows = itertools.chain(first, rows)
    for row in rows:
        text = row_text(path, row, spec.text, problems)
        if text is None:
            continue
        if not text.strip():
            problems.blank(path, row.line)
            continue
        name = f"{shown}:{row.line}"
        group = name if spec.group is None else str(_value(path, row, spec.group, problems))
        yield Document(name, text, group, meta)


def present(path: Path, columns: list[str]) -> list[str] | None:
    """The wanted columns, or None (read all, so that the error can name them) when a column store lacks one."""
    if path.suffix != ".parquet":
        return columns
    import pyarrow.parquet

    try:
        have = pyarrow.parquet.read_schema(path).names
    except Exception:  # the reader proper says what is wrong with the file
        return None
    return columns if set(columns) <= set(have) else None


def _value(path: Path, row: Row, column: str, problems: Problems) -> Any:
    if column in row.values:
        return row.values[column]
    problems.report(path, row.line, no_column(column, row.values), code="no-text")
    return None


def row_text(path: Path, row: Row, column: str, problems: Problems) -> str | None:
    """The text of a table's row, perhaps blank; None, and a problem, where the column holds none."""
    if column not in row.values:
        return _value(path, row, column, problems)
    text = row.values[column]
    if not isinstance(text, str):
        kind = "null" if text is None else type(text).__name__
        problems.report(
            path, row.line, f"column {column!r} holds {kind} where text was expected", repr(text)[:2000], code="no-text"
        )
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        reason = f"column {column!r} holds half a surrogate pair at character {error.start}"
        problems.report(path, row.line, reason, code="not-unicode")
        return None
    return text


def _expand(given: str, include: tuple[str, ...]) -> Iterator[FoundFile]:
    path = Path(given).expanduser()
    if given == "-":
        raise DataError("-: standard input cannot be read here; write it to a file and name that")
    if (reason := _out_of_reach(path)) is not None:
        raise DataError(f"{given}: cannot read it ({reason})")
    if path.is_dir():
        yield from _walk(path, include)
    elif path.is_file():
        yield FoundFile(path, path.name)
    elif path.exists():  # a pipe would wait for its writer, a device may never end
        raise DataError(f"{given}: is no regular file; copy what comes out of it to one")
    elif glob.has_magic(given):
        found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if not p.is_dir())
        if not any(p.is_file() for p in found):
            raise DataError(f"{given}: no file matches this pattern")
        yield from (FoundFile(p, p.as_posix(), *_no_file(p)) for p in found)
    else:
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{given}: no such file or folder{nearest(path.name, siblings)}")


def _out_of_reach(path: Path) -> str | None:
    """What keeps a path from being looked at, as the system puts it; None where it is there or it is not."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        return system_reason(error)
    return None


def _no_file(path: Path) -> tuple[str, str]:
    """Why there is nothing to read at a path, without opening it; empty where there is a file."""
    if path.is_file():
        return ("", "") if os.access(path, os.R_OK) else ("unreadable", "the file may not be read")
    what = "a link to a file that is not there" if path.is_symlink() else "a pipe, a socket or a device"
    return "not-a-file", f"it is {what}"


def _leads_out(path: Path, root: str) -> tuple[str, str] | None:
    """Why a link to a file is not followed: it leaves the folder `root` (a real path); None for all others."""
    if not os.path.realpath(path).startswith(os.path.join(root, "")) and path.is_file():
        return "linked-outside", "links that lead out of the folder are not followed; name the file itself to read it"
    return None


def _walk(root: Path, include: tuple[str, ...]) -> Iterator[FoundFile]:
    """What is in a folder and below it; hidden files and folders (`.git`) are no part of it."""
    seen: set[str] = set()
    found: list[FoundFile] = []
    real = os.path.realpath(root)

    def unreadable(error: OSError) -> None:
        path = Path(error.filename)
        found.append(FoundFile(path, _below(path, root), "unreadable", f"the folder cannot be read ({error.strerror})"))

    for folder, folders, names in _tree(root, unreadable):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__pycache__")))
        for name in folders:
            if (path := Path(folder) / name).is_symlink():
                found.append(FoundFile(path, _below(path, root), "linked-folder", "links to folders are not followed"))
        for name in names:
            path = Path(folder) / name
            below = path.relative_to(root)
            if name.startswith(".") or (include and not any(below.match(p) for p in include)):
                continue
            seen.add(path.suffix.lower() or name)
            why, detail = (path.is_symlink() and _leads_out(path, real)) or _no_file(path)
            if not why and not include and format_of(path) not in KNOWN:
                why = "unknown-format"
                detail = f"{format_of(path) or 'no suffix'} is no known format; name it, or choose it with include"
            found.append(FoundFile(path, below.as_posix(), why, detail))
    if all(item.why for item in found):
        what = f"matches {', '.join(include)}" if include else "has a known format"
        has = ", ".join(sorted(seen if not include else _suffixes(root))[:8]) or "nothing"
        raise DataError(f"{root}: no file in this folder {what} (it holds: {has}); choose others with include")
    yield from sorted(found, key=lambda item: item.shown)


def _tree(
    root: Path, onerror: Callable[[OSError], None] = lambda error: None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk` without links, for folders of any depth: that of Python 3.11 calls itself a level at a time."""
    pending = [str(root)]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
        except OSError as error:
            onerror(error)
            continue
        folders: list[str] = []
        names: list[str] = []
        for entry in found:
            (folders if os.path.isdir(entry.path) else names).append(entry.name)
        yield folder, folders, names
        below = (os.path.join(folder, name) for name in reversed(folders))
        pending += [path for path in below if not os.path.islink(path)]


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _suffixes(root: Path) -> set[str]:
    return {Path(name).suffix.lower() or name for _, _, names in _tree(root) for name in names if name[0] != "."}


def _empty(paths: tuple[str, ...], problems: Problems) -> DataError:
    if problems.total:
        first = problems.kept[0]
        return DataError(
            f"{', '.join(paths)}: no usable text; all {problems.total} rows were set aside, the first: {first}"
        )
    return DataError(f"{', '.join(paths)}: the corpus is empty; every file is blank")
