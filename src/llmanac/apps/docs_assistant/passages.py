"""Docstrings as short passages: one statement a line, under the name they document.

A docstring's layout (wrapped paragraphs, `:param x:`, `Args:` and `Returns:` sections, `name -- text` lists, numpy's
rulers) is brought to one form, so that an answer is always a line, or a part of one:

    shutil.copyfileobj(fsrc, fdst, length=0)
    copy data from file-like object fsrc to file-like object fdst
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llmanac.data.sources._docstrings import Entry

PASSAGE = 330  # characters of a passage below its title: about 110 tokens of a small vocabulary
TITLE = 170  # characters of a title; a longer signature is cut
SECTIONS = {
    "args": "arguments", "arguments": "arguments", "parameters": "arguments", "params": "arguments",
    "keyword arguments": "arguments", "optional keyword arguments": "arguments", "keywords": "arguments",
    "return": "returns", "returns": "returns", "return value": "returns", "yields": "yields",
    "raises": "raises", "exceptions": "raises",
}  # fmt: skip
_HEADER = re.compile(r"^\s*([A-Za-z ]{4,28}?)\s*:?\s*$")
_RULER = re.compile(r"^\s*[-=~^*#_]{3,}\s*$")
_TABLE = re.compile(r"^\s*[=-]{3,}(\s+[=-]{3,})+\s*$")
_FIELD = re.compile(
    r"^\s*:(param|parameter|arg|argument|key|keyword|returns?|raises?|except|exception)\b\s*([^:]*):\s*(.*)$"
)
_DROPPED_FIELD = re.compile(r"^\s*:(type|rtype|vartype)\b[^:]*:")
_DASHES = re.compile(r"^\s*[`'\"]?(\*{0,2}\w+(?:, ?\w+)*)[`'\"]?\s+--?\s+(\S.*)$")
_COLON = re.compile(r"^\s*[`'\"]?(\*{0,2}\w+(?:, ?\*{0,2}\w+)*)[`'\"]?(?: ?\([^)]*\))?\s?:\s+(\S.*)$")
_NUMPY = re.compile(r"^(\*{0,2}\w+(?:, ?\*{0,2}\w+)*)(?: : .*)?$")
_CLINIC = re.compile(r"^  (\w+)$")
_BULLET = re.compile(r"^\s*(?:[-*•+]|\d+[.)]|\(\w\))\s+(\S.*)$")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|approx|resp|incl|Dr|Mr|no|No|fig|Fig)|\b[A-Z])\.$")
_BOUNDARY = re.compile(r"(?<=[.!?])(?:[\"')\]]{0,2})\s+(?=[\"'`(*<\[]?[A-Z0-9_])")


@dataclass(frozen=True)
class Passage:
    """A title (the documented name with its signature) and lines of one statement each, all of one entry."""

    name: str
    title: str
    lines: tuple[str, ...]
    entry: int
    first: bool

    @property
    def text(self) -> str:
        """What the model reads and the index holds."""
        return "\n".join([self.title, *self.lines])


def sentences(text: str) -> list[str]:
    """Prose on one line as sentences; abbreviations and dotted names do not end one."""
    out: list[str] = []
    start = 0
    for match in _BOUNDARY.finditer(text):
        piece = text[start : match.start()].rstrip()
        if _ABBREVIATION.search(piece) or piece.endswith("..."):  # `Monday == 1 ... Sunday == 7`
            continue
        out.append(text[start : match.end()].strip())
        start = match.end()
    out.append(text[start:].strip())
    return [s for s in out if s]


class _Lines:
    """Reads a docstring line by line; each statement that ends becomes lines of `out`."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.section = ""
        self.indent = 0  # of the item that is open
        self.words: list[str] = []
        self.item = False

    def flush(self) -> None:
        text = " ".join(self.words).strip()
        if text:
            self.out += [text] if self.item and len(text) < 160 else sentences(text)
        self.words, self.item = [], False

    def open(self, text: str, indent: int, *, item: bool) -> None:
        self.flush()
        self.words, self.indent, self.item = [text.strip()], indent, item


