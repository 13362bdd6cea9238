"""The catalogue: every row of the contract, what answers to it, and how it is shown to be right."""

import functools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llmanac.core import registry
from llmanac.core.errors import SpecError, nearest

Status = Literal["done", "reference", "built", "planned"]
STATUSES: tuple[Status, ...] = ("done", "reference", "built", "planned")
FILE = Path(__file__).with_name("catalogue.toml")
EVIDENCE = Path(__file__).with_name(
    "evidence.json"
)  # written by evidence/run.py: verdicts, and numbers that texts quote


@dataclass(frozen=True)
class CatalogueEntry:
    """One row of the contract, or one further method.

    Attributes:
        id: what the user types (`position/rope`).
        method: `kind/name` of the method that implements it, where that is one swappable part.
        where: path below the package of the code that answers to it, for rows that are no single method.
        reference: the tests that prove it, each `path::test` below the repository, the one that says most first; none
            while it is not built. The file may give a single one as a text.
        claim: the evidence page, path below the repository; empty while there is none.
        paper: for rows that are no single method and so have no CARD; several are separated by `; `.
    """

    id: str
    title: str
    method: str = ""
    where: str = ""
    reference: tuple[str, ...] = ()
    claim: str = ""
    paper: str = ""

    @property
    def status(self) -> Status:
        if self.reference and self.claim:
            return "done"
        if self.reference:
            return "reference"
        return "built" if self.file is not None else "planned"

    @property
    def verdict(self) -> dict[str, Any]:
        """What its evidence shows: `verdict`, `effect`, `interval`, `n`, `scale`, `made`, a `note`, and its `parts`."""
        return evidence()["verdicts"].get(self.id, {})

    @property
    def file(self) -> Path | None:
        """The method file that answers to it, where it is one swappable part that exists."""
        kind, _, name = (self.method or self.id).partition("/")
        found = registry.methods(kind).get(name) if kind in registry.KINDS else None
        return found.path if found else None

    @property
    def source(self) -> str:
        """Path of the implementing file below the package's parent folder, or nothing while it is planned."""
        if self.file is not None:
            return self.file.relative_to(registry.package_of(self.file)[1].parent).as_posix()
        return f"llmanac/{self.where}" if self.where and self.status != "planned" else ""

    def as_json(self) -> dict[str, Any]:
        """The entry as `llmanac list --json` prints it, with the first of its tests."""
        return {
            "id": self.id,
            "title": self.title,
            "status": self.status,
            "reference": next(iter(self.reference), ""),
            "claim": self.claim,
            "source": self.source,
            **{key: self.verdict.get(key) for key in ("verdict", "effect", "interval", "n", "scale", "made")},
        }


@functools.cache
def evidence() -> dict[str, Any]:
    """The numbers of the evidence pages that the package quotes; `evidence/run.py` writes the file."""
    return json.loads(EVIDENCE.read_text("utf-8"))


@functools.cache
def rows() -> dict[str, CatalogueEntry]:
    """Every row of the contract, by id."""
    data = tomllib.loads(FILE.read_text("utf-8"))
    return {key: _row(key, value) for key, value in data.items()}


def _by_file() -> dict[Path, list[CatalogueEntry]]:
    """The rows that each method file answers to: looked up once, since a look at a folder takes its time."""
    known = {kind: registry.methods(kind) for kind in registry.KINDS}
    found: dict[Path, list[CatalogueEntry]] = {}
    for row in rows().values():
        kind, _, name = (row.method or row.id).partition("/")
        if method := known.get(kind, {}).get(name):
            found.setdefault(method.path, []).append(row)
    return found


