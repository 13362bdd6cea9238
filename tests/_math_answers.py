"""Pairs of mathematical answers: equal ones in other forms, and near misses in which one thing was changed."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from math import comb

VARIABLES = "xyznkt"


def _signed(number: int) -> str:
    return f"+{number}" if number >= 0 else str(number)


def _polynomial(coefficients: list[int], x: str) -> list[str]:
    """The terms of a polynomial, each with its sign."""
    out = []
    for power, c in enumerate(coefficients):
        if c:
            name = "" if power == 0 else x if power == 1 else f"{x}^{{{power}}}" if power > 9 else f"{x}^{power}"
            out.append(_signed(c) if not name else f"{'+' if c > 0 else '-'}{abs(c) if abs(c) > 1 else ''}{name}")
    return out or ["+0"]


def _joined(terms: list[str]) -> str:
    return "".join(terms).removeprefix("+")


def _times(one: list[int], two: list[int]) -> list[int]:
    out = [0] * (len(one) + len(two) - 1)
    for i, a in enumerate(one):
        for j, b in enumerate(two):
            out[i + j] += a * b
    return out


def _some(rng: random.Random, least: int = 1, most: int = 12) -> int:
    return rng.randint(least, most) * rng.choice((1, -1))


def pair(kind: str, rng: random.Random) -> tuple[str, str]:
    """Two forms of one answer."""
    a, b, c = (rng.randint(2, 12) for _ in range(3))
    x = rng.choice(VARIABLES)
    if kind == "fraction":
        return rng.choice(
            [f"\\frac{{{a}}}{{{b}}}", f"\\dfrac{{{a}}}{{{b}}}", f"{a}/{b}"]
        ), f"\\frac{{{a * c}}}{{{b * c}}}"
    if kind == "mixed":
        b += a
        return f"{c}\\frac{{{a}}}{{{b}}}", f"\\frac{{{c * b + a}}}{{{b}}}"
    if kind == "decimal":
        return f"{a}.{b}", f"\\frac{{{int(f'{a}{b}')}}}{{{10 ** len(str(b))}}}"
    if kind == "order":
        terms = _polynomial([_some(rng), _some(rng), _some(rng)], x)
        return _joined(terms), _joined(terms[::-1])
    if kind == "expanded":
        one, two = [_some(rng), _some(rng)], [_some(rng), _some(rng)]
        product = f"({_joined(_polynomial(one, x))})({_joined(_polynomial(two, x)[::-1])})"
        return product, _joined(_polynomial(_times(one, two), x)[::-1])
    if kind == "square":
        return f"({x}{_signed(a)})^2", _joined(_polynomial([a * a, 2 * a, 1], x)[::-1])
    if kind == "complex":
        i = f"{_signed(_some(rng, 2))}i"
        d = _some(rng)
        return f"{d}{i}", f"{i.removeprefix('+')}{_signed(d)}"
    if kind == "root":
        return f"\\sqrt{{{a * a * b}}}", f"{a}\\sqrt{{{b}}}"
    if kind == "cube root":
        return f"\\sqrt[3]{{{a**3}}}", str(a)
    if kind == "rationalised":
        return f"\\frac{{{a}}}{{\\sqrt{{{b}}}}}", f"\\frac{{{a}\\sqrt{{{b}}}}}{{{b}}}"
    if kind == "power":
        return f"{a}^{{{b}}}", f"{a**b}"
    if kind == "factorial":
        n = rng.randint(3, 7)
        return f"{n}!", f"{n} \\cdot {n - 1}!"
    if kind == "binomial":
        return f"\\binom{{{a + c}}}{{{a}}}", str(comb(a + c, a))
    if kind == "logarithm":
        return f"\\log_{{{a}}} {{{a**c}}}" if a**c < 10**9 else f"\\log_{{{a}}} {{{a}}}", str(c if a**c < 10**9 else 1)
    if kind == "list":
        items = rng.sample(range(-20, 20), rng.randint(2, 5))
        return ",".join(map(str, items)), ", ".join(map(str, rng.sample(items, len(items))))
    if kind == "set":
        items = [f"\\frac{{{n}}}{{{b}}}" for n in rng.sample(range(1, 40), 3)]
        return f"\\{{{','.join(items)}\\}}", f"\\left\\{{ {', '.join(items[::-1])} \\right\\}}"
    if kind == "tuple":
        return f"({a},-{b},{c})", f"\\left( {a}, -{b}, \\frac{{{2 * c}}}{{2}} \\right)"
    if kind == "interval":
        low, high = -a, b
        sign, bracket = rng.choice([("<", "("), ("\\le", "[")])
        return f"{low} {sign} {x} < {high}", f"{bracket}{low},{high})"
    if kind == "half line":
        sign, text = rng.choice(
            [
                ("<", f"(-\\infty,{a})"),
                (">", f"({a},\\infty)"),
                ("\\ge", f"[{a},\\infty)"),
                ("\\leq", f"(-\\infty,{a}]"),
            ]
        )
        return f"{x} {sign} {a}", text
    if kind == "union":
        return f"(-\\infty,{-a})\\cup({b},\\infty)", f"({b},\\infty) \\cup (-\\infty, {-a})"
    if kind == "letter":
        letter = rng.choice("ABCDE")
        return f"\\text{{({letter})}}", rng.choice([letter, f"({letter})", f"\\text{{{letter}}}"])
    if kind == "plus or minus":
        return f"{a} \\pm \\sqrt{{{b}}}", f"{a}-\\sqrt{{{b}}}, {a}+\\sqrt{{{b}}}"
    if kind == "named":
        return f"{x}={a}", str(a)
    if kind == "line":
        return f"y={a}x{_signed(-b)}", f"{a}x-y={b}"
    if kind == "unit":
        return f"{a}{b} \\text{{ cm}}", f"{a}{b}"
    if kind == "thousands":
        return f"{a},{100 + b * 7}", f"{a}{100 + b * 7}"
    if kind == "matrix":
        return (
            f"\\begin{{pmatrix}} {a} & {b} \\\\ -{c} & {a} \\end{{pmatrix}}",
            f"\\begin{{pmatrix}}{a}&{b}\\\\-{c}&\\frac{{{2 * a}}}{{2}}\\end{{pmatrix}}",
        )
    if kind == "pi":
        return f"\\frac{{{a}\\pi}}{{{b}}}", f"\\frac{{{a}}}{{{b}}}\\pi"
    if kind == "rational function":
        return f"\\frac{{{a}}}{{{x}+{b}}}", f"\\frac{{{a * c}}}{{{c}{x}+{b * c}}}"
    if kind == "two variables":
        return f"{a}x{_signed(-b)}y+{c}", f"{c}-{b}y+{a}x"
    if kind == "trigonometric":
        return f"\\sin {x}", f"\\sin({x})"
    raise ValueError(kind)


KINDS = (
    "fraction", "mixed", "decimal", "order", "expanded", "square", "complex", "root", "cube root", "rationalised",
    "power", "factorial", "binomial", "logarithm", "list", "set", "tuple", "interval", "half line", "union", "letter",
    "plus or minus", "named", "line", "unit", "thousands", "matrix", "pi", "rational function", "two variables",
    "trigonometric",
)  # fmt: skip


def pairs(count: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """(kind, one form, another form), the kinds in turn."""
    rng = random.Random(seed)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        yield kind, *pair(kind, rng)


_OPERATORS = {"+": ("-",), "-": ("+",), "\\cdot": ("+", "-"), "<": (">", "\\ge"), ">": ("<", "\\le")}


def near_miss(text: str, rng: random.Random) -> str | None:
    """A text with one number, sign or operator changed; None where there is none."""
    spots = [(m.start(), m.end()) for m in re.finditer(r"\d+", text)]
    signs = [(m.start(), m.end()) for m in re.finditer(r"[-+<>]|\\cdot|\\leq?(?![a-z])|\\geq?(?![a-z])", text)]
    if not spots and not signs:
        return None
    start, end = rng.choice(spots + signs)
    old = text[start:end]
    if old.isdigit():
        new = str(max(0, int(old) + rng.choice((1, -1, 2, 10))))
        new = str(int(old) + 1) if new == old else new
    else:
        new = rng.choice(_OPERATORS.get(old, ("<",) if old.startswith("\\g") else (">",)))
    return f"{text[:start]}{new}{text[end:]}"
