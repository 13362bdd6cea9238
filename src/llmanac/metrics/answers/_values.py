r"""Whether two answers have the same value: formulas, lists, sets, tuples, intervals, matrices, relations.

Lists and sets have no order, `a \pm b` is two values, `x = a` is a, and `x > a` is the interval. Formulas are compared
at points (`_formulas.py`), an equation or inequality by the ratio of the differences of its sides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import cycle, islice

from llmanac.metrics.answers._formulas import MOST, MOST_DEPTH, POINTS, NoValue, Value, close, values
from llmanac.metrics.answers._latex import UNIT_WORDS

MOST_PARTS = 64
_SPACE = re.compile(r"\\(?:left|right|big|Big|displaystyle|quad|qquad)(?![A-Za-z])|\\[,;:! ]|[\s~$]|\\(?=\$)")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mbox|mathrm|operatorname)\{([^{}]*)\}(?:\^\{?\d\}?)?")
_MEANING = re.compile(r"(?i)\\(?:text|mbox|mathrm)\{\s*(thousand|[mb]illion|hundred|dozen|[ap]\.?m)\b")  # no units
_UNIT_TEXT = re.compile(
    r"(?<=[\d}\w)])\s*\\(?:text|textbf|textit|mbox|mathrm)\{[A-Za-z~ .'/-]*\}(?:\^\{?\d\}?)?"
    r"(?=\s*(?:[,;.)\]¦&]|\\\}|$))"
)
_UNIT = re.compile(rf"(?<![\\A-Za-z])(?:{'|'.join(UNIT_WORDS)})(?![A-Za-z])(?:\^\{{?\d\}}?)?")
_UNIT_POWER = re.compile(r"\\(?:text|mbox|mathrm)\{[^{}]*\}\^\{?(\d)")
_THOUSANDS = re.compile(r"(?<![\d.,(\[])\d{1,3}(?:,\d{3})+(?![\d,])")
_NAMES = re.compile(r"(?<![\\A-Za-z])(sqrt|sin|cos|tan|ln|log|pi|infty|binom)(?![A-Za-z])")
_RENAMED = (
    (r"\\[dtc]frac", r"\\frac"), (r"\*\*", "^"), (r"\\(?:cdot|times)(?![A-Za-z])|·|×", "*"),
    (r"\\div(?![A-Za-z])|÷", "/"),
    (r"\\leq?(?![A-Za-z])|<=", "≤"), (r"\\geq?(?![A-Za-z])|>=", "≥"), (r"\\lt(?![A-Za-z])", "<"),
    (r"\\gt(?![A-Za-z])", ">"), (r"\\infty(?![A-Za-z])", "∞"), (r"\\cup(?![A-Za-z])", "∪"), ("−", "-"), ("π", r"\\pi "),
    (r"\^\{?\\circ\}?|°", ""), (r"\\(?:emptyset|varnothing)(?![A-Za-z])", r"\\{\\}"), (r"\\[lrv]vert|\\mid", "|"),
    (r"\\l?dots", "…"), (r"^\s*\(?[a-zA-Z]\)?\s*\\in(?![A-Za-z])", ""), (r"\.$", ""),
)  # fmt: skip
_RENAMES = [(re.compile(pattern), to) for pattern, to in _RENAMED]
_MATRIX = re.compile(r"^[(\[]?\\begin\{[pbvBV]?matrix\}(.*)\\end\{[pbvBV]?matrix\}[)\]]?$")
_BASED = re.compile(r"^(-?\d+)_\{?(\d+)\}?$")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")
_NAME = re.compile(r"(?:\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([a-z,]+\))?|\([A-Za-z](?:,[A-Za-z])+\))$")
_SIDES = re.compile(r"[=<>≤≥]")
_TURNED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "=": "="}


class Worded(NoValue):
    """A formula with words that are no unit behind it."""


@dataclass(frozen=True)
class _Answer:
    """kind: "value", "infinity", "text", "based", "list", "set", "union", "relation", or a pair of brackets.

    parts: of all that has parts; values: of a formula; name: what stands before "="; sides: difference of the sides.
    """

    kind: str
    parts: tuple[_Answer, ...] = ()
    values: tuple[Value, ...] = ()
    text: str = ""
    name: str = ""
    sides: tuple[Value, ...] = ()
    percent: bool = False


def same_value(one: str, two: str) -> bool | None:
    """Whether two answers have the same value; None where one cannot be read."""
    units = [found[1] for text in (one, two) if len(text) <= MOST and (found := _UNIT_POWER.search(text))]
    if len({"".join(_MEANING.findall(text[:MOST])).casefold() for text in (one, two)}) > 1:
        return False
    try:
        return units in ([], units[:1], units[:1] * 2) and _same(_read(_clean(one), 0), _read(_clean(two), 0))
    except Worded:
        return None if _TEXT.findall(one) == _TEXT.findall(two) else False
    except (NoValue, ArithmeticError):
        return None


def value(text: str) -> Value | None:
    """The value of a formula without variables, None where it has none."""
    try:
        found = values(_clean(text))
    except NoValue:
        return None
    return found[0] if len(found) == 1 else None


def _clean(text: str) -> str:
    """An answer in few signs. Raises NoValue where it is too long."""
    if len(text) > MOST:
        raise NoValue
    text = re.sub(r",\\!\s*", ",", text.strip().replace("\\\\", "¦"))  # the end of a matrix's row
    text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    text = re.sub(r"\\(?:text|mbox)\{\s*(?:and|or)\s*\}|\b(?:and|or)\b", ",", text)
    bare = _TEXT.sub(lambda found: found[1] if re.fullmatch(r"\s*\(?[A-Za-z]\)?\s*", found[1]) else found[0], text)
    if not _SPACE.sub("", _TEXT.sub("", bare)):
        return "".join(found[1] for found in _TEXT.finditer(text)).strip(" .()").casefold()
    bare = _UNIT_TEXT.sub("", bare)
    if _TEXT.search(bare):  # a word that is no unit behind a formula may say anything: "at most 5", "not 5"
        raise Worded
    text = _UNIT.sub("", bare) if re.search(r"\d", bare) else bare
    for pattern, to in _RENAMES:
        text = pattern.sub(to, text)
    text = _SPACE.sub("", re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])", r"\1`", text))
    return _NAMES.sub(r"\\\1", text.casefold() if re.fullmatch(r"\(?[A-Za-z]\)?", text) else text)


def _split(text: str, mark: str) -> list[str]:
    """The parts between a mark outside of brackets."""
    depth, parts = 0, [""]
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter in mark and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _read(text: str, depth: int) -> _Answer:
    if depth > MOST_DEPTH or not text:
        raise NoValue
    if found := _MATRIX.match(text):
        rows = [[_read(cell, depth + 1) for cell in row.split("&")] for row in found[1].split("¦") if row]
        return _Answer("matrix", tuple(_Answer("row", tuple(row)) for row in rows))
    parts = _split(text, ",;")
    if len(parts) == 1 and text.startswith("\\{") and text.endswith("\\}"):
        return _Answer("set", _several(_split(text[2:-2], ",;"), depth) if text != "\\{\\}" else ())
    if len(parts) > 1 or ("\\pm" in text or "\\mp" in text):
        return _Answer("list", _several(parts, depth))
    if len(parts := _split(text, "∪")) > 1:
        return _Answer("union", tuple(_read(part, depth + 1) for part in parts))
    if text[0] in "([" and text[-1] in ")]" and len(parts := _split(text[1:-1], ",")) > 1:
        return _Answer(text[0] + text[-1], tuple(_read(part, depth + 1) for part in parts))
    if sides := _SIDES.findall(text):
        return _relation(_SIDES.split(text), sides, depth)
    if text.strip("+-") == "∞":
        return _Answer("infinity", text=text.strip("+"))
    if found := _BASED.match(text):
        return _Answer("based", text=f"{found[1]}_{found[2]}", values=values(found[1]))
    if _WORD.search(text):
        return _Answer("text", text=text.casefold())
    return _Answer("value", values=values(re.sub(r"\\?%", "", text)), percent="%" in text)


def _several(parts: Sequence[str], depth: int) -> tuple[_Answer, ...]:
    """The parts of a list; two of one with a plus or minus."""
    if len(parts) > MOST_PARTS:
        raise NoValue
    out = []
    for part in parts:
        both = {part.replace("\\pm", a).replace("\\mp", b) for a, b in (("+", "-"), ("-", "+"))}
        out += [_read(one, depth + 1) for one in sorted(both)]
    return tuple(out)


def _relation(sides: list[str], marks: list[str], depth: int) -> _Answer:
    """An equation, or an inequality of one or two signs."""
    if len(sides) == 3 and "=" not in marks and _NAME.match(sides[1]) and marks[0] in "<≤" and marks[1] in "<≤":
        brackets = ("(" if marks[0] == "<" else "[") + (")" if marks[1] == "<" else "]")
        return _Answer(brackets, (_read(sides[0], depth + 1), _read(sides[2], depth + 1)), name=sides[1])
    if len(sides) != 2:
        raise NoValue
    (left, right), [mark] = sides, marks
    if _NAME.match(right) and not _NAME.match(left):
        left, right, mark = right, left, _TURNED[mark]
    difference = _minus(left, right)
    if not _NAME.match(left):
        return _Answer("relation", text=mark, sides=difference)
    held = _read(right, depth + 1)
    if mark == "=":
        return replace(held, name=left, sides=difference)
    low, high = _Answer("infinity", text="-∞"), _Answer("infinity", text="∞")
    if mark in "<≤":
        return _Answer("(" + ")]"[mark == "≤"], (low, held), name=left, text=mark, sides=difference)
    return _Answer("(["[mark == "≥"] + ")", (held, high), name=left, text=mark, sides=difference)


def _minus(left: str, right: str) -> tuple[Value, ...]:
    """The difference of two sides at every point; nothing where they are no formulas."""
    try:
        return tuple(a - b for a, b in _paired(values(left), values(right)))
    except NoValue:
        return ()


def _paired(one: Sequence[Value], two: Sequence[Value]) -> list[tuple[Value, Value]]:
    return list(islice(zip(cycle(one), cycle(two), strict=False), POINTS))


def _same(one: _Answer, two: _Answer) -> bool:
    if one.kind in ("list", "set", "union") and len(one.parts) == 1:
        one = one.parts[0]
    if two.kind in ("list", "set", "union") and len(two.parts) == 1:
        two = two.parts[0]
    if "relation" in (one.kind, two.kind):
        return _same_relation(one, two)
    if one.name and two.name and one.name != two.name:
        return _same_relation(one, two)
    if {one.kind, two.kind} <= {"list", "set"} or one.kind == two.kind == "union":
        return _same_parts(one.parts, two.parts)
    if one.kind != two.kind and {one.kind, two.kind} != {"list", "()"} and {one.kind, two.kind} != {"based", "value"}:
        return False
    if one.kind in ("infinity", "text") or one.kind == two.kind == "based":
        return one.text == two.text
    if one.parts or two.parts:
        return len(one.parts) == len(two.parts) and all(map(_same, one.parts, two.parts))
    if all(close(a, b) for a, b in _paired(one.values, two.values)):
        return True
    if one.percent == two.percent:
        return False
    scale = (Fraction(1, 100), 1) if one.percent else (1, Fraction(1, 100))
    return all(close(a * scale[0], b * scale[1]) for a, b in _paired(one.values, two.values))


def _same_parts(one: Sequence[_Answer], two: Sequence[_Answer]) -> bool:
    """Whether two lists have the same parts, in any order."""
    left = list(two)
    for part in one:
        match = next((i for i, other in enumerate(left) if _same(part, other)), None)
        if match is None:
            return False
        del left[match]
    return not left


def _same_relation(one: _Answer, two: _Answer) -> bool:
    """Whether the differences of the sides are in one ratio, and for inequalities one that keeps their direction."""
    marks = [side.text if side.text in _TURNED else "=" for side in (one, two)]
    if not one.sides or not two.sides or ("=" in marks and marks[0] != marks[1]):
        return False
    pairs = _paired(one.sides, two.sides)
    turned = marks[0] != marks[1]
    if (turned and marks[0] != _TURNED[marks[1]]) or not all(a and b for a, b in pairs):
        return False
    ratios = [a / b for a, b in pairs]
    ratio = complex(ratios[0])
    right = marks[0] == "=" or (ratio.imag == 0 and (ratio.real < 0) == turned)
    return right and all(close(ratios[0], other) for other in ratios)