def _row(id: str, fields: dict[str, Any]) -> CatalogueEntry:
    """One row of the file. Raises SpecError where its `reference` is neither a text nor a list of different texts."""
    given = fields.get("reference", [])
    tests = [given] if isinstance(given, str) else given
    if not isinstance(tests, list) or not all(isinstance(test, str) and test for test in tests):
        raise SpecError(f"{FILE.name}: {id}.reference: expected `path::test` or a list of them, got {given!r}")
    if len(set(tests)) < len(tests):
        raise SpecError(f"{FILE.name}: {id}.reference: names a test twice")
    return CatalogueEntry(**{"id": id, **fields, "reference": tuple(tests)})


def of_kind(kind: str) -> list[CatalogueEntry]:
    """Every entry of a kind: its rows, and each of its methods by name, also those that answer to a row elsewhere."""
    found = [e for e in entries() if e.id.startswith(f"{kind}/") or e.method.startswith(f"{kind}/")]
    named = {entry.id for entry in found}
    others = registry.methods(kind).values() if kind in registry.KINDS else ()
    files = _by_file()
    return found + [_of_method(method, files) for method in others if method.id not in named]


def entries() -> list[CatalogueEntry]:
    """The rows, then every method that no row names: an alias has its file's test, but no measurement of another."""
    files = _by_file()
    built = {row.id for some in files.values() for row in some}
    out = [replace(row, method=row.id) if not row.method and row.id in built else row for row in rows().values()]
    named = {row.method for row in out} | {row.id for row in out}
    for kind in registry.KINDS:
        for name, method in registry.methods(kind).items():
            if f"{kind}/{name}" in named or (name == method.path.stem.replace("_", "-") and _covered(method, named)):
                continue
            out.append(_of_method(method, files))
    return out


def _of_method(method: registry.Method, files: Mapping[Path, list[CatalogueEntry]]) -> CatalogueEntry:
    """The entry of a method under its own name: its own row's checks, or the test of its file; only its own claim."""
    card = method.card
    title = card.get("titles", {}).get(method.name, card["title"])
    if method.defaults and title == card["title"]:
        title += f" ({method.name})"
    same_file = files.get(method.path, [])
    own = next((row for row in same_file if row.method == method.id), None)
    tests = [row.reference for row in (own, *same_file) if row and row.reference]
    stated = card.get("test", "")
    return CatalogueEntry(
        method.id,
        title,
        method=method.id,
        reference=(stated,) if stated else next(iter(tests), ()),
        claim=card.get("claim", "") or (own.claim if own else ""),
    )


def _covered(method: registry.Method, named: set[str]) -> bool:
    """Whether a file's own name only repeats rows that its aliases already answer to."""
    return any(f"{method.kind}/{alias}" in named for alias in method.card.get("aliases", {}))


def named(name: str) -> list[CatalogueEntry]:
    """What a user may mean by a name: the entry with this id, else those of every kind that have it after the slash,
    else those whose name begins as it does or the other way round (`flashattention` is `flash`).

    Raises:
        SpecError: there is none.
    """
    if "/" in name:
        return [find(name)]

    def folded(text: str) -> str:
        return "".join(filter(str.isalnum, text.lower()))

    own = {e.id: folded(e.id.partition("/")[2]) for e in entries()}
    own |= {f"{kind}/{short}": folded(short) for kind in registry.KINDS for short in registry.methods(kind)}
    asked = folded(name)
    close = [
        i
        for i, short in own.items()
        if min(len(short), len(asked)) > 3 and (asked.startswith(short) or short.startswith(asked))
    ]
    found = [i for i, short in own.items() if short == asked] or close
    return [find(i) for i in found] if found else [find(name)]


def find(name: str) -> CatalogueEntry:
    """The entry with this id. Raises SpecError that names the nearest known one."""
    known = {entry.id: entry for entry in entries()}
    if name not in known:
        kind, _, method = name.partition("/")
        if kind in registry.KINDS and method in registry.methods(kind):
            return _of_method(registry.find(kind, method), _by_file())
        raise SpecError(f"nothing is called {name!r}{nearest(name, known)}; `llmanac list` prints every name")
    return known[name]
