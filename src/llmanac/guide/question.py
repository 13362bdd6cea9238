"""Questions as they are asked in interviews: short and long answer, what follows, the usual wrong answer, a rubric.

A chapter is a TOML file in `questions/`. An answer's figures are never typed: `{name}` in a text is replaced by a value
that is computed (`values`, an expression over `math` and the other figures) or read from an evidence page's results
(`measured`, `FOLDER/results#path.to.value`, where `*` is the mean over a list), so that a text cannot disagree with
them. Many have a part that is checked by the machine (`check.py`).
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from llmanac.core import catalogue, files, registry
from llmanac.core.errors import SpecError, nearest, shown
from llmanac.guide.check import BUILTINS, Check

FOLDER = Path(__file__).parent / "questions"
RESULTS = registry.PACKAGE / "evidence_results"
Pattern = Literal["architecture", "training", "practical", "trade-off", "recent"]
PATTERNS = ("architecture", "training", "practical", "trade-off", "recent")
LEVELS = ("junior", "middle", "senior")
ROLES = ("research", "engineering", "applied")


@dataclass(frozen=True)
class InterviewQuestion:
    """One question.

    Attributes:
        name, chapter: what it is called, and the file that it is in; pattern: one of the five sorts.
        level: from whom it can be expected: one of `LEVELS`; roles: who is asked it: of `ROLES`.
        rows: of the catalogue that it is about.
        ask: the question; short: what to say in 30 seconds; long: in two minutes.
        follow_ups: what is asked next; wrong, why: the usual wrong answer and what is wrong with it.
        rubric: what a good answer has, a point each.
        values: expressions, measured: results, by the name that texts use; format: how a value is written (`.2f`).
        source: where it is from: a paper with its date, or a file of the package.
        check: the part that is checked by the machine, where there is one.
    """

    name: str
    chapter: str
    pattern: Pattern
    level: str
    roles: list[str]
    rows: list[str]
    ask: str
    short: str
    long: str
    follow_ups: list[str]
    wrong: str
    why: str
    rubric: list[str]
    source: str
    values: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, str] = field(default_factory=dict)
    format: Mapping[str, str] = field(default_factory=dict)
    check: Check | None = None

    @property
    def studies(self) -> list[str]:
        """The evidence that its figures are from, each once."""
        return list(dict.fromkeys(place.rpartition("/results#")[0] for place in self.measured.values()))

    def figures(self) -> dict[str, float]:
        """Every figure of its texts by name. Raises SpecError for one that cannot be computed or found."""
        found = {name: measured(place) for name, place in self.measured.items()}
        for name, expression in self.values.items():
            try:
                found[name] = eval(expression, {"__builtins__": BUILTINS, "math": math, **found})
            except Exception as error:
                raise SpecError(f"question {self.name}: values.{name}: {error}") from error
        return found

    def text(self, part: str) -> str:
        """`short`, `long` or another text with its figures put in."""
        figures = {name: format(value, self.format.get(name, ",.4g")) for name, value in self.figures().items()}
        text = str(getattr(self, part))
        for name, value in figures.items():
            text = text.replace(f"{{{name}}}", value)
        return text


def measured(place: str) -> float:
    """The number at `FOLDER/results#path.of.keys` of the evidence. Raises SpecError where there is none."""
    found = catalogue.evidence()["measured"].get(place)
    if found is None:
        raise SpecError(f"measured: {place}: no number is there; `python evidence/run.py --render` looks it up")
    return float(found)


@functools.cache
def questions() -> dict[str, InterviewQuestion]:
    """Every question by name. Raises SpecError for one that lacks a field."""
    found: dict[str, InterviewQuestion] = {}
    known = {f.name for f in fields(InterviewQuestion)} - {"chapter", "name"}
    for path in sorted(FOLDER.glob("*.toml")):
        for name, data in files.read_toml(path).items():
            if name in found:
                raise SpecError(f"{path}: {name} is the name of another question")
            if odd := data.keys() - known:
                raise SpecError(f"{path}: {name}.{min(odd)}: no such field{nearest(min(odd), known)}")
            if data.get("pattern") not in PATTERNS:
                raise SpecError(f"{path}: {name}.pattern: {shown(data.get('pattern'))} is not one of {PATTERNS}")
            if data.get("level") not in LEVELS:
                raise SpecError(f"{path}: {name}.level: {shown(data.get('level'))} is not one of {LEVELS}")
            if not data.get("roles") or set(data["roles"]) - set(ROLES):
                raise SpecError(f"{path}: {name}.roles: {shown(data.get('roles'))}: one or more of {ROLES}")
            try:
                if "check" in data:
                    data["check"] = Check(**data["check"])
                found[name] = InterviewQuestion(name=name, chapter=path.stem.replace("_", "-"), **data)
            except (TypeError, SpecError) as error:
                raise SpecError(f"{path}: {name}: {error}") from None
    return found


def find(name: str) -> InterviewQuestion:
    """The question of this name. Raises SpecError that names the nearest known one."""
    known = questions()
    if name not in known:
        raise SpecError(f"no question named {shown(name)}{nearest(name, known)}; `llmanac question list` has them")
    return known[name]
