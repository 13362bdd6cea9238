"""What a passage states, as facts that a question can ask for: an answer is always a line of it, or part of one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from llmanac.apps.docs_assistant.passages import Passage, title_of
from llmanac.apps.docs_assistant.tables import words
from llmanac.data.sources._docstrings import Entry

Kind = Literal["what", "arguments", "returns", "raises", "default", "parameter", "which"]
KINDS: tuple[Kind, ...] = ("what", "arguments", "returns", "raises", "default", "parameter", "which")
SHORTEST, LONGEST = 12, 220  # characters of an answer that is a line
# the most certain pattern first; a line that only mentions it ("as returned by tell()") is no answer
_RETURN = tuple(
    re.compile(pattern, re.I)
    for pattern in (r"^(?:returns?|yields?)\b", r"\breturns\b|\b(?:is|are) returned\b", r"\breturn\b(?! value)")
)
_RAISE = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        r"^raises?\b",
        r"\braises?\b.*(?:error|exception|warning|exit|stopiteration|interrupt)",
        r"(?:error|exception|warning|exit|stopiteration|interrupt)s?\b.*\b(?:is|are|be|gets?) raised\b",
    )
)
_RETURN_TRACE = re.compile(r"return|yield|result|gives?\b|produc|->|iterator over|object\b", re.I)
_RAISE_TRACE = re.compile(r"rais|error|exception|fail|invalid|throw|warn|abort|signal", re.I)
_ITEM = re.compile(r"^\*{0,2}\w+(?:, ?\w+)*:(?:\s|$)")
_NO_SUMMARY = re.compile(r"^(copyright|https?:|usage\b|note\b|example|see \b|\$|@|todo|deprecated\b)", re.I)


@dataclass(frozen=True)
class Fact:
    """One thing that can be asked.

    Attributes:
        entry: the entry's number in the index.
        passage: the number of the entry's passage that states the answer.
        subject: the parameter asked about, or the wish that the function fulfils, else nothing.
    """

    kind: Kind
    entry: int
    passage: int
    answer: str
    subject: str = ""


def facts_of(entry: Entry, number: int, passages: Sequence[Passage]) -> Iterator[Fact]:
    """Every fact of an entry, at most two of the kinds default and parameter."""
    summary = summary_of(passages)
    if summary:
        yield Fact("what", number, 0, summary)
    if entry.kind == "topic":
        return
    title = title_of(entry)
    if entry.signature and not title.endswith("..."):
        yield Fact("arguments", number, 0, title)
    for kind, patterns in (("returns", _RETURN), ("raises", _RAISE)):
        found = next((line for pattern in patterns if (line := _first_line(passages, pattern))), None)
        if found and entry.kind == "function":
            yield Fact(kind, number, found[0], found[1])  # type: ignore[arg-type]
    yield from islice(_defaults(entry, number, title), 2)
    yield from islice(_parameters(entry, number, passages), 2)
    wish = wish_of(summary or "") if entry.kind == "function" else ""
    if wish:
        yield Fact("which", number, 0, title, wish)


def summary_of(passages: Sequence[Passage]) -> str | None:
    """The first statement, where it says what the thing is or does."""
    line = passages[0].lines[0] if passages and passages[0].lines else ""
    usable = (
        SHORTEST <= len(line) <= LONGEST and line[0].isalpha() and not _NO_SUMMARY.match(line) and not _ITEM.match(line)
    )
    return line if usable and line.count(" ") >= 2 else None


def _first_line(passages: Sequence[Passage], pattern: re.Pattern[str]) -> tuple[int, str] | None:
    for number, passage in enumerate(passages):
        for line in passage.lines:
            if pattern.search(line) and not line.endswith(":") and not _names_only(line, pattern):
                return (number, line) if SHORTEST <= len(line) <= LONGEST else None
    return None


def _names_only(line: str, pattern: re.Pattern[str]) -> bool:
    """Whether the word is only a part of a quoted or dotted name (`return_code` is no statement about returning)."""
    return not pattern.search(re.sub(r"[`'\"][^`'\"]*[`'\"]|\w*[._]\w+", " ", line))


def parameters(signature: str) -> dict[str, str | None]:
    """`(a, b=1)` -> {"a": None, "b": "1"}; empty where the signature is not Python's."""
    head = signature.partition(" -> ")[0]
    try:
        args = ast.parse(f"def f{head}: pass").body[0].args  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, IndexError):
        return {}
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + args.defaults
    found = {a.arg: ast.unparse(d) if d else None for a, d in zip(plain, defaults, strict=True)}
    return found | {
        a.arg: ast.unparse(d) if d else None for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    }


