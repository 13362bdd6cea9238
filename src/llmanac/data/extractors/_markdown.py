"""The kept part of a page as light Markdown: headings, paragraphs, lists, tables, quotes, code as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmanac.data.extractors import Unusable
from llmanac.data.extractors._tags import BLOCKS, HEADINGS, words

if TYPE_CHECKING:
    from lxml.etree import _Element

    from llmanac.data.extractors._content import ParsedPage

MAX_COLUMNS = 100  # a table with more is not one that a person reads
MAX_SPAN = 1_000
_BLANKS = re.compile(r"[\s\u200b\ufeff]+")
_FENCES = re.compile(r"`{3,}")
_LANGUAGE = re.compile(
    r"(?:^|\s)(?:(?:language|lang|highlight-source|highlight)[-:]|brush:\s*|sourceCode )([\w+#-]{1,20})(?![\w+#-])",
    re.A,
)
_LINE_NUMBERS = words("lineno linenos linenumber linenumbers line-number line-numbers gutter")
_ANCHOR_SIGNS = words("¶ # § 🔗 \uf0c1")
_BREAK = "\x1e"  # a line break in running text: a control character, which no page holds by now


def render(page: ParsedPage, top: int, heading: int | None = None) -> str:
    """The text of an element (given by its place in the page), its blocks apart by a blank line.

    Args:
        heading: the place of a heading to put before it.

    Raises:
        Unusable: the elements are nested deeper than can be followed.
    """
    try:
        writer = _MarkdownWriter(page)
        blocks = writer.blocks(page.elements[top])
        if heading is not None and blocks:
            blocks = [*writer.single(page.elements[heading]), *blocks]
        return "\n\n".join(blocks)
    except RecursionError:
        raise Unusable("nested_too_deep", "lists and quotes inside each other") from None


class _MarkdownWriter:
    """Turns elements into blocks: finished paragraphs, lists, tables, each a string of one or more lines."""

    def __init__(self, page: ParsedPage) -> None:
        self.page, self.number = page, page.number

    def gone(self, element: _Element) -> bool:
        i = self.number.get(element)
        return i is None or self.page.dropped[i]

    def blocks(self, element: _Element) -> list[str]:
        """The blocks inside an element, its loose text as paragraphs."""
        out: list[str] = []
        run: list[str] = []
        self._inside(element, out, run)
        _flush(out, run)
        return out

    def single(self, element: _Element) -> list[str]:
        """One element as blocks, itself included."""
        out: list[str] = []
        self._block(element, element.tag, out)
        return out

    def _inside(self, element: _Element, out: list[str], run: list[str]) -> None:
        """Add what is inside an element: its blocks to `out`, its loose text to `run`."""
        if element.text:
            run.append(element.text)
        for child in element:
            tag = child.tag
            if self.gone(child):
                pass
            elif tag == "br":
                run.append(_BREAK)
            elif tag in BLOCKS:
                _flush(out, run)
                if not self.page.boilerplate(self.number[child]):
                    self._block(child, tag, out)
            elif tag != "a" or not _is_anchor(child):
                self._inside(child, out, run)
            if child.tail:
                run.append(child.tail)

    def _block(self, element: _Element, tag: str, out: list[str]) -> None:
        if tag in HEADINGS:
            text = " ".join(self._lines(element))
            if text:
                out.append("#" * HEADINGS[tag] + " " + text)
        elif tag == "pre":
            out += _code(element)
        elif tag in ("ul", "ol"):
            lines = self._list(element, tag)
            if lines:
                out.append("\n".join(lines))
        elif tag == "table":
            out += self._table(element)
        elif tag == "blockquote":
            text = "\n\n".join(self.blocks(element))
            if text:
                out.append("\n".join(f"> {line}".rstrip() for line in text.split("\n")))
        else:
            out += self.blocks(element)

    def _lines(self, element: _Element) -> list[str]:
        return [line for block in self.blocks(element) for line in block.split("\n") if line]

    def _list(self, element: _Element, tag: str) -> list[str]:
        lines: list[str] = []
        start = element.get("start", "1")
        number = int(start) if start.isdecimal() and len(start) < 10 else 1
        for child in element:
            if self.gone(child) or (self.page.boilerplate(self.number[child]) and self._reads_on(element)):
                continue
            if child.tag in ("ul", "ol"):  # a nested list next to the items
                lines += [f"  {line}" if line else "" for line in self._list(child, child.tag)]
                continue
            mark = f"{number}. " if tag == "ol" else "- "
            text = "\n".join(self.blocks(child))
            if not text:
                continue
            number += 1
            first, *rest = text.split("\n")
            pad = " " * len(mark)
            lines += [mark + first, *(pad + line if line else "" for line in rest)]
        return lines

    def _reads_on(self, element: _Element) -> bool:
        """Whether a list is mostly links, so that its items are not what the page says."""
        return self.page.boilerplate(self.number[element])

    def _table(self, element: _Element) -> list[str]:
        """A table as lines of cells; one that only lays out the page as the blocks of its cells."""
        captions = [b for part in element if part.tag == "caption" and not self.gone(part) for b in self.blocks(part)]
        rows = [[c for c in row if c.tag in ("td", "th") and not self.gone(c)] for row in self._rows(element)]
        rows = [[c for c in row if not _LINE_NUMBERS.intersection((c.get("class") or "").split())] for row in rows]
        texts = [[self.blocks(cell) for cell in row] for row in rows]
        if any(_lays_out(cell, text) for row, line in zip(rows, texts, strict=True)
               for cell, text in zip(row, line, strict=True)):  # fmt: skip
            return captions + [block for line in texts for text in line for block in text]
        grid = _grid(rows, texts)
        width = max(map(len, grid), default=0)
        if width <= 1 or width > MAX_COLUMNS:
            return captions + [block for line in texts for text in line for block in text]
        lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in grid]
        lines.insert(1, "|" + " --- |" * width)
        return [*captions, "\n".join(lines)]

    def _rows(self, element: _Element) -> Iterator[_Element]:
        for part in element:
            if self.gone(part):
                continue
            if part.tag == "tr":
                yield part
            elif part.tag in ("thead", "tbody", "tfoot"):
                yield from (row for row in part if row.tag == "tr" and not self.gone(row))


def _flush(out: list[str], run: list[str]) -> None:
    """Loose text becomes paragraphs: a line break is a line, two are a new paragraph."""
    if not run:
        return
    text = "".join(run)
    run.clear()
    paragraph: list[str] = []
    for line in text.split(_BREAK):
        line = _BLANKS.sub(" ", line).strip()
        if line:
            paragraph.append(line)
        elif paragraph:
            out.append("\n".join(paragraph))
            paragraph = []
    if paragraph:
        out.append("\n".join(paragraph))


def _is_anchor(element: _Element) -> bool:
    """A link that only marks its own heading, as documentation tools put there."""
    return (element.text or "").strip() in _ANCHOR_SIGNS and (element.get("href") or "#").startswith("#")


def _code(element: _Element) -> list[str]:
    """A fenced block: the text of `pre` as it is, in the language its class names."""
    parts: list[str] = []
    _raw(element, parts)
    text = "".join(parts).replace("\r\n", "\n").replace("\r", "\n").removeprefix("\n").rstrip()
    if not text.strip():
        return []
    fence = "`" * max(3, 1 + max((len(found[0]) for found in _FENCES.finditer(text)), default=0))
    named = [e.get("class", "") for e in (element, *element.iter("code"))]
    for up, _ in zip(element.iterancestors("div"), range(2), strict=False):
        named.append(up.get("class", ""))
    language = next((found[1] for found in map(_LANGUAGE.search, named) if found), "")
    return [f"{fence}{'' if language in ('default', 'none', 'text', 'plaintext') else language}\n{text}\n{fence}"]


def _raw(element: _Element, parts: list[str]) -> None:
    if element.text:
        parts.append(element.text)
    for child in element:
        if child.tag == "br":
            parts.append("\n")
        elif child.tag not in ("button", "script", "style") and not _LINE_NUMBERS.intersection(
            (child.get("class") or "").split()
        ):
            _raw(child, parts)
        if child.tail:
            parts.append(child.tail)


def _lays_out(cell: _Element, text: list[str]) -> bool:
    """Whether a cell holds more than a table's cell does."""
    return len(text) > 4 or sum(map(len, text)) > 600 or any(
        part.tag in ("table", "pre", "h1", "h2", "h3", "blockquote") for part in cell
    )  # fmt: skip


def _grid(rows: list[list[_Element]], texts: list[list[list[str]]]) -> list[list[str]]:
    """The cells in their columns; one that spans more leaves the others empty. Rows without any text go."""
    grid: list[list[str]] = []
    taken: dict[int, int] = {}  # column -> rows below that a cell above still covers
    for row, line in zip(rows, texts, strict=True):
        cells: list[str] = []
        covered = {column: left - 1 for column, left in taken.items() if left > 1}
        for cell, blocks in zip(row, line, strict=True):
            while len(cells) in taken and len(cells) <= MAX_COLUMNS:
                cells.append("")
            text = " ".join(part for block in blocks for part in block.split("\n")).replace("|", "\\|")
            wide, high = _span(cell, "colspan"), _span(cell, "rowspan")
            for column in range(len(cells), min(len(cells) + wide, MAX_COLUMNS + 1)):
                if high > 1:
                    covered[column] = high - 1
                cells.append(text if column == len(cells) and text is not None else "")
                text = ""
        taken = covered
        if any(cells):
            grid.append(cells)
    return grid


def _span(cell: _Element, name: str) -> int:
    value = cell.get(name, "1")
    return max(1, min(int(value), MAX_SPAN)) if value.isdecimal() and len(value) < 10 else 1
