"""Search over entries, questions, exercises, chapters, paths and demos, by words weighted by how rare they are.

    score(page) = sum over the query's words in it of w ln(1 + pages / pages with the word),  w = 2 in its title, else 1

A page is found that has half of the query's weight, so a question can be typed as it is asked.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from llmanac.guide import paths
from llmanac.guide.demos import demos
from llmanac.guide.exercise import exercises
from llmanac.guide.pages import pages
from llmanac.guide.question import questions
from llmanac.guide.tables import chapters

MOST = 50  # pages found
LONGEST = 40  # words of a query
COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can do does for from how i if in is it its of on one or so than that the this to "
        "what when where which why with you your",
    )
)


@dataclass(frozen=True)
class Hit:
    """A page of the guide: its address, its title, what it is, and its words."""

    path: str
    title: str
    head: frozenset[str]
    body: frozenset[str]


def words(text: str) -> list[str]:
    """The words of a text without their case and a plural's s."""
    found = re.findall(r"\w+", text.lower().replace("_", " "))
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in found]


def _hits() -> Iterator[tuple[str, str, str, str]]:
    for id, page in pages().items():
        aliases = " ".join(page.card.get("aliases", ()))
        yield f"row/{id}", page.entry.title, f"{id} {page.entry.title} {aliases}", page.explanation
    for name, q in questions().items():
        yield f"question/{name}", q.ask, q.ask, " ".join([q.short, q.long, *q.follow_ups, *q.rows])
    for name, e in exercises().items():
        yield f"exercise/{name}", e.title, f"{name} {e.title}", f"{e.task} {' '.join(e.rows)}"
    for name, tables in chapters().items():
        said = " ".join(f"{row.name} {row.claim}" for table in tables for row in table.rows)
        yield f"chapter/{name}", tables[0].chapter, tables[0].chapter, said
    for path in paths.load():
        yield f"path/{path.name}", path.title, path.title, path.text
    for name, demo in demos().items():
        yield f"demo/{name}", demo.title, demo.title, demo.about


@functools.cache
def index() -> tuple[Hit, ...]:
    """Every page that can be found."""
    return tuple(
        Hit(f"{path}.html", title, frozenset(words(head)), frozenset(words(f"{head} {body}")))
        for path, title, head, body in _hits()
    )


@functools.cache
def _counts() -> Counter[str]:
    return Counter(word for hit in index() for word in hit.body)


def search(text: str) -> list[Hit]:
    """The pages with at least half of the query's weight, best first; of equals entries first, then short addresses."""
    every = dict.fromkeys(words(text)[:LONGEST])
    asked = [word for word in every if word not in COMMON] or list(every)
    weight = {word: math.log(1 + len(index()) / (_counts()[word] or 0.5)) for word in asked}
    ranked = []
    for hit in index():
        here = sum(weight[word] for word in asked if word in hit.body)
        if here and 2 * here >= sum(weight.values()):
            score = here + sum(weight[word] for word in asked if word in hit.head)
            ranked.append((-score, not hit.path.startswith("row/"), len(hit.path), hit.path, hit))
    return [hit for *_, hit in sorted(ranked, key=lambda r: r[:4])[:MOST]]
