"""The two languages that constraints are written in: regular expressions over characters, and grammars of terminals.

A regular expression is a tree of `Chars`, `Concat`, `Union`, `Repeat`, `And` and `Not`; a grammar maps rule names to
nodes over terminals. `regex.py`, `lark.py` and `json_schema.py` write these trees, `automaton.py` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LAST_CHARACTER = 0x10FFFF


@dataclass(frozen=True)
class Chars:
    """One character of these ranges of code points, both ends included. Surrogates never match: text is UTF-8."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Concat:
    """One after the other; no items: the empty text."""

    items: tuple[Regex, ...]


@dataclass(frozen=True)
class Union:
    """Any of these; no items: nothing matches."""

    items: tuple[Regex, ...]


@dataclass(frozen=True)
class Repeat:
    """`least` to `most` times; most None: without a limit."""

    item: Regex
    least: int
    most: int | None = None


@dataclass(frozen=True)
class And:
    """What all of these match."""

    items: tuple[Regex, ...]


@dataclass(frozen=True)
class Not:
    """Every text of valid characters that the item does not match as a unit."""

    item: Regex


Regex = Chars | Concat | Union | Repeat | And | Not


@dataclass(frozen=True)
class Terminal:
    """Text that matches a regular expression."""

    regex: Regex


@dataclass(frozen=True)
class Fresh:
    """As a Terminal, and no text that another Fresh of the innermost Scope matched (the keys of a JSON object)."""

    regex: Regex


@dataclass(frozen=True)
class Scope:
    """The node, with an empty set of texts for its Fresh terminals."""

    node: Node


@dataclass(frozen=True)
class Ref:
    """A rule by its name."""

    name: str


@dataclass(frozen=True)
class Concatenation:
    """One after the other; no items: the empty text."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Choice:
    """Any of these; ambiguity is allowed. No items: nothing matches."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Many:
    """`least` to `most` times; most None: without a limit."""

    node: Node
    least: int
    most: int | None = None


Node = Terminal | Fresh | Scope | Ref | Concatenation | Choice | Many


@dataclass(frozen=True)
class Grammar:
    """Rules by name; text matches where it matches `start` as a unit."""

    rules: Mapping[str, Node]
    start: str
