"""Demos: what a kind's methods do with input that the reader types, computed by the package itself.

A demo is a file in this folder and its name is the file's; a new file appears with no other edit. It has a docstring
(what is shown), a literal CARD (`title`; `kinds` of which every method has it; `rows` of the catalogue, or the
beginnings of their ids), FIELDS (the inputs, each bounded) and `run(values, models, until)`, which gives parts of HTML.
"""

from __future__ import annotations

import ast
import base64
import functools
import importlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from llmanac.core import registry
from llmanac.core.errors import LlmanacError, SpecError, nearest, shown
from llmanac.core.extras import naming
from llmanac.guide.check import read_number

if TYPE_CHECKING:
    from llmanac.guide.demos._model import Held

FOLDER = Path(__file__).parent
SECONDS = 20.0  # of one demo, without the loading of a model


@dataclass(frozen=True)
class Field:
    """One input.

    Attributes:
        name, label, value: what it is called, for people, and what it is at first.
        most: characters of a text; area: whether it has several lines.
        kind: whose methods are the choices; choices: those before them. Neither: it is a text or a number.
        low, high: of a number, both given; an integer where both are.
        files: how many files it takes, of `most` bytes each; the form has them as base64, a line each.
    """

    name: str
    label: str
    value: str
    most: int = 200
    area: bool = False
    kind: str = ""
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    files: int = 0

    @property
    def options(self) -> list[str]:
        """The choices; none for a text or a number."""
        return [*self.choices, *(registry.methods(self.kind) if self.kind else ())]

    def read(self, given: str | None) -> Any:
        """The value of what was typed. Raises SpecError that names the field."""
        text = self.value if given is None else given.replace("\r\n", "\n")
        if self.files:
            return self._contents(text.split())
        if len(text) > self.most:
            raise SpecError(f"{self.label}: {len(text)} characters; it takes {self.most} at most")
        if self.options:
            if text not in self.options:
                raise SpecError(f"{self.label}: {shown(text)} is not a choice{nearest(text, self.options)}")
            return text
        if self.low is None or self.high is None:
            return text
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        kind = f"{shown(text)} is not a {'whole ' if whole else ''}number"
        try:
            in_bytes = text[-1:] in "Bbs"  # "128 KiB"
            number = read_number(text, self.label) if in_bytes else int(text) if whole else float(text)
        except ValueError:
            raise SpecError(f"{self.label}: {kind}") from None
        if in_bytes and whole and number % 1:
            raise SpecError(f"{self.label}: {kind}")
        if not (math.isfinite(number) and self.low <= number <= self.high):
            raise SpecError(f"{self.label}: {number:g} is not between {self.low:g} and {self.high:g}")
        return number

    def _contents(self, given: list[str]) -> list[bytes]:
        """The bytes of files. Raises SpecError for too many or too large ones."""
        if len(given) > self.files:
            raise SpecError(f"{self.label}: {len(given)} files; it takes {self.files} at most")
        try:
            found = [base64.b64decode(text, validate=True) for text in given]
        except ValueError:
            raise SpecError(f"{self.label}: the files are not base64") from None
        if any(len(data) > self.most for data in found):
            raise SpecError(f"{self.label}: a file has at most {self.most:,} bytes")
        return found


class Models:
    """The model that demos run on, loaded when one first needs it (`_model.py` says which).

    Args:
        path: a run's or model's folder, a .gguf file or the name of a model on the hub; empty: what is there.
        small: the n-gram model whatever is installed, so that an exported site is the same everywhere.
    """

    def __init__(self, path: str = "", *, small: bool = False) -> None:
        self.path, self.small = path, small

    @functools.cached_property
    def held(self) -> Held:
        """Raises LlmanacError where a model that was named cannot be read."""
        from llmanac.guide.demos._model import load

        return load(self.path, self.small)


@dataclass(frozen=True)
class Demo:
    """One demo; nothing is imported to list it."""

    name: str
    title: str
    about: str
    kinds: tuple[str, ...]
    rows: tuple[str, ...]

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(f"{__name__}.{self.name}")

    @property
    def lacks(self) -> str:
        """What to install before it runs; empty where it does."""
        try:
            with naming("this demo"):
                importlib.import_module(f"{__name__}.{self.name}")
        except LlmanacError as error:
            return str(error)
        return ""

    @property
    def fields(self) -> tuple[Field, ...]:
        found: tuple[Field, ...] = self.module.FIELDS
        return found

    @property
    def uploads(self) -> bool:
        """Whether its form sends files."""
        return any(field.files for field in self.fields)

    @property
    def needs_model(self) -> bool:
        return bool(getattr(self.module, "MODEL", False))

    def shows(self, *ids: str) -> bool:
        """Whether it is a demo of an entry, by its id and its method's."""
        return any(id.partition("/")[0] in self.kinds or (id and id.startswith(self.rows)) for id in ids)

    def preset(self, *ids: str) -> str:
        """`field=name` of the field that chooses the method of an entry; empty where none does."""
        for id in ids:
            kind, _, name = id.partition("/")
            for field in self.fields if kind in registry.KINDS else ():
                if field.kind == kind and name in field.options:
                    return f"{field.name}={name}"
        return ""

    def run(self, given: Mapping[str, str], models: Models, seconds: float = SECONDS) -> list[Markup]:
        """The parts of its result. Raises LlmanacError for inputs that are out of bounds, or after `seconds`."""
        values = {field.name: field.read(given.get(field.name)) for field in self.fields}
        if self.needs_model:
            models.held.engine.run([models.held.engine.request("a", max_new_tokens=1)])  # loaded, compiled: not timed
        parts: list[Markup] = self.module.run(values, models, time.monotonic() + seconds)
        return parts


@functools.cache
def demos() -> dict[str, Demo]:
    """Every demo by name."""
    found = {}
    for path in sorted(FOLDER.glob("[!_]*.py")):
        card = registry.read_card(path)
        about = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        kinds, rows = tuple(card.get("kinds", ())), tuple(card.get("rows", ()))
        found[path.stem] = Demo(path.stem, card["title"], about, kinds, rows)
    return found


def in_time(until: float) -> None:
    """Raises SpecError where a demo's time is up. Loops call it."""
    if time.monotonic() > until:
        raise SpecError("it took longer than its time and was ended; take a shorter text or fewer tokens")
