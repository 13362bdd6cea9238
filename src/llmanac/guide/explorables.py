"""Explorables: pages that compute in the reader's browser, from a folder of files as well as from the app.

One is a script in `explore/` and a table in `explore/cards.toml`; it shares `frame.js`. They are classic scripts, since
a page that is opened from a folder may load neither modules nor data by request.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path

from llmanac.core import files
from llmanac.core.errors import SpecError
from llmanac.guide.question import measured

FOLDER = Path(__file__).parent / "explore"


@dataclass(frozen=True)
class Explorable:
    """One of them.

    Attributes:
        name, title, about, rows: what it is called and shows, and the rows of the catalogue that it is about.
        scripts: that it needs before its own; measured: numbers of the evidence by the name that its script uses.
    """

    name: str
    title: str
    about: str
    rows: list[str]
    scripts: list[str] = field(default_factory=list)
    measured: dict[str, str] = field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """The files of its scripts, in the order in which they are loaded."""
        return [f"{name}.js" for name in ("frame", *self.scripts, self.name)]

    def numbers(self) -> str:
        """Its measured numbers as JSON."""
        return json.dumps({name: measured(place) for name, place in self.measured.items()})


@functools.cache
def explorables() -> dict[str, Explorable]:
    """Every explorable by name. Raises SpecError for a table that lacks a field."""
    try:
        return {name: Explorable(name, **data) for name, data in files.read_toml(FOLDER / "cards.toml").items()}
    except TypeError as error:
        raise SpecError(f"{FOLDER / 'cards.toml'}: {error}") from None


def scripts() -> dict[str, Path]:
    """Every script by its path in the guide."""
    return {f"explore/{path.name}": path for path in sorted(FOLDER.glob("*.js"))}
