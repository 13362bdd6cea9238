"""Learning paths: subjects as rows in an order, with the reason for each; and areas that filter rows of all subjects.

Both are in `paths.toml`; every row that is named there is in the catalogue.
"""

import fnmatch
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from llmanac.core import catalogue, files
from llmanac.core.errors import SpecError, nearest, shown

FILE = File(__file__).with_name("paths.toml")


@dataclass(frozen=True)
class PathStep:
    """A row of the catalogue (or a further method), and why it comes at this place."""

    row: str
    why: str


@dataclass(frozen=True)
class Path:
    """A subject: what it is called, what it is about, and its rows in the order in which they are best read."""

    name: str
    title: str
    text: str
    steps: tuple[PathStep, ...]


@dataclass(frozen=True)
class Area:
    """A filter: the rows of all subjects that are read for one purpose, in the order of the catalogue."""

    name: str
    title: str
    text: str
    rows: tuple[str, ...]


@functools.cache
def load() -> tuple[Path, ...]:
    """The learning paths. Raises SpecError that names the path and the field that is wrong."""
    known = _rows()
    found = []
    for name, data in _table("paths", "steps"):
        steps = []
        for number, step in enumerate(data["steps"], 1):
            place = f"{FILE}: paths.{name}.steps, step {number}"
            if not isinstance(step, list) or len(step) != 2 or not all(isinstance(x, str) and x for x in step):
                raise SpecError(f"{place}: expected [row, why], got {shown(step)}")
            if step[0] not in known:
                raise SpecError(f"{place}: {shown(step[0])} is not in the catalogue{nearest(step[0], known)}")
            steps.append(PathStep(*step))
        if len({step.row for step in steps}) < len(steps):
            raise SpecError(f"{FILE}: paths.{name}.steps: a row is named twice")
        found.append(Path(name, data["title"], data["text"], tuple(steps)))
    return tuple(found)


@functools.cache
def areas() -> tuple[Area, ...]:
    """The areas. Raises SpecError that names the area and the pattern that fits no row."""
    known = _rows()
    found = []
    for name, data in _table("areas", "rows"):
        named: set[str] = set()
        for pattern in data["rows"]:
            fits = fnmatch.filter(known, pattern) if isinstance(pattern, str) else []
            if not fits:
                raise SpecError(f"{FILE}: areas.{name}.rows: {shown(pattern)} fits no row of the catalogue")
            named.update(fits)
        found.append(Area(name, data["title"], data["text"], tuple(row for row in known if row in named)))
    return tuple(found)


def _rows() -> list[str]:
    return [entry.id for entry in catalogue.entries()]


def _table(part: str, last: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """The entries of one part of the file, each with a title, a text and a list."""
    for name, data in files.read_toml(FILE).get(part, {}).items():
        if not isinstance(data, dict) or data.keys() != {"title", "text", last}:
            raise SpecError(f"{FILE}: {part}.{name}: needs title, text and {last}, and nothing else")
        if not data["title"] or not data["text"] or not isinstance(data[last], list) or not data[last]:
            raise SpecError(f"{FILE}: {part}.{name}: title, text and {last} may not be empty")
        yield name, data
