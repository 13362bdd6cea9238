"""A document as passages: runs of complete blocks, with their byte offsets, lines and headings.

A block is a heading, a fenced code block, or lines up to a blank one. Blocks are joined until `size` characters are
reached. A heading begins a passage and stays with what follows it; a fenced block is kept in one piece up to `CODE`
times the size. Longer blocks are cut between lines, longer lines between sentences or words. Passages neither overlap
nor leave out text: joined, they are the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

SIZE = 800  # characters of a passage: under the 256 tokens that small encoders read
CODE = 3  # a fenced block may be so many times as long
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(\S.*?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_UNDERLINE = re.compile(r"(=+|-+|~+|\^+)[ \t]*$")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_BREAK = re.compile(r"(?<=[.!?])\s+")


class Piece(NamedTuple):
    """One passage of a document.

    Attributes:
        start, stop: bytes of the document's UTF-8; line, last: its first and last lines that are not blank, from 1.
        heading: the headings above it, joined by " > ".
        text: as it is in the document.
    """

    start: int
    stop: int
    line: int
    last: int
    heading: str
    text: str


class _Block(NamedTuple):
    text: str
    level: int  # of a heading, else 0
    title: str
    code: bool


def pieces_of(text: str, *, size: int = SIZE, markup: bool = True) -> list[Piece]:
    """The passages of a document.

    Args:
        size: characters of a passage, at least 1.
        markup: whether headings and fences are those of Markdown and reStructuredText; in program code a `#` begins a
            comment.
    """
    out: list[Piece] = []
    headings: list[tuple[int, str]] = []
    held: list[str] = []
    at, line, above, body = 0, 1, "", False

    def close() -> None:
        nonlocal at, line, held
        joined = "".join(held)
        stop, lines = at + len(joined.encode("utf-8")), joined.count("\n")
        if joined.strip():
            blank = joined[: len(joined) - len(joined.lstrip())].count("\n")
            out.append(Piece(at, stop, line + blank, line + joined.rstrip().count("\n"), above, joined))
        elif out and joined:  # blank lines belong to what is before them
            before = out[-1]
            out[-1] = before._replace(stop=stop, text=before.text + joined)
        at, line, held = stop, line + lines, []

    for block in _blocks(text) if markup else _plain(text):
        length = sum(map(len, held))
        # a new passage at a heading, unless only headings are held; and where the block no longer fits
        if held and ((block.level and body) or (body and block.text.strip() and length + len(block.text) > size)):
            close()
            body = False
        if block.level:
            headings = [(level, title) for level, title in headings if level < block.level]
            headings.append((block.level, block.title))
        if not held or block.level:
            above = " > ".join(title for _, title in headings)
        most = size * CODE if block.code else size
        for part in _cut(block.text, most) if len(block.text) > most else [block.text]:
            if body and sum(map(len, held)) + len(part) > most and part.strip():
                close()
                body = False
            held.append(part)
            body = body or (not block.level and bool(part.strip()))
    close()
    return out


def _blocks(text: str) -> Iterator[_Block]:
    """Headings, fenced blocks and paragraphs, each with the blank lines after it."""
    lines = _LINE.findall(text)
    held: list[str] = []
    fence = ""
    number = 0

    def paragraph() -> Iterator[_Block]:
        if held:
            yield _Block("".join(held), 0, "", False)
            held.clear()

    while number < len(lines):
        row = lines[number]
        number += 1
        if fence:
            held.append(row)
            closing = _FENCE.match(row)
            if closing and closing[1].startswith(fence) and not row.strip().strip(fence[0]):
                yield _Block("".join(held), 0, "", True)
                held.clear()
                fence = ""
            continue
        opening, found = _FENCE.match(row), _HEADING.match(row.rstrip("\n\r"))
        below = lines[number].rstrip() if number < len(lines) else ""
        underlined = not held and row.strip() and _UNDERLINE.match(below) and len(below) >= len(row.strip())
        if opening:
            # the sentence before a block explains it: they are one block if it is short
            if sum(map(len, held)) > SIZE // 2:
                yield from paragraph()
            held.append(row)
            fence = opening[1]
        elif found:
            yield from paragraph()
            yield _Block(row, len(found[1]), found[2], False)
        elif underlined and below[:1] in "=-~^" and len(below) > 2:
            yield _Block(row + lines[number], "=-~^".index(below[0]) + 1, row.strip(), False)
            number += 1
        else:
            held.append(row)
            if not row.strip() and any(one.strip() for one in held):
                follows = lines[number] if number < len(lines) else ""
                if not _FENCE.match(follows):
                    yield from paragraph()
    yield from paragraph() if not fence else iter([_Block("".join(held), 0, "", True)] if held else [])


def _plain(text: str) -> Iterator[_Block]:
    """Lines up to a blank one that a line without indentation follows: definitions of a program in one piece."""
    start = 0
    for found in re.finditer(r"\n[ \t]*\n+(?=\S)", text):
        yield _Block(text[start : found.end()], 0, "", False)
        start = found.end()
    if start < len(text):
        yield _Block(text[start:], 0, "", False)


def _cut(text: str, most: int) -> Iterator[str]:
    """Parts of at most `most` characters: lines, sentences, words, in this order."""
    held = ""
    for row in _LINE.findall(text):
        for part in [row] if len(row) <= most else _sentences(row, most):
            if held and len(held) + len(part) > most:
                yield held
                held = ""
            held += part
    if held:
        yield held


def _sentences(row: str, most: int) -> Iterator[str]:
    start = 0
    for end in [*(found.end() for found in _BREAK.finditer(row)), len(row)]:
        while end - start > most:
            space = row.rfind(" ", start + most // 2, start + most)
            stop = space + 1 if space > start else start + most
            yield row[start:stop]
            start = stop
        if end > start:
            yield row[start:end]
            start = end
