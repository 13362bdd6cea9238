"""The kept part of a page as light Markdown: headings, paragraphs, lists, tables, quotes, code as it stands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmanac.data.extractors._tags import BLOCKS, HEADINGS

if TYPE_CHECKING:
    from lxml.etree import _Element

    from llmanac.data.extractors._content import Page

_BLANKS = re.compile(r"[ \t\r\f\v\u00a0\u2007\u202f\ufeff]+")
_FENCES = re.compile(r"`{3,}")
_LANGUAGE = re.compile(r"(?:^|\s)(?:language|lang|highlight-source|highlight|brush:)[-: ]?\s*([A-Za-z0-9+#]{1,20})(?:\s|$)")
_CELLS = ("td", "th")


def render(page: Page, top: int) -> str:
    """The text of an element, blocks apart by a blank line."""
    return _Writer(page).text_of(top)


class _Writer:
    """Turns elements into blocks: finished paragraphs, lists, tables, each a string of one or more lines."""

    def __init__(self, page: Page) -> None:
        self.page, self.number = page, page._number

    def text_of(self, top: int) -> str:
        blocks = self.blocks(self.page.elements[top])
        return "\n\n".join(blocks)

    def gone(self, element: _Element) -> bool:
        i = self.number.get(element)
        return i is None or self.page.dropped[i]

    def blocks(self, element: _Element) -> list[str]:
        """The blocks inside an element, its loose text as paragraphs."""
        out: list[str] = []
        run: list[str] = []
        self._inside(element, out, run)
        self._flush(out, run)
        return out

    def _inside(self, element: _Element, out: list[str], run: list[str]) -> None:
        if element.text:
            run.append(element.text.replace("\n", " "))
        for child in element:
            if not self.gone(child):
                self._one(child, out, run)
            if child.tail:
                run.append(child.tail.replace("\n", " "))

    def _one(self, element: _Element, out: list[str], run: list[str]) -> None:
        tag = element.tag
        if tag == "br":
            run.append("\n")
            return
        if tag not in BLOCKS:
            self._inside(element, out, run)
            return
        self._flush(out, run)
        if self.page.boilerplate(self.number[element]):
            return
        if tag in HEADINGS:
            text = " ".join(line for block in self.blocks(element) for line in block.split("\n")).strip()
            if text:
                out.append("#" * HEADINGS[tag] + " " + text)
        elif tag == "pre":
            out.extend(self._code(element))
        elif tag in ("ul", "ol"):
            text = self._list(element)
            if text:
                out.append(text)
        elif tag == "table":
            out.extend(self._table(element))
        elif tag == "blockquote":
            text = "\n\n".join(self.blocks(element))
            if text:
                out.append("\n".join(f"> {line}".rstrip() for line in text.split("\n")))
        else:
            out.extend(self.blocks(element))

    def _flush(self, out: list[str], run: list[str]) -> None:
        text = _BLANKS.sub(" ", "".join(run))
        run.clear()
        lines = [line.strip() for line in text.split("\n")]
        paragraph: list[str] = []
        for line in lines:  # two line breaks make a paragraph
            if line:
                paragraph.append(line)
            elif paragraph:
                out.append("\n".join(paragraph))
                paragraph = []
        if paragraph:
            out.append("\n".join(paragraph))

    def _code(self, element: _Element) -> list[str]:
        text = self._raw(element).replace("\r\n", "\n").replace("\r", "\n")
        text = text.removeprefix("\n").rstrip()
        if not text.strip():
            return []
        fence = max([*(found[0] for found in _FENCES.finditer(text)), "``"], key=len) + "`"
        names = [e.get("class", "") for e in (element, *element.iter("code"))]
        parent = element.getparent()
        language = next((m[1] for m in map(_LANGUAGE.search, names) if m), "")
        return [f"{fence}{language}\n{text}\n{fence}"]

    def _raw(self, element: _Element) -> str:
        parts = [element.text or ""]
        for child in element:
            if child.tag == "br":
                parts.append("\n")
            elif isinstance(child.tag, str) and child.tag not in ("button", "script", "style"):
                parts.append(self._raw(child))
            parts.append(child.tail or "")
        return "".join(parts)

    def _list(self, element: _Element) -> str:
        lines: list[str] = []
        try:
            number = int(element.get("start", "1"))
        except ValueError:
            number = 1
        for child in element:
            if self.gone(child):
                continue
            if child.tag in ("ul", "ol"):  # a nested list that stands beside the items
                inner = self._list(child)
                lines += [f"  {line}" for line in inner.split("\n")] if inner else []
                continue
            if self.page.boilerplate(self.number[child]) and False:
                continue
            blocks = self.blocks(child)
            if not blocks:
                continue
            mark = f"{number}. " if element.tag == "ol" else "- "
            number += 1
            pad = " " * len(mark)
            text = "\n".join(blocks)
            first, *rest = text.split("\n")
            lines += [mark + first, *(pad + line if line else "" for line in rest)]
        return "\n".join(lines)

    def _table(self, element: _Element) -> list[str]:
        before: list[str] = []
        rows: list[tuple[list[str], bool]] = []
        simple = True
        for part in element.iter("tr", "caption"):
            if self.gone(part) or self._owner(part) is not element:
                continue
            if part.tag == "caption":
                before += self.blocks(part)
                continue
            cells = [c for c in part if c.tag in _CELLS and not self.gone(c)]
            texts = [self.blocks(c) for c in cells]
            if any(len(t) > 3 or any("\n" in b for b in t) for t in texts):
                simple = False
            row = [" ".join(t) for t in texts]
            if any(row):
                rows.append((row, bool(cells) and all(c.tag == "th" for c in cells)))
        width = max((len(row) for row, _ in rows), default=0)
        if width <= 1 or not simple:  # laid out with a table, not tabular
            return before + [b for part in element.iter(*_CELLS) if self._owner(part) is element and not self.gone(part)
                             for b in self.blocks(part)]
        lines = []
        for at, (row, _) in enumerate(rows):
            cells_ = [c.replace("|", "\\|") for c in row] + [""] * (width - len(row))
            lines.append("| " + " | ".join(cells_) + " |")
            if at == 0:
                lines.append("|" + " --- |" * width)
        return [*before, "\n".join(lines)]

    def _owner(self, element: _Element) -> _Element | None:
        up = element.getparent()
        while up is not None and up.tag != "table":
            up = up.getparent()
        return up
