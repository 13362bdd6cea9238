"""The syllabus's tables with what was measured here beside each claim; figures are read from the evidence's pages."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmanac.core import catalogue, files
from llmanac.core.errors import SpecError
from llmanac.guide.markdown import cells
from llmanac.guide.question import RESULTS

FILE = Path(__file__).with_name("tables.toml")


@dataclass(frozen=True)
class Figure:
    """One measured figure: what it is, the text of the cell that it is read from, and where that is."""

    what: str
    value: str
    place: str

    @property
    def study(self) -> str:
        return self.place.partition(" | ")[0]


@dataclass(frozen=True)
class SyllabusRow:
    """A row: its name, its entry of the catalogue, the claim in our words, and our figures."""

    name: str
    entry: catalogue.CatalogueEntry
    claim: str
    figures: tuple[Figure, ...]

    @property
    def missing(self) -> str:
        """Why it has no figure; empty where it has some."""
        if self.figures:
            return ""
        if self.entry.status == "planned":
            return "not built yet"
        return "measured; see the study" if self.entry.claim else "built, not measured yet"


@dataclass(frozen=True)
class Table:
    name: str
    chapter: str
    rows: tuple[SyllabusRow, ...]


@functools.cache
def _page(study: str) -> list[tuple[str, list[str], list[list[str]]]]:
    """(heading, head, rows) of each table of a study's page."""
    path, found, heading, at = RESULTS / study / "page.md", [], "", 0
    lines = path.read_text("utf-8").splitlines()
    while at < len(lines):
        end = at + 1
        if lines[at].startswith("#"):
            heading = lines[at].lstrip("# ")
        elif lines[at].startswith("|"):
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            head, _, *rows = ([cell.strip("* ") for cell in row] for row in cells(lines[at:end]))
            found.append((heading, head, rows))
        at = end
    return found


def figure(place: str) -> str:
    """The first cell that fits "study | row | column", and " | words" of the heading or the head's first cell.

    A row is found by any of its cells, without emphasis. Raises SpecError where there is none.
    """
    study, row, column, *words = place.split(" | ")
    try:
        for heading, head, rows in _page(study):
            if column in head and all(word in f"{heading} {head[0]}" for word in words):
                for found in rows:
                    if row in (*found, found[0].replace("**", "")) and found[head.index(column)]:
                        return found[head.index(column)]
    except OSError as error:
        raise SpecError(f"{FILE.name}: {place}: {error}") from None
    raise SpecError(f"{FILE.name}: {place}: no table of docs/evidence/{study} has such a cell")


def _rows(name: str, data: list[list[str]]) -> Iterator[SyllabusRow]:
    known = {entry.id: entry for entry in catalogue.entries()}
    for row in data:
        if len(row) < 3 or len(row) % 2 == 0:
            raise SpecError(f"{FILE.name}: {name}: {row} is not [name, entry, claim, what, place, ...]")
        label, id, claim, *rest = row
        if id not in known:
            raise SpecError(f"{FILE.name}: {name}: {id} is not in the catalogue")
        pairs = zip(rest[::2], rest[1::2], strict=True)
        found = tuple(Figure(what, figure(place), place) for what, place in pairs)
        yield SyllabusRow(label, known[id], claim, found)


@functools.cache
def tables() -> tuple[Table, ...]:
    """All, in the order of the syllabus. Raises SpecError for a row or a place that does not exist."""
    return tuple(Table(name, t["chapter"], tuple(_rows(name, t["rows"]))) for name, t in files.read_toml(FILE).items())


def about(id: str) -> list[SyllabusRow]:
    """The rows of all tables about an entry."""
    return [row for table in tables() for row in table.rows if row.entry.id == id]


def chapters() -> dict[str, list[Table]]:
    """The tables of each chapter, by the chapter's name in addresses (`language-modeling`)."""
    found: dict[str, list[Table]] = {}
    for table in tables():
        found.setdefault(table.chapter.lower().replace(" ", "-"), []).append(table)
    return found
