"""Search over entries, questions, exercises, chapters, paths and demos: BM25 over stems, a title's words counted more.

    score(page) = sum over the query's stems of idf * f / (f + k1 (1 - b + b |page| / mean |page|)),
                  f = occurrences in the text + TITLE * occurrences in the title, the name and the aliases

A question can be typed as it is asked: words of every question (COMMON) are left out unless there is nothing else,
a hyphen or a capital inside a word divides it (`FlashAttention`, `flash-attention`, `flash attention`), and of an
entry its paper counts too, as do the questions about it. Pages with less than PART of the best score are not shown.
"""

import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmanac.core.files import read_toml
from llmanac.guide import chapter, paths
from llmanac.guide.demos import demos
from llmanac.guide.exercise import exercises
from llmanac.guide.explorables import explorables
from llmanac.guide.pages import pages
from llmanac.guide.question import questions
from llmanac.guide.tables import about, chapters
from llmanac.metrics import stem

MOST = 50  # pages found
LONGEST = 40  # words of a query
SHOWN = 50  # characters of how a page begins
TITLE = 4  # what a word of a title counts
PART = 0.3  # of the best score: what a page needs
ENTRY = 1.05  # what an entry's score is multiplied with: it explains, where an exercise or a chapter only names
K1, B = 1.5, 0.3
_TABLE = read_toml(Path(__file__).with_name("search.toml"))
COMMON, SHORT = frozenset(_TABLE["common"].split()), _TABLE["short"]


@dataclass(frozen=True)
class SearchHit:
    """A page of the guide, or a part of a chapter: its address, its title, how it begins, how often each stem is in it
    (weighted), and how long it is."""

    path: str
    title: str
    begins: str
    counts: Counter[str]
    length: float


def words(text: str) -> list[str]:
    """The stems of a text; `FlashAttention-2` and `flash attention 2` have the same."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text)
    found = re.findall(r"[^\W_]+", apart.lower())
    return [stem(word) for word in found + [word for short in found for word in SHORT.get(short, "").split()]]


def _hits() -> Iterator[tuple[str, str, str, str]]:
    """(address, title, words of the head, text); a question and its rows have each other's titles."""
    known = pages()
    for id, page in known.items():
        aliases = " ".join(page.card.get("aliases", ()))
        said = [page.explanation, str(page.card.get("paper", ""))]
        said += [f"{row.name} {row.claim}" for row in about(id)] + [q.ask for q in page.questions]
        yield f"row/{id}", page.entry.title, f"{id} {page.entry.title} {aliases}", " ".join(said)
    for name, q in questions().items():
        said = [q.short, q.long, *q.follow_ups, q.wrong, q.why, *q.rubric]
        said += [f"{id} {known[id].entry.title}" for id in q.rows if id in known]
        yield f"question/{name}", q.ask, f"{name} {q.ask}", " ".join(said)
    for name, e in exercises().items():
        yield f"exercise/{name}", e.title, f"{name} {e.title}", f"{e.task} {' '.join(e.rows)}"
    for name, held in chapters().items():
        said = [f"{table.name} {row.name}" for table in held for row in table.rows]
        yield f"chapter/{name}", held[0].chapter, held[0].chapter, f"{chapter.aim(name)} {' '.join(said)}"
        for heading, text in chapter.sections(name):
            title = f"{held[0].chapter}: {heading}"
            yield f"chapter/{name}#{chapter.place(heading)}", title, title, text
    for path in paths.load():
        yield f"path/{path.name}", path.title, path.title, path.text
    for name, one in explorables().items():
        yield f"explore/{name}", one.title, one.title, one.about
    for name, demo in demos().items():
        yield f"demo/{name}", demo.title, demo.title, demo.about


@functools.cache
def index() -> tuple[SearchHit, ...]:
    """Every page that can be found."""
    found = []
    for path, title, head, body in _hits():
        counts = Counter(words(body))
        for word in words(head):
            counts[word] += TITLE
        page, mark, place = path.partition("#")
        found.append(SearchHit(f"{page}.html{mark}{place}", title, _begins(body), counts, counts.total()))
    return tuple(found)


def _begins(text: str) -> str:
    """The first words of a text, without its marks."""
    plain = " ".join(re.sub(r"[`*$]|\]\([^)]*\)|\[", "", text).split())
    return plain if len(plain) <= SHOWN else f"{plain[:SHOWN].rpartition(' ')[0]} …"


@functools.cache
def _places() -> dict[str, list[int]]:
    """The pages that hold each stem."""
    places = defaultdict(list)
    for i, hit in enumerate(index()):
        for word in hit.counts:
            places[word].append(i)
    return dict(places)


def search(text: str) -> list[SearchHit]:
    """At most MOST pages, best first; of equals entries first, then short addresses."""
    said = [word for word in re.findall(r"\S+", text) if re.sub(r"\W", "", word).lower() not in COMMON]
    asked = dict.fromkeys(words(" ".join(said[:LONGEST]) or text)[: 2 * LONGEST])
    pages_, places = index(), _places()
    mean = sum(hit.length for hit in pages_) / len(pages_)
    scores: defaultdict[int, float] = defaultdict(float)
    for word in asked:
        here = places.get(word, [])
        idf = math.log1p((len(pages_) - len(here) + 0.5) / (len(here) + 0.5))
        for i in here:
            count = pages_[i].counts[word]
            scores[i] += idf * count / (count + K1 * (1 - B + B * pages_[i].length / mean))
    for i in scores:
        scores[i] *= ENTRY if pages_[i].path.startswith("row/") else 1.0
    least = PART * max(scores.values(), default=0.0)
    kept = [(-score, not pages_[i].path.startswith("row/"), len(pages_[i].path), i) for i, score in scores.items()]
    return [pages_[i] for score, *_, i in sorted(kept)[:MOST] if -score >= least]