def lines_of(doc: str) -> list[str]:
    """A docstring as statements, one a line; examples (`>>>`) and rulers are left out."""
    reader = _Lines()
    raw = doc.split("\n")
    example = False
    for number, line in enumerate(raw):
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            reader.flush()
            example = False
        elif example or line.lstrip().startswith((">>>", "$ ")):
            reader.flush()
            example = True
        elif _RULER.match(line) or _TABLE.match(line) or _DROPPED_FIELD.match(line):
            reader.flush()
        elif (header := _section(line, raw[number + 1] if number + 1 < len(raw) else "")) is not None:
            reader.flush()
            reader.section = header
        else:
            _take(reader, line, indent, raw[number + 1] if number + 1 < len(raw) else "")
    reader.flush()
    return [line for line in (_plain(line) for line in reader.out) if len(line) > 1]


def _section(line: str, following: str) -> str | None:
    """The section a header line opens, None where the line is no header."""
    match = _HEADER.match(line)
    if not match or not (line.rstrip().endswith(":") or _RULER.match(following)):
        return None
    return SECTIONS.get(match.group(1).strip().lower())


def _take(reader: _Lines, line: str, indent: int, following: str) -> None:
    below = len(following) - len(following.lstrip()) if following.strip() else 0
    if indent == 0 and reader.section and not reader.words and not _NUMPY.match(line) and not _DASHES.match(line):
        reader.section = ""
    if field := _FIELD.match(line):
        kind, what, said = field.groups()
        label = {"r": "Returns", "e": "Raises"}.get(kind[0], "")
        if kind.startswith(("rai", "exc")):
            label = f"Raises {what.strip()}"
        reader.open(f"{label or what.split()[-1] if what.split() or label else 'Argument'}: {said}", indent, item=True)
    elif reader.section in ("returns", "yields") and not reader.words:
        said = re.sub(r"^\s*[\w.\[\], |]{1,40}:\s+(?=\S)", "", line) if indent else line
        label = "Returns" if reader.section == "returns" else "Yields"
        reader.open(f"{label}: {said.strip()}", indent, item=True)
    elif reader.section == "raises" and (item := _COLON.match(line) or _DASHES.match(line)):
        reader.open(f"Raises {item.group(1)}: {item.group(2)}", indent, item=True)
    elif reader.section == "raises" and below > indent and re.fullmatch(r"\s*[\w.]+", line):
        reader.open(f"Raises {line.strip()}:", indent, item=True)
    elif item := _DASHES.match(line):
        reader.open(f"{item.group(1)}: {item.group(2)}", indent, item=True)
    elif reader.section == "arguments" and below > indent and " : " in line and (item := _NUMPY.match(line)):
        reader.open(f"{item.group(1)}:", indent, item=True)
    elif reader.section == "arguments" and (item := _COLON.match(line)):
        reader.open(f"{item.group(1)}: {item.group(2)}", indent, item=True)
    elif below > indent and (item := _CLINIC.match(line) or (_NUMPY.match(line) if reader.section else None)):
        reader.open(f"{item.group(1)}:", indent, item=True)
    elif item := _BULLET.match(line):
        reader.open(item.group(1), indent, item=True)
    elif reader.item and indent <= reader.indent and reader.words:
        reader.open(line, indent, item=False)
    elif reader.words:
        reader.words.append(line.strip())
    else:
        reader.open(line, indent, item=False)


def _plain(line: str) -> str:
    return re.sub(r"\s+", " ", line).strip()


def title_of(entry: Entry) -> str:
    """The name with its signature; a language topic is named after its statement or subject."""
    if entry.kind == "topic":
        return f"topic {entry.name}"
    title = entry.name + _plain(entry.signature)
    return title if len(title) <= TITLE else title[: TITLE - 3].rstrip(" ,") + "..."


def passages_of(entry: Entry, number: int, *, limit: int = 12) -> Iterator[Passage]:
    """An entry's passages: the first under its full title, further ones (at most `limit` in all) under its name."""
    title, size, given = title_of(entry), 0, 0
    held: list[str] = []
    short = title if entry.kind == "topic" else entry.name
    for line in lines_of(entry.doc):
        line = line if len(line) <= PASSAGE else line[: PASSAGE - 3].rsplit(" ", 1)[0] + "..."
        if held and size + len(line) > PASSAGE:
            yield Passage(entry.name, title if given == 0 else short, tuple(held), number, given == 0)
            held, size, given = [], 0, given + 1
            if given == limit:
                return
        held.append(line)
        size += len(line) + 1
    if held or given == 0:
        yield Passage(entry.name, title if given == 0 else short, tuple(held), number, given == 0)
