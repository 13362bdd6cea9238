"""Which part of a page is its content: the worth of every block, summed up the tree; see `structured.py`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from llmanac.data.extractors import Unusable
from llmanac.data.extractors._html import MAX_DEPTH
from llmanac.data.extractors._tags import (
    ASIDE,
    BLOCKS,
    DROPPED,
    ENCLOSED,
    HEADINGS,
    INLINE,
    LINES,
    STATED,
    STRUCTURE,
    WRAPPERS,
    around,
)

if TYPE_CHECKING:
    from lxml.etree import _Element

KEEP = 0.6  # fraction of the page's worth that its content must hold
SHORT = 70  # a block of fewer characters says little
AROUND_SHARE = 0.35  # an element that holds more of the page's text than this is content, whatever its class says
LITTLE = 250  # a page of less worth has no content yet
KIN_SHARE = 0.1  # what is worth this much of the part chosen and is of its kind belongs to it
TEASER = 600  # an announcement of another page is worth less
BEFORE = 400  # the page's title is before this much worth of the content, or not in it
_SENTENCE = re.compile(r"[.!?…。！？:;\"”’)]$")
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_WORD = re.compile(r"\w+")


class ParsedPage:
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
        self._out: list[int] = []  # places of what HTML or its style says is not in the text
        self._walk()
        self._sum()

    def _walk(self) -> None:
        number, elements, tags = self.number, self.elements, self.tags
        count = len(elements)
        parents, dropped, marked = self.parents, self.dropped, [0] * count
        block, linked, depth, enclosed = [0] * count, [False] * count, [0] * count, [0] * count
        length, links = [0] * count, [0] * count
        last: list[str] = [""] * count
        for i, element in enumerate(elements):
            up = number[element.getparent()] if i else -1
            parents.append(up)
            tag = tags[i]
            if i:
                depth[i] = depth[up] + 1
                enclosed[i] = enclosed[up] + (tags[up] in ENCLOSED)
                if depth[i] >= MAX_DEPTH:
                    raise Unusable("nested_too_deep", f"more than {MAX_DEPTH} elements inside each other")
            gone = tag in DROPPED or (i > 0 and dropped[up])
            block[i] = i if tag in BLOCKS else block[up] if i else 0
            if not gone:
                attributes = element.attrib
                away = tag == "a"
                out = tag in ASIDE
                if attributes:
                    names = f"{attributes.get('class', '')} {attributes.get('id', '')} {attributes.get('role', '')}"
                    if len(names) > 2 and tag not in INLINE and i > 1:
                        marked[i] = around(names)
                    stated = attributes.get("itemprop") or attributes.get("property")
                    if stated and stated.lower() in STATED:
                        self._stated.append(i)
                    style = attributes.get("style")
                    if (
                        "hidden" in attributes
                        or attributes.get("aria-hidden") == "true"
                        or (style is not None and _HIDDEN.search(style) is not None)
                    ):
                        out = True
                    away = away and attributes.get("href", "").lstrip()[:11].lower() != "javascript:"
                if tag == "aside":
                    marked[i] = marked[i] or 1
                if out and tag in BLOCKS:
                    self._out.append(i)
                else:
                    gone = out
                linked[i] = away or (i > 0 and linked[up])
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
        self._length, self._links, self._last, self._marked, self._enclosed = length, links, last, marked, enclosed

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
        """Text, links and worth of every element, from the leaves up, while what is not the page's own text goes."""
        count, parents = len(self.elements), self.parents
        own = [self._own(i) for i in range(count)]
        self.worth = self._summed(own)
        self._leave_out(self._out, own)
        self._leave_out(self._series(), own)
        most = AROUND_SHARE * self.worth[0]
        self._leave_out([i for i in range(1, count) if self._marked[i] and self.worth[i] < most], own)
        self.text, self.link_text = self._length[:], self._links[:]
        for i in range(count - 1, 0, -1):
            if not self.dropped[i]:
                self.text[parents[i]] += self.text[i]
                self.link_text[parents[i]] += self.link_text[i]
        self._leave_out(self._teasers(), own)
        self._best = own  # of each element, what the best block inside it is worth
        self.last_inside = list(range(count))  # of each element, the place of the last one inside it
        for i in range(count - 1, 0, -1):
            up = parents[i]
            self.last_inside[up] = max(self.last_inside[up], self.last_inside[i])
            if not self.dropped[i]:
                own[up] = max(own[up], own[i])

    def _leave_out(self, wanted: list[int], own: list[float]) -> None:
        """Drop elements and sum again, unless the page has nothing else."""
        if not wanted:
            return
        before = self.dropped[:]
        self._drop(wanted)
        worth = self._summed(own)
        if worth[0] < LITTLE and worth[0] < 0.3 * self.worth[0]:
            self.dropped = before
        else:
            self.worth = worth

    def _drop(self, wanted: list[int]) -> None:
        for i in wanted:
            self.dropped[i] = True
        for i in range(1, len(self.elements)):
            if self.dropped[self.parents[i]]:
                self.dropped[i] = True

    def _kind(self, i: int) -> tuple[str, str]:
        """The tag of an element and its first class: parts of one sort, as comments are, share both."""
        return self.tags[i], (self.elements[i].get("class") or "").lstrip().partition(" ")[0]

    def _series(self) -> list[int]:
        """The innermost elements under a name of comments or of other pages that mostly are parts of one kind."""
        if 2 not in self._marked:
            return []
        count, parents = len(self.elements), self.parents
        groups: dict[tuple[int, str, str], list[int]] = {}
        for i in range(1, count):
            if self.worth[i] > 0 and self.tags[i] in BLOCKS and self.tags[i] not in LINES:
                groups.setdefault((parents[i], *self._kind(i)), []).append(i)
        series = [0.0] * count  # of each element, the worth of the best series inside it
        for (up, *_), members in groups.items():
            if len(members) >= 3:
                series[up] = max(series[up], sum(self.worth[i] for i in members))
        holds = [False] * count
        wanted = []
        for i in range(count - 1, 0, -1):
            if not holds[i] and self._marked[i] == 2 and series[i] > 0.5 * self.worth[i] > 0:
                wanted.append(i)
                holds[i] = True
            up = parents[i]
            holds[up] = holds[up] or holds[i]
            series[up] = max(series[up], series[i])
        return wanted

    def _teasers(self) -> list[int]:
        """Elements that announce another page: three or more side by side, each with one heading that is a link."""
        linked = [
            i for i, tag in enumerate(self.tags)
            if tag in HEADINGS and not self.dropped[i] and self.text[i] and self.link_text[i] >= 0.6 * self.text[i]
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
            if self.worth[at] < TEASER:
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
        at = best = self._named("article", self._named("main", 0))
        wanted = KEEP * self.worth[at]
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

    def _named(self, name: str, inside: int) -> int:
        """The place of the one `main` or `article` that holds most of an element; of the element where none does."""
        found = [
            i for i in range(inside + 1, self.last_inside[inside] + 1)
            if not self.dropped[i] and self.worth[i] >= 0.5 * self.worth[inside] > 0
            and name in (self.tags[i], self.elements[i].get("role"))
        ]  # fmt: skip
        return found[0] if len(found) == 1 else inside

    def heading(self, content: int) -> int | None:
        """The place of the page's one main heading where it is before the content, not in it."""
        found = [i for i, tag in enumerate(self.tags) if tag == "h1" and not self.dropped[i] and self.text[i]]
        return found[0] if len(found) == 1 and found[0] < content else None

    def begin_at_title(self, content: int, *, title: Literal["in", "out"]) -> None:
        """Drop what is in the content before the heading that repeats the page's title, with "out" that one too."""
        named = set(_WORD.findall(self.title().lower()))
        before, tried = 0.0, 0
        for i in range(content + 1, self.last_inside[content] + 1):
            if before >= BEFORE or tried > 5:
                return
            if self.dropped[i]:
                continue
            if self.tags[i] in ("h1", "h2"):
                tried += 1
                words = _WORD.findall("".join(self.elements[i].itertext()).lower())
                if len(words) > 1 and sum(word in named for word in words) >= 0.75 * len(words):
                    break
            before += self._own(i)
        else:
            return
        self._drop([j for j in range(content + 1, i) if self.last_inside[j] < i] + [i] * (title == "out"))

    def _leaves_behind(self, up: int, child: int) -> bool:
        """Whether next to a child there is a part of its kind, or code, a table, a list or a quote, as content too."""
        kind, enough = self._kind(child), KIN_SHARE * self.worth[child]
        between = self._enclosed[up] + (self.tags[up] in ENCLOSED)
        layout = self.tags[up] in ("table", "tbody", "tr")
        paragraphs = 0.0
        for i in self._beside(up, child):
            if self.parents[i] == up:
                paragraphs += self.worth[i] if self.tags[i] == "p" else 0.0
                if paragraphs >= enough or (self.worth[i] >= enough and kind[1] and self._kind(i) == kind):
                    return True
            if (
                self.tags[i] in STRUCTURE
                and self.worth[i] > 0
                and self._enclosed[i] == between
                and not layout
                and not self.boilerplate(i)
                and (self.tags[i] != "ul" or not self.link_text[i])  # lists of links next to the text are the site's
            ):
                return True
        return False

    def _beside(self, up: int, child: int) -> Iterator[int]:
        """The elements inside `up` that are neither dropped nor inside `child`."""
        ends = self.last_inside
        for i in itertools.chain(range(up + 1, child), range(ends[child] + 1, ends[up] + 1)):
            if not self.dropped[i]:
                yield i

    def boilerplate(self, i: int) -> bool:
        """Whether an element inside the content is mostly links, as further reading is, and holds no paragraph."""
        text, links, tag = self.text[i], self.link_text[i], self.tags[i]
        if tag in HEADINGS or links <= 0.66 * text or self._best[i] >= SHORT:
            return False
        return tag != "p" or (text >= 25 and text - links < 80)

    def title(self) -> str:
        """The page's title, else its first main heading, in one line; empty where it has neither."""
        for tag in ("title", "h1"):
            for i, name in enumerate(self.tags):
                if name == tag:
                    found = " ".join("".join(self.elements[i].itertext()).split())
                    if found:
                        return found[:500]
        return ""
