r"""The value of a short formula: numbers, `+ - * /`, powers, `\frac`, `\sqrt`, `\pi`, brackets; exact where it can be.

    sum = product (("+" | "-") product)*     product = power (("*" | "/" | nothing) power)*     power = atom ("^" atom)*

A formula has a bounded length, depth and size of numbers; what is beyond, or is something else, has no value. Tuples
and intervals are compared part by part. Nothing is evaluated by Python.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

MOST, MOST_DEPTH, MOST_BITS = 400, 16, 4096  # characters, brackets in one another, bits of a power
CLOSE = 1e-9  # relative, of values that are not exact
_TOKEN = re.compile(r"\d+(?:\.\d*)?|\.\d+|\\[A-Za-z]+|[-+*/^(){}]")
_DROPPED = re.compile(r"\\left|\\right|\\,|\\!|\\;|\\ |\s|\\?%|\\?\$|\^\{?\\circ\}?|(?<=\d),(?=\d{3}(?!\d))")
_TIMES = {"\\cdot": "*", "\\times": "*", "\\div": "/"}
_OPEN, _CLOSE = "([", ")]"
Value = Fraction | float


class _NoValue(Exception):
    pass


def same_value(one: str, two: str) -> bool:
    """Whether two formulas, tuples or intervals have the same value; False where one has none."""
    if max(len(one), len(two)) > MOST:
        return False
    left, right = _parts(one), _parts(two)
    if left is None or right is None:
        return left is right and _same(one, two)
    if left[0] != right[0] or len(left[1]) != len(right[1]):
        return False
    return all(a == b or _same(a, b) for a, b in zip(left[1], right[1], strict=True))


def _parts(text: str) -> tuple[str, list[str]] | None:
    """The brackets and the parts of a tuple or interval; None for anything else."""
    text = re.sub(r"\\left|\\right|\s", "", text)
    if len(text) < 2 or text[0] not in _OPEN or text[-1] not in _CLOSE or "," not in text:
        return None
    depth, parts = 0, [""]
    for letter in text[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            return None
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return (text[0] + text[-1], parts) if len(parts) > 1 else None


def _same(one: str, two: str) -> bool:
    a, b = value(one), value(two)
    if a is None or b is None:
        return False
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    return math.isclose(a, b, rel_tol=CLOSE)


def value(text: str) -> Value | None:
    """The value of a formula, None where it has none."""
    if len(text) > MOST:
        return None
    text = _DROPPED.sub("", text)
    tokens, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            return None
        name = found[0]
        tokens.append("\\frac" if name in ("\\dfrac", "\\tfrac") else _TIMES.get(name, name))
        at = found.end()
    reader = _Reader(tokens)
    try:
        found_value = reader.sum(0)
    except (_NoValue, ZeroDivisionError, OverflowError):
        return None
    return found_value if reader.at == len(tokens) and math.isfinite(found_value) else None


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1] if self.at <= len(self.tokens) else ""

    def sum(self, depth: int) -> Value:
        if depth > MOST_DEPTH:
            raise _NoValue
        sign = -1 if self.peek() == "-" else 1
        if self.peek() in ("-", "+"):
            self.at += 1
        total = sign * self.product(depth)
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            total = total + sign * self.product(depth)
        return total

    def product(self, depth: int) -> Value:
        total = self.power(depth)
        while True:
            mark = self.peek()
            if mark == "*":
                self.at += 1
                total = total * self.power(depth)
            elif mark == "/":
                self.at += 1
                total = total / self.power(depth)
            elif mark and mark not in "+-)}^" and not mark[0].isdigit() and mark[0] != ".":  # 2\pi, 2(3)
                before = self.tokens[self.at - 1]
                if mark == "\\frac" and before[0].isdigit():  # 1\frac12 may be a sum or a product
                    raise _NoValue
                total = total * self.power(depth)
            else:
                return total

    def power(self, depth: int) -> Value:
        base = self.atom(depth)
        if self.peek() != "^":
            return base
        self.at += 1
        exponent = self.argument(depth)
        if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
            size = base.numerator.bit_length() + base.denominator.bit_length()
            if abs(exponent) * size > MOST_BITS:
                raise _NoValue
            return Fraction(base**exponent.numerator)
        if base < 0:
            raise _NoValue
        return float(base) ** float(exponent)

    def argument(self, depth: int) -> Value:
        """What `^`, `\\frac` and `\\sqrt` apply to: a group, or one digit."""
        if self.peek() == "-":
            self.at += 1
            return -self.argument(depth + 1)
        found = self.peek()
        if found[:1].isdigit() and len(found) > 1:
            self.tokens[self.at : self.at + 1] = [found[0], found[1:]]
        return self.atom(depth)

    def atom(self, depth: int) -> Value:
        if depth > MOST_DEPTH:
            raise _NoValue
        mark = self.take()
        if mark in ("(", "{"):
            inside = self.sum(depth + 1)
            if self.take() != {"(": ")", "{": "}"}[mark]:
                raise _NoValue
            return inside
        if mark == "\\pi":
            return math.pi
        if mark == "\\frac":
            above = self.argument(depth + 1)
            return above / self.argument(depth + 1)
        if mark == "\\sqrt":
            return _root(self.argument(depth + 1))
        if mark[:1].isdigit() or (mark[:1] == "." and len(mark) > 1):
            return Fraction(mark.rstrip(".") if mark != "." else "0")
        raise _NoValue


def _root(inside: Value) -> Value:
    if inside < 0:
        raise _NoValue
    if isinstance(inside, Fraction):
        above, below = math.isqrt(inside.numerator), math.isqrt(inside.denominator)
        if above * above == inside.numerator and below * below == inside.denominator:
            return Fraction(above, below)
    return math.sqrt(inside)
