"""Which part of a page is its content: the worth of every block, summed up the tree; see `structured.py`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmanac.data.extractors import Unusable
from llmanac.data.extractors._html import MAX_DEPTH
from llmanac.data.extractors._tags import BLOCKS, DROPPED, HEADINGS, WRAPPERS, is_around

if TYPE_CHECKING:
    from lxml.etree import _Element

KEEP = 0.8  # share of the page's worth that its content must hold
SHORT = 70  # a block of fewer characters says little
AROUND_SHARE = 0.35  # an element that holds more of the page's text than this is content, whatever its class says
_SENTENCE = re.compile(r"[.!?…。！？:;\"”’)]$")
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)


class Page:
    """A parsed page: its elements in order, and for each what the choice of content needs.

    Attributes:
        elements: in document order; `parents[i]` is the place of the parent of `elements[i]`, -1 for the root.
        dropped: whether an element (with all inside it) is no text of the page.
        worth: of each element, summed over all inside it.
    """

    def __init__(self, root: _Element) -> None:
        self.root = root
        self.elements: list[_Element] = [e for e in root.iter() if isinstance(e.tag, str)]
        self.tags: list[str] = [e.tag for e in self.elements]
        self.parents: list[int] = []
        self.dropped: list[bool] = []
        self._number = {e: i for i, e in enumerate(self.elements)}
        self._walk()
        self._sum()

    def _walk(self) -> None:
        number, elements, tags = self._number, self.elements, self.tags
        count = len(elements)
        parents, dropped, marked = self.parents, self.dropped, [False] * count
        block, linked, depth = [0] * count, [False] * count, [0] * count
        length, links = [0] * count, [0] * count
        last: list[str] = [""] * count
        for i, element in enumerate(elements):
            up = number[element.getparent()] if i else -1
            parents.append(up)
            tag = tags[i]
            if i:
                depth[i] = depth[up] + 1
                if depth[i] >= MAX_DEPTH:
                    raise Unusable("nested_too_deep", f"more than {MAX_DEPTH} elements inside each other")
            gone = tag in DROPPED or (i > 0 and dropped[up])
            block[i] = i if tag in BLOCKS else block[up] if i else 0
            if not gone:
                attributes = element.attrib
                if attributes:
                    names = f"{attributes.get('class', '')} {attributes.get('id', '')} {attributes.get('role', '')}"
                    if len(names) > 2 and tag not in ("html", "body") and is_around(names):
                        marked[i] = True
                    style = attributes.get("style")
                    gone = "hidden" in attributes or attributes.get("aria-hidden") == "true" or (
                        style is not None and _HIDDEN.search(style) is not None
                    )
                linked[i] = tag == "a" or (i > 0 and linked[up])
                text = element.text
                if text and not gone:
                    text = " ".join(text.split())
                    at = block[i]
                    length[at] += len(text)
                    if linked[i]:
                        links[at] += len(text)
                    if text:
                        last[at] = text
            dropped.append(gone)
            text = element.tail
            if text and i and not dropped[up]:
                text = " ".join(text.split())
                at = block[up]
                length[at] += len(text)
                if linked[up]:
                    links[at] += len(text)
                if text:
                    last[at] = text
        self._length, self._links, self._last, self._marked = length, links, last, marked

    def _sum(self) -> None:
        """Text, links and worth of every element, from the leaves up; then drop what the class names say."""
        count = len(self.elements)
        parents = self.parents
        self.worth = [0.0] * count
        self.text, self.link_text = self._length[:], self._links[:]
        for i in range(count):
            size = self._length[i]
            if size:
                share = self._links[i] / size
                worth = size * max(0.0, 1 - 2 * share)
                if size < SHORT and not _SENTENCE.search(self._last[i]):
                    worth *= 0.5
                self.worth[i] = worth
        for i in range(count - 1, 0, -1):
            up = parents[i]
            self.worth[up] += self.worth[i]
            self.text[up] += self.text[i]
            self.link_text[up] += self.link_text[i]
        total = self.worth[0] or 1.0
        for i in range(1, count):
            if self.dropped[parents[i]]:
                self.dropped[i] = True
            elif self._marked[i] and self.worth[i] < AROUND_SHARE * total:
                self.dropped[i] = True
        # once more, without what has gone
        kept = [0.0] * count
        for i in range(count - 1, -1, -1):
            if self.dropped[i]:
                continue
            size = self._length[i]
            if size:
                share = self._links[i] / size
                own = size * max(0.0, 1 - 2 * share)
                if size < SHORT and not _SENTENCE.search(self._last[i]):
                    own *= 0.5
                kept[i] += own
            if i:
                kept[parents[i]] += kept[i]
        self.worth = kept

    def content(self) -> int:
        """The place of the element that holds the content."""
        wanted = KEEP * self.worth[0]
        at, best = 0, 0
        children: dict[int, list[int]] = {}
        for i in range(1, len(self.elements)):
            if not self.dropped[i] and self.worth[i] >= wanted:
                children.setdefault(self.parents[i], []).append(i)
        while at in children:
            at = children[at][0]
            if self.tags[at] not in WRAPPERS:
                break
            best = at
        return best

    def boilerplate(self, i: int) -> bool:
        """Whether an element inside the content is mostly links, as a list of further reading is."""
        text = self.text[i]
        return text > 0 and self.tags[i] not in HEADINGS and self.link_text[i] > 0.66 * text

    def title(self) -> str:
        """The page's title, else its first main heading, in one line; empty where it has neither."""
        for tag in ("title", "h1"):
            for i, name in enumerate(self.tags):
                if name == tag:
                    found = " ".join("".join(self.elements[i].itertext()).split())
                    if found:
                        return found[:500]
        return ""
