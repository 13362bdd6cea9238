"""Texts as commands take them: files of any known format, folders, patterns, and `-` for standard input.

Two views of the same input, whatever it is packed in:

    documents   a text file is one text, a row of a table is one, so is a page, of which only its text is taken
    lines       a line of a text file is one text, a row of a table is one, whatever is in it

A page's text is what the stage `extraction` takes out of it. Standard input is lines of plain text.
"""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from llmanac.core.errors import DataError
from llmanac.core.progress import say_once
from llmanac.core.spec import make_method
from llmanac.data.command_problems import check_packed
from llmanac.data.documents import Document
from llmanac.data.lines import BOMS, text_pieces, why_binary
from llmanac.data.lines import lines as numbered_lines
from llmanac.data.quarantine import Problems, Unreadable
from llmanac.data.readers import table_rows
from llmanac.data.sources.files import Spec as Files
from llmanac.data.sources.files import documents_of, present, row_text
from llmanac.data.stages import Dropped
from llmanac.data.unpack import BLOCK, CONTAINERS, PAGES, STDIN, TABLES, blocks, format_of

STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
OBJECT = b"{["


class TextLine(NamedTuple):
    """One text, the file it is from as messages name it, and its line or row there, 1-based."""

    text: str
    file: str
    line: int


def files_of(paths: Sequence[str | Path], *, column: str = "text", include: Sequence[str] = ()) -> Files:
    """What a command was given, as the source `files`."""
    return Files(paths=tuple(map(str, paths)), text=column, include=tuple(include))


def documents(source: Files, problems: Problems) -> Iterator[Document]:
    """Documents, with text in place of pages; a page without any text is passed over.

    Raises:
        DataError: what cannot be read, or nothing at all; it names file and line.
    """
    yield from _without_markup(source.documents(problems), problems)
    problems.tell_passed()


def documents_in(path: Path, name: str, source: Files, problems: Problems) -> Iterator[Document]:
    """The documents of one file, with text in place of pages; `name` is what messages and ids call it.

    The caller tells what is passed over (`problems.tell_passed`) when all files are read.
    """
    yield from _without_markup(documents_of(path, name, source, problems), problems)


def lines(source: Files, problems: Problems, *, ends: str = "\r") -> Iterator[TextLine]:
    """Lines and rows, blank ones too, each file as often as it is named.

    Args:
        ends: characters that are taken off a line's end with its newline.

    Raises:
        DataError: what cannot be read; it names file and line.
    """
    for path, name in inputs(source, problems):
        if is_plain(path):
            for number, text in numbered_lines(path, _called(path, name, problems), ends=ends):
                if number == 1:
                    _look(text[:1].encode(), name)
                yield TextLine(text, name, number)
        elif format_of(path) in TABLES:
            for row in table_rows(path, problems, columns=present(path, [source.text])):
                found = row_text(path, row, source.text, problems)
                if found is not None:
                    yield TextLine(found, name, row.line)
        else:
            for document in _without_markup(documents_of(path, name, source, problems), problems):
                for number, text in enumerate(document.text.split("\n"), 1):
                    yield TextLine(text, document.id, number)
    problems.tell_passed()


def byte_lines(source: Files, problems: Problems) -> Iterator[tuple[str, Iterator[bytes]]]:
    """`(name, its lines in blocks of bytes)` of each file, the last line with a newline; plain text need not be UTF-8.

    A row of a table is one line or, where its text has several, as many.

    Raises:
        DataError: what cannot be read, or is no text (UTF-16, an archive).
    """
    for path, name in inputs(source, problems):
        if is_plain(path):
            yield name, _plain(path, name, problems)
        else:
            only = replace(source, paths=(str(path),))
            yield name, _joined(line.text for line in lines(only, problems))


def whole(source: Files, problems: Problems) -> Iterator[TextLine]:
    """Each file of plain text as one text, newlines and all; of other formats each row or document."""
    for path, name in inputs(source, problems):
        if is_plain(path):
            pieces = text_pieces(path, _called(path, name, problems), limit=1 << 30)
            yield TextLine("".join(pieces), name, 1)
        elif format_of(path) in TABLES:
            yield from lines(replace(source, paths=(str(path),)), problems)
        else:
            found = _without_markup(documents_of(path, name, source, problems), problems)
            yield from (TextLine(document.text, document.id, 1) for document in found)
    problems.tell_passed()


def inputs(source: Files, problems: Problems) -> Iterator[tuple[Path, str]]:
    """Each file with the name that messages give it. Raises DataError for a path that is not there."""
    if not source.paths:
        raise DataError("no input; name a file, a folder or a pattern, or - for standard input")
    for given in source.paths:
        if given == "-" or given == STREAMS[0]:
            yield STDIN, "standard input"
        elif given.startswith(STREAMS):
            yield Path(given), given
        else:
            yield from ((path, str(path)) for path, _ in replace(source, paths=(given,)).files(problems))


def is_plain(path: Path) -> bool:
    """Whether a file is read as it is: no table, no page and no container of others."""
    return path == STDIN or format_of(path) not in (*TABLES, *PAGES, *CONTAINERS)


def is_table(path: Path, problems: Problems) -> bool:
    """Whether a file is rows; else it is lines of text.

    Raises:
        Unreadable: a page or a container; a file that decompresses to more than the bounds allow.
    """
    table = format_of(path) in TABLES
    if not table and not is_plain(path):
        raise Unreadable(
            path,
            f"{format_of(path)} is neither lines of text nor a table; take its text out first, with "
            "`llmanac data build` and the stage extraction",
            code="unknown-format",
        )
    check_packed(path, problems)
    return table


def _called(path: Path, name: str, problems: Problems) -> Problems:
    return problems.named(name) if path == STDIN else problems


def _joined(texts: Iterable[str]) -> Iterator[bytes]:
    """Texts as lines, in blocks of some size."""
    held: list[bytes] = []
    size = 0
    for text in texts:
        held.append(f"{text}\n".encode("utf-8", "replace"))
        size += len(held[-1])
        if size >= BLOCK:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def _plain(path: Path, name: str, problems: Problems) -> Iterator[bytes]:
    last, begun, at = b"\n", False, 0
    for block in blocks(path, problems):
        if not block.startswith(tuple(BOMS)) and (why := why_binary(block, at)):
            raise Unreadable(name, why, code="not-text")
        at += len(block)
        if not begun:
            if block.startswith(tuple(BOMS)):
                raise DataError(f"{name}: is UTF-16; convert it to UTF-8, for example with iconv")
            block, begun = block.removeprefix(codecs.BOM_UTF8), True
            _look(block[:1], name)
        yield block
        last = block[-1:] or last
    if last != b"\n":
        yield b"\n"


def _look(begin: bytes, name: str) -> None:
    """Say so where standard input begins as JSON does: which format it has, nothing says."""
    if begin and begin in OBJECT and name == "standard input":
        say_once(
            "note: standard input is read as plain text, though it begins as JSON does; name a .jsonl file for rows"
        )


def _without_markup(found: Iterable[Document], problems: Problems) -> Iterator[Document]:
    extraction: Any = None
    for document in found:
        if document.meta.get("format") != "html":
            yield document
            continue
        extraction = extraction or make_method("stage", "extraction", "stage").build()
        say_once(
            "note: of pages of HTML only the text is taken; give the ending .txt to what is to be read with its tags"
        )
        text = extraction.one(document)
        if isinstance(text, Dropped):
            problems.pass_over(document.id, f"there is no text in this page ({text.detail})", code="no-text")
        else:
            yield text