def _defaults(entry: Entry, number: int, title: str) -> Iterator[Fact]:
    for name, value in parameters(entry.signature).items():
        if value is not None and len(value) <= 40 and f"{name}={value}" in title:
            yield Fact("default", number, 0, f"{name}={value}", name)


def _parameters(entry: Entry, number: int, passages: Sequence[Passage]) -> Iterator[Fact]:
    for name in parameters(entry.signature):
        found = _line_about(name, passages)
        if found and SHORTEST <= len(found[1]) <= LONGEST:
            yield Fact("parameter", number, found[0], found[1], name)


def _line_about(name: str, passages: Sequence[Passage]) -> tuple[int, str] | None:
    """The line that describes a parameter: an item of its own, else the only one that marks or clearly names it."""
    lines = [(number, line) for number, passage in enumerate(passages) for line in passage.lines]
    named = [
        (number, line) for number, line in lines if name in line and not line.endswith(":") and "(self" not in line
    ]
    if not named:
        return None
    word = re.escape(name)
    item = rf"^\*{{0,2}}(?:\w+, ?)*{word}(?:, ?\w+)*:\s"
    marked = rf"[`'\"*]{word}[`'\"*]|\b{word}\b(?= (?:is|argument|parameter|must|should|may|can|flag)\b)"
    clear = [rf"\b{word}\b"] if "_" in name.strip("_") else []
    for pattern in (item, marked, *clear):
        found = [line for line in named if re.search(pattern, line[1])]
        if found:
            return found[0] if len(found) == 1 or pattern == item else None
    return None


def wish_of(summary: str) -> str:
    """`Recursively copy a directory tree.` -> `recursively copy a directory tree`; nothing where it is no wish."""
    text = re.sub(r"\s*\([^)]*\)", "", summary).rstrip(". :")
    text = re.split(r"[;,:]\s", text)[0]
    first, _, rest = text.partition(" ")
    if not first.isalpha() or not first[0].isupper() or len(rest) < 12 or len(text) > 100 or "`" in text:
        return ""
    verb = first.lower()
    if verb.endswith("s") and not verb.endswith(("ss", "is", "us", "as", "always")):
        verb = verb[:-1]
    if verb in _NOT_VERBS or verb.endswith(("ing", "ed", "tion", "or", "er")):
        return ""
    return f"{verb} {rest}"


_NOT_VERBS = words("not_verbs")


def not_stated(entry: Entry, passages: Sequence[Passage], known: Sequence[Fact]) -> list[tuple[Kind, str]]:
    """`(kind, subject)` of questions about an entry that its documentation leaves open."""
    text = "\n".join([title_of(entry), entry.doc])
    kinds = {fact.kind for fact in known}
    open_: list[tuple[Kind, str]] = []
    if entry.kind != "function":
        return open_
    if "raises" not in kinds and not _RAISE_TRACE.search(text):
        open_.append(("raises", ""))
    if "returns" not in kinds and not _RETURN_TRACE.search(text):
        open_.append(("returns", ""))
    for name, value in parameters(entry.signature).items():
        if value is None and not re.search(r"default|\boptional\b", entry.doc):
            open_.append(("default", name))
        if len(name) >= 4 and not re.search(rf"(?i){re.escape(name.strip('_'))}", entry.doc):
            open_.append(("parameter", name))
    return open_
