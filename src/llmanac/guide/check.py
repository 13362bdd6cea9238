"""The part of a question that is checked by the machine: a number, a shape, a bug in real code, or the form of a curve.

What is right is never typed: a number is one of the question's figures, a shape is that of the code that is shown, a
bug is put into a function of this package and its line is known, and a curve's form follows from its values.
"""

import ast
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmanac.core import registry
from llmanac.core.errors import SpecError, shown

BUILTINS = {"min": min, "max": max, "sum": sum, "round": round, "abs": abs, "range": range, "len": len}
FORMS = ("constant", "rises", "falls", "rises then falls", "falls then rises")
KINDS = ("number", "shape", "bug", "curve")
_UNIT = re.compile(r"(?i)(?<![a-z])([kmgt]i?b|bytes?|(?:kilo|mega|giga|tera)bytes|b)\s*$")
SMALL = 0.005  # of a curve's span: a smaller step is no step


@dataclass(frozen=True, kw_only=True)
class Check:
    """A part with one right answer. Exactly one of number, shape, bug and curve is given.

    Attributes:
        ask: what to answer, with its unit.
        number: name of the question's figure; within: relative error that is still right.
        shape: code that makes `x`; its shape is what is asked for.
        bug: text of one line of a function in `file` (below the package), which `now` replaces; its line is asked for.
        curve: an expression for a list of values; their form is one of `FORMS`.

    Raises:
        SpecError: none or several of the four are given, or a field that belongs to another.
    """

    ask: str
    number: str = ""
    within: float = 0.02
    shape: str = ""
    bug: str = ""
    now: str = ""
    file: str = ""
    curve: str = ""

    def __post_init__(self) -> None:
        if sum(bool(getattr(self, kind)) for kind in KINDS) != 1:
            raise SpecError(f"check: one of {', '.join(KINDS)} is needed, and only one")
        if bool(self.bug) != bool(self.file) or bool(self.bug) != bool(self.now):
            raise SpecError("check: bug, now and file belong together")

    @property
    def kind(self) -> str:
        """Which of `KINDS` it is."""
        return next(kind for kind in KINDS if getattr(self, kind))

    @property
    def code(self) -> str:
        """The code to look at, with numbered lines for a bug; empty where there is none."""
        if self.kind == "bug":
            return "\n".join(f"{n:2} {line}" for n, line in enumerate(self._wrong().splitlines(), 1))
        return self.shape.strip()

    def _wrong(self) -> str:
        """The innermost function that holds the line, with the bug. Raises SpecError where it is not there once."""
        text = (registry.PACKAGE / self.file).read_text("utf-8")
        if text.count(self.bug) != 1 or "\n" in self.bug + self.now:
            raise SpecError(f"check: {shown(self.bug)} is not once, and in one line, in {self.file}")
        line = text[: text.index(self.bug)].count("\n") + 1
        holds = [
            node
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0)
        ]
        if not holds:
            raise SpecError(f"check: {shown(self.bug)} is in no function of {self.file}")
        node = max(holds, key=lambda node: node.lineno)
        lines = text.replace(self.bug, self.now).splitlines()[node.lineno - 1 : node.end_lineno]
        return "\n".join(line[node.col_offset :] for line in lines)

    def right(self, figures: Mapping[str, float]) -> float | int | list[int] | str:
        """The right answer: a number, a line, a shape or a form. Raises SpecError where it cannot be found."""
        if self.kind == "number":
            if self.number not in figures:
                raise SpecError(f"check.number: {shown(self.number)} is no figure of the question")
            return figures[self.number]
        if self.kind == "curve":
            space: dict[str, Any] = {"__builtins__": BUILTINS, "math": math, **figures}
            return form(eval(self.curve, space))
        if self.kind == "bug":
            wrong = self._wrong().splitlines()
            return next(n for n, line in enumerate(wrong, 1) if self.now in line)
        import torch

        space = {"torch": torch}
        exec(self.shape, space)
        return list(space["x"].shape)

    def grade(self, given: str, figures: Mapping[str, float]) -> tuple[bool, str]:
        """Whether an answer is right, and what is. Raises SpecError for a text that is no such answer."""
        right, text = self.right(figures), given.strip().lower()
        if self.kind == "curve":
            if text not in FORMS:
                raise SpecError(f"answer: {shown(given)} is not one of {', '.join(FORMS)}")
            return text == right, str(right)
        if self.kind == "shape":
            numbers = [int(n) for n in re.findall(r"\d+", text)[:20]]
            if not numbers:
                raise SpecError(f"answer: {shown(given)} is no shape, such as 2, 8, 128")
            return numbers == right, ", ".join(map(str, right if isinstance(right, list) else []))
        assert isinstance(right, (int, float))
        number = read_number(given, self.ask)
        if self.kind == "bug":
            return number == right, f"line {right}: {self.bug.strip()}"
        return math.isclose(number, right, rel_tol=self.within, abs_tol=1e-12), f"{right:,.4g}"


def read_number(text: str, ask: str = "") -> float:
    """A number such as 1,024, 3.5e-4, 2/3, 12% (0.12), 128 KiB or 0.5 GB.

    Args:
        ask: what is asked for; bytes are counted in the unit that it begins with ("GB of ..."), else one by one.

    Raises:
        SpecError: the text is anything else.
    """
    unit = _UNIT.search(text)
    plain = re.sub(r",(?=\d{3}(\D|$))|_", "", text[: unit.start()] if unit else text).strip()  # 0,72 is refused
    scale = 0.01 if plain.endswith("%") else 1.0
    if unit:
        asked = _UNIT.search(ask.partition(" ")[0])
        scale *= _bytes(unit[1]) / (_bytes(asked[1]) if asked else 1)
    try:
        top, _, bottom = plain.rstrip("% ").partition("/")
        found = scale * float(top) / (float(bottom) if bottom else 1.0)
    except (ValueError, ZeroDivisionError):
        found = math.nan
    if not math.isfinite(found):
        raise SpecError(f"answer: {shown(text)} is no number, such as 1,024, 3.5e-4, 12% or 128 KiB")
    return found


def _bytes(unit: str) -> int:
    """Bytes of a unit: KB are 1,000 and KiB 1,024."""
    size = "bkmgt".index(unit[0].lower())
    return int((1024 if "i" in unit[:2] else 1000) ** size)


def form(values: Sequence[float]) -> str:
    """Which of `FORMS` a list of values has. Raises SpecError for another one, such as a wave."""
    span = max(values) - min(values)
    if span <= SMALL * max(map(abs, values)):
        return "constant"
    steps = [b - a for a, b in itertools.pairwise(values) if abs(b - a) > SMALL * span]
    turns = [steps[0] > 0]
    for step in steps:
        if (step > 0) != turns[-1]:
            turns.append(step > 0)
    if len(turns) > 2:
        raise SpecError(f"check.curve: {shown(list(values))} is none of {', '.join(FORMS)}")
    names = ["rises" if up else "falls" for up in turns]
    return " then ".join(names)
