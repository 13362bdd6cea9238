"""How rules are applied to an artefact.

A rule is a function of an artefact that gives, for each thing that it finds, what a sentence is filled with.
`rules.toml` has the sentences by name, and the thread where users met the fault, as `owner/name#number`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.files import read_toml

TABLE = read_toml(Path(__file__).with_name("rules.toml"))
Fields = Iterable[Mapping[str, Any]]  # what a sentence is filled with, for each thing that was found


@dataclass(frozen=True)
class LintFinding:
    """A fault that was found: its rule's name and thread, and what was seen where."""

    name: str
    said: str
    thread: str


@dataclass
class LintedArtefact:
    """What rules read, at a path."""

    path: Path

    def at(self, found: Any, **fields: Any) -> Fields:
        """The fields of a sentence, where something was found."""
        return [{"where": self.path, **fields}] if found else []


@dataclass
class LintTable(LintedArtefact):
    """Rows of a file, by line."""

    rows: list[tuple[int, Mapping[str, Any]]]

    def at(self, found: Any, **fields: Any) -> Fields:
        """Those of a sentence on lines, where there are some: the first is named, all are counted."""
        share = f" ({len(found):,} of {len(self.rows):,} rows)" if found else ""
        return [{"where": f"{self.path}:{found[0]}", "share": share, **fields}] if found else []

    def where(self, wrong: Callable[[Mapping[str, Any]], bool]) -> Fields:
        """Those of the rows of which something is so."""
        return self.at([line for line, values in self.rows if wrong(values)])


def applied(checks: Mapping[str, Callable[[Any], Fields]], artefact: Any) -> list[LintFinding]:
    """What rules say of an artefact."""
    return [
        LintFinding(
            name, f"{seen['where']}: {TABLE[name]['says'].format(**seen)}{seen.get('share', '')}", TABLE[name]["thread"]
        )
        for name, check in checks.items()
        for seen in check(artefact)
    ]
