"""What a rule is, and how a table of rules is applied to an artefact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """A fault that can be seen in an artefact.

    Attributes:
        name: of the fault; thread: where users met it, as `owner/name#number`.
        check: yields a sentence for each thing that is found; at most one is kept for rows.
    """

    name: str
    thread: str
    check: Callable[[Any], Iterator[str]]


@dataclass(frozen=True)
class Found:
    """A fault that was found: its rule's name and thread, and what was seen where."""

    name: str
    said: str
    thread: str


def applied(rules: Iterable[Rule], artefact: Any) -> list[Found]:
    """What the rules say of an artefact."""
    return [Found(one.name, said, one.thread) for one in rules for said in one.check(artefact)]


def rules_of(table: list[Rule]) -> Callable[[str, str], Callable[[Any], Any]]:
    """A decorator that adds a function to a table of rules, with its name and thread."""

    def rule(name: str, thread: str) -> Callable[[Any], Any]:
        def keep(check: Any) -> Any:
            table.append(Rule(name, thread, check))
            return check

        return keep

    return rule
