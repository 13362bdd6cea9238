"""What the guide knows of each entry of the catalogue, from the method's file and its evidence; nothing is imported."""

import ast
import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core import catalogue, registry
from llmanac.core.describe import choices, parsed
from llmanac.guide.exercise import Exercise, exercises
from llmanac.guide.question import RESULTS, InterviewQuestion, questions

PARTS = ("explanation", "source", "paper", "test", "evidence", "question")
ARXIV = re.compile(r"(?:arXiv:|https?://arxiv\.org/abs/)(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Page:
    """An entry and all that there is of it.

    Attributes:
        entry: of the catalogue; kind: the first part of its id.
        explanation: the docstring of its file; card: its CARD; fields: (name, type, default) of its Spec.
        source: the file's text, path its place below the package's folder.
        plain: text and place of the method's shortest form, where there is one beside a fast one.
        evidence: the folder below docs/evidence, empty where there is none.
        questions, exercises: those that name its row.
    """

    entry: catalogue.CatalogueEntry
    explanation: str
    card: dict[str, Any]
    fields: list[tuple[str, str, str]]
    source: str
    path: str
    plain: tuple[str, str] | None
    evidence: str
    questions: tuple[InterviewQuestion, ...]
    exercises: tuple[Exercise, ...]

    @property
    def kind(self) -> str:
        return self.entry.id.partition("/")[0]

    @property
    def papers(self) -> list[tuple[str, str]]:
        """(text, address) of each paper that the CARD or the row names; the address is empty where there is none."""
        found = []
        for text in str(self.card.get("paper") or self.entry.paper).split("; "):
            number = ARXIV.search(text)
            address = f"https://arxiv.org/abs/{number[1]}" if number else text if text.startswith("https://") else ""
            found += [(text, address)] if text else []
        return found

    @property
    def lacks(self) -> list[str]:
        """Which of `PARTS` it has not."""
        has = {
            "explanation": self.explanation,
            "source": self.source,
            "paper": self.papers or ARXIV.search(self.explanation) or re.search(r"\b(19|20)\d\d\b", self.explanation),
            "test": self.entry.reference,
            "evidence": self.evidence,
            "question": self.questions,
        }
        return [part for part in PARTS if not has[part]]


@functools.cache
def pages() -> dict[str, Page]:
    """A page for every row of the catalogue and every further method, by id."""
    named: dict[str, list[InterviewQuestion]] = {}
    practiced: dict[str, list[Exercise]] = {}
    for question in questions().values():
        for row in question.rows:
            named.setdefault(row, []).append(question)
    for exercise in exercises().values():
        for row in exercise.rows:
            practiced.setdefault(row, []).append(exercise)
    found = {}
    for entry in catalogue.entries():
        keys = {entry.id, entry.method}
        asked = [q for key in keys for q in named.get(key, [])]
        tried = [e for key in keys for e in practiced.get(key, [])]
        found[entry.id] = _page(entry, tuple(asked), tuple(tried))
    return found


def _page(entry: catalogue.CatalogueEntry, asked: tuple[InterviewQuestion, ...], tried: tuple[Exercise, ...]) -> Page:
    source = entry.source
    path = entry.file or (registry.PACKAGE.parent / source if source else None)
    if path is not None and path.is_dir():
        path = path / "__init__.py"
    if (part := _part(entry)) is not None:
        path = part
    text, explanation, card, fields = _read(path) if path is not None and path.is_file() else ("", "", {}, [])
    folder = Path(entry.claim).parent.name if entry.claim else ""
    return Page(
        entry,
        explanation=explanation,
        card=card,
        fields=fields,
        source=text,
        path=path.relative_to(registry.package_of(path)[1].parent).as_posix() if text and path is not None else "",
        plain=_plain().get(entry.id),
        evidence=folder if folder and (RESULTS / folder / "page.md").is_file() else "",
        questions=asked,
        exercises=tried,
    )


def _part(entry: catalogue.CatalogueEntry) -> Path | None:
    """The file of the mixer that makes a method what it is, where it is a Transformer with another one (`lm/gru`)."""
    kind, _, name = (entry.method or entry.id).partition("/")
    found = registry.methods("lm").get(name) if kind == "lm" else None
    mixers = [block.get("mixer") for block in found.defaults.get("blocks", ())] if found else []
    part = registry.methods("mixer").get(mixers[0]) if mixers and isinstance(mixers[0], str) else None
    return part.path if part else None


@functools.cache
def _plain() -> dict[str, tuple[str, str]]:
    """Text and place of the shortest form, by row: the files `plain*.py` name in `ROWS` whose pages show them."""
    found: dict[str, tuple[str, str]] = {}
    for path in registry.PACKAGE.glob("*/plain*.py"):
        rows = next(
            n.value for n in parsed(path).body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "ROWS"
        )
        shown = path.read_text("utf-8"), path.relative_to(registry.PACKAGE.parent).as_posix()
        found |= dict.fromkeys(ast.literal_eval(rows), shown)
    return found


@functools.cache
def _read(path: Path) -> tuple[str, str, dict[str, Any], list[tuple[str, str, str]]]:
    """A file's text, docstring, CARD and fields of its Spec; aliases of a file share them.

    A benchmark is a TOML file: its `about` explains it, and its fields are its card.
    """
    text = path.read_text("utf-8")
    if path.suffix == ".toml":
        card = tomllib.loads(text)
        return text, str(card.get("about", "")), card, []
    if path.suffix != ".py":
        return text, "", {}, []
    method = "\nCARD = {" in text
    found = choices(path) if method else []
    return text, ast.get_docstring(parsed(path)) or "", registry.read_card(path) if method else {}, found


def evidence() -> dict[str, str]:
    """The text of every evidence page by folder."""
    return {path.parent.name: path.read_text("utf-8") for path in sorted(RESULTS.glob("*/page.md"))}
