"""A document as passages: runs of complete blocks, with their byte offsets, lines and headings.

A block is a heading, a fenced code block, or lines up to a blank one. Blocks are joined until `size` characters are
reached. A heading begins a passage, with the reStructuredText targets above it, and stays with what follows it; a
fenced block is kept in one piece up to `CODE` times the size. Longer blocks are cut between lines, longer lines between
sentences or words. Passages neither overlap nor leave out text: joined, they are the document.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

SIZE = 800  # characters of a passage: under the 256 tokens that small encoders read
CODE = 3  # a fenced block or a heading may be so many times as long
TITLE = 1000  # characters of a heading that passages below it carry
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(?=\S)")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_UNDERLINE = re.compile(r"(=+|-+|~+|\^+)[ \t]*$")
_TARGETS = re.compile(r"\s*(\.\. _[^\n]+:[ \t]*\s+)+")  # reStructuredText: names of what follows
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_BREAK = re.compile(r"(?<=[.!?])\s+")


class PassagePiece(NamedTuple):
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


def pieces_of(text: str, *, size: int = SIZE, markup: bool = True) -> list[PassagePiece]:
    """The passages of a document.

    Args:
        size: characters of a passage, at least 1.
        markup: whether headings and fences are those of Markdown and reStructuredText; in program code a `#` begins a
            comment.
    """
    out: list[PassagePiece] = []
    headings: list[tuple[int, str]] = []
    held: list[str] = []
    at, line, length, above, body = 0, 1, 0, "", False

    def close() -> None:
        nonlocal at, line, held, length, body
        joined = "".join(held)
        stop, lines = at + len(joined.encode("utf-8")), joined.count("\n")
        if joined.strip():
            blank = joined[: len(joined) - len(joined.lstrip())].count("\n")
            out.append(PassagePiece(at, stop, line + blank, line + joined.rstrip().count("\n"), above, joined))
        elif out and joined:  # blank lines belong to what is before them
            before = out[-1]
            out[-1] = before._replace(stop=stop, text=before.text + joined)
        at, line, held, length, body = stop, line + lines, [], 0, False

    for block in _blocks(text) if markup else _plain(text):
        more = length + len(block.text) > size
        # a new passage at a heading, unless only headings are held; and where the block no longer fits
        named = markup and _TARGETS.fullmatch(block.text) is not None  # the name of the heading below
        if held and (((block.level or named) and (body or more)) or (body and block.text.strip() and more)):
            close()
        if block.level:
            headings = [(level, title) for level, title in headings if level < block.level]
            headings.append((block.level, block.title))
        if not held or block.level:
            above = " > ".join(title for _, title in headings)
        most = size * CODE if block.code or block.level else size
        for part in _cut(block.text, most) if len(block.text) > most else [block.text]:
            if (body or (block.level and held)) and length + len(part) > most and part.strip():
                close()
            held.append(part)
            length += len(part)
            body = body or (not block.level and not named and bool(part.strip()))
    close()
    return out


def _blocks(text: str) -> Iterator[_Block]:
    """Headings, fenced blocks and paragraphs, each with the blank lines after it."""
    lines = _LINE.findall(text)
    held: list[str] = []
    fence = ""
    number = 0
    written = False  # whether what is held is more than blank lines

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
            yield _Block(row, len(found[1]), _title(row[found.end() :]), False)
        elif underlined and below[:1] in "=-~^" and len(below) > 2:
            yield _Block(row + lines[number], "=-~^".index(below[0]) + 1, row.strip()[:TITLE], False)
            number += 1
        else:
            written = bool(held and written) or bool(row.strip())
            held.append(row)
            if not row.strip() and written:
                follows = lines[number] if number < len(lines) else ""
                if not _FENCE.match(follows):
                    yield from paragraph()
    yield from paragraph() if not fence else iter([_Block("".join(held), 0, "", True)] if held else [])


def _title(row: str) -> str:
    """A heading's text without the hashes that may close it."""
    title = row.rstrip()
    bare = title.rstrip("#")
    return (bare if bare[-1:] in (" ", "\t") else title).strip()[:TITLE]


def _plain(text: str) -> Iterator[_Block]:
    """Lines up to a blank one that a line without indentation follows: definitions of a program in one piece."""
    start, blank = 0, False
    for found in _LINE.finditer(text):
        row = found.group()
        if blank and not row[0].isspace():
            yield _Block(text[start : found.start()], 0, "", False)
            start = found.start()
        blank = not row.strip()
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
