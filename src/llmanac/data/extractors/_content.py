"""Which part of a page is its content: the worth of every block, summed up the tree; see `structured.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmanac.data.extractors import Unusable
from llmanac.data.extractors._html import MAX_DEPTH
from llmanac.data.extractors._tags import BLOCKS, DROPPED, HEADINGS, INLINE, STATED, STRUCTURE, WRAPPERS, is_around

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
        self.number = {e: i for i, e in enumerate(self.elements)}
        self._stated: list[int] = []
        self._walk()
        self._sum()

    def _walk(self) -> None:
        number, elements, tags = self.number, self.elements, self.tags
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
                    if len(names) > 2 and tag not in INLINE and i > 1 and is_around(names):
                        marked[i] = True
                    stated = attributes.get("itemprop") or attributes.get("property")
                    if stated and stated.lower() in STATED:
                        self._stated.append(i)
                    style = attributes.get("style")
                    gone = (
                        "hidden" in attributes
                        or attributes.get("aria-hidden") == "true"
                        or (style is not None and _HIDDEN.search(style) is not None)
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

    def _own(self, i: int) -> float:
        """What the text of one block, without the blocks inside it, is worth."""
        size = self._length[i]
        if not size:
            return 0.0
        worth = size * max(0.0, 1 - 2 * self._links[i] / size)
        return worth if size >= SHORT or _SENTENCE.search(self._last[i]) else 0.5 * worth

    def _summed(self, own: list[float]) -> list[float]:
        """Worth of every element with all inside it, what is dropped left out."""
        worth, parents = own[:], self.parents
        for i in range(len(own) - 1, 0, -1):
            if self.dropped[i]:
                worth[i] = 0.0
            else:
                worth[parents[i]] += worth[i]
        return worth

    def _sum(self) -> None:
        """Text, links and worth of every element, from the leaves up; then drop what the class names say."""
        count, parents = len(self.elements), self.parents
        self.text, self.link_text = self._length[:], self._links[:]
        for i in range(count - 1, 0, -1):
            self.text[parents[i]] += self.text[i]
            self.link_text[parents[i]] += self.link_text[i]
        own = [self._own(i) for i in range(count)]
        worth = self._summed(own)
        total = worth[0]
        self._drop([i for i in range(1, count) if self._marked[i] and worth[i] < AROUND_SHARE * total])
        worth = self._summed(own)
        teasers = self._teasers()
        if teasers:
            before = self.dropped[:]
            self._drop(teasers)
            without = self._summed(own)
            if without[0] < 250 and without[0] < 0.3 * worth[0]:  # a page of teasers and nothing else
                self.dropped = before
            else:
                worth = without
        self.worth = worth
        self.last_inside = list(range(count))  # of each element, the place of the last one inside it
        for i in range(count - 1, 0, -1):
            self.last_inside[parents[i]] = max(self.last_inside[parents[i]], self.last_inside[i])

    def _drop(self, wanted: list[int]) -> None:
        for i in wanted:
            self.dropped[i] = True
        for i in range(1, len(self.elements)):
            if self.dropped[self.parents[i]]:
                self.dropped[i] = True

    def _teasers(self) -> list[int]:
        """Elements that announce another page: three or more side by side, each with one heading that is a link."""
        linked = [
            i for i, tag in enumerate(self.tags)
            if tag in HEADINGS and not self.dropped[i] and self.text[i] and self.link_text[i] >= 0.9 * self.text[i]
            and self._leads_away(i)
        ]  # fmt: skip
        if len(linked) < 3:
            return []
        inside = [0] * len(self.elements)
        for i in linked:
            inside[i] = 1
        for i in range(len(inside) - 1, 0, -1):
            inside[self.parents[i]] += inside[i]
        tops: dict[int, list[int]] = {}
        for i in linked:
            at = i
            while self.parents[at] > 0 and inside[self.parents[at]] == 1:
                at = self.parents[at]
            tops.setdefault(self.parents[at], []).append(at)
        return [at for group in tops.values() if len(group) >= 3 for at in group if self.tags[at] not in HEADINGS]

    def _leads_away(self, i: int) -> bool:
        element = self.elements[i]
        up = element.getparent()
        links = [e.get("href") or "" for e in element.iter("a")] or [up.get("href") or "" if up is not None else ""]
        return any(link and not link.startswith("#") for link in links)

    def content(self) -> int:
        """The place of the element that holds the content."""
        stated = [i for i in self._stated if not self.dropped[i] and self.text[i] >= 200]
        if len(stated) == 1 and self.worth[stated[0]] >= 0.25 * self.worth[0]:
            return stated[0]
        wanted = KEEP * self.worth[0]
        at, best = 0, 0
        children: dict[int, list[int]] = {}
        for i in range(1, len(self.elements)):
            if not self.dropped[i] and self.worth[i] >= wanted:
                children.setdefault(self.parents[i], []).append(i)
        while at in children:
            up, at = at, children[at][0]
            if self.tags[at] not in WRAPPERS or self._leaves_behind(up, at):
                break
            best = at
        return best

    def heading(self, content: int) -> int | None:
        """The place of the page's one main heading where it stands before the content, not in it."""
        found = [i for i, tag in enumerate(self.tags) if tag == "h1" and not self.dropped[i] and self.text[i]]
        return found[0] if len(found) == 1 and found[0] < content else None

    def _leaves_behind(self, up: int, child: int) -> bool:
        """Whether beside a child there is code, a table, a list or a quote that is content too."""
        return any(
            self.tags[i] in STRUCTURE
            and self.worth[i] > 0
            and not self.boilerplate(i)
            and (self.tags[i] != "ul" or not self.link_text[i])  # most lists of links beside the text are the site's
            for i in self._beside(up, child)
        )

    def _beside(self, up: int, child: int) -> Iterator[int]:
        """The elements inside `up` that are neither dropped nor inside `child`."""
        end = self.last_inside[up]
        for i in range(up + 1, end + 1):
            if not self.dropped[i] and not child <= i <= self.last_inside[child]:
                yield i

    def boilerplate(self, i: int) -> bool:
        """Whether an element inside the content is mostly links, as a list of further reading is."""
        text, links = self.text[i], self.link_text[i]
        if not text or self.tags[i] in HEADINGS:
            return False
        return links > 0.66 * text and (text - links < 80 or self.tags[i] != "p")

    def title(self) -> str:
        """The page's title, else its first main heading, in one line; empty where it has neither."""
        for tag in ("title", "h1"):
            for i, name in enumerate(self.tags):
                if name == tag:
                    found = " ".join("".join(self.elements[i].itertext()).split())
                    if found:
                        return found[:500]
        return ""
