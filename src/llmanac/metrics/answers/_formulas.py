r"""The value of a formula: exact where it is rational, else complex; with variables at points that are drawn by name.

    sum      = product (("+" | "-") product)*
    product  = power (("*" | "/" | nothing) power)*
    power    = atom "!"? ("^" argument)?
    atom     = number | variable | \pi | e | i | "(" sum ")" | "|" sum "|" | (\frac | \binom) argument argument
             | \sqrt ("[" sum "]")? argument | function ("_" argument)? ("^" argument)? (atom | power power*)

Two polynomials that agree at a point drawn from 900,000 values are equal but for a chance of degree / 900,000
(Schwartz 1980, Zippel 1979); three points are drawn. A formula has a bounded length, depth and size of numbers; what is
beyond, or is something else, has no value. Nothing is evaluated by Python.
"""

import cmath
import functools
import math
import random
import re
from collections.abc import Callable
from fractions import Fraction

MOST, MOST_DEPTH, MOST_BITS = 400, 16, 1 << 16  # characters, brackets in one another, bits of a power
MOST_FACTORIAL, POINTS = 170, 3
CLOSE, TINY = 1e-11, 1e-12  # relative difference of values that are not exact; what an exact 0 may be for them
_TOKEN = re.compile(r"\d+(?:\.\d*)?|\.\d+|\\[A-Za-z]+|[A-Za-z]|[-+*/^_(){}\[\]!|]")
_LETTERS = """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi rho sigma tau phi
varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega ell"""
_GREEK = frozenset(_LETTERS.split())
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "sec": lambda z: 1 / cmath.cos(z),
    "csc": lambda z: 1 / cmath.sin(z), "cot": lambda z: 1 / cmath.tan(z), "arcsin": cmath.asin,
    "arccos": cmath.acos, "arctan": cmath.atan, "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh,
    "ln": cmath.log, "log": cmath.log10, "exp": cmath.exp,
}  # fmt: skip
Value = Fraction | complex


class NoValue(Exception):
    """A text is no formula, or one beyond the bounds."""


def values(text: str) -> tuple[Value, ...]:
    """The values of a formula: one, or where it has variables one at each point. Raises NoValue."""
    tokens = _TOKEN.findall(text)
    if len(text) > MOST or "".join(tokens) != text.replace("`", ""):  # "`" is between a command and a letter
        raise NoValue
    out: list[Value] = []
    for point in range(POINTS):
        reader = _Reader(tokens, point)
        try:
            out.append(reader.sum(0))
        except (ArithmeticError, ValueError):
            raise NoValue from None
        found = out[-1]
        if reader.at != len(reader.tokens) or not (isinstance(found, Fraction) or cmath.isfinite(found)):
            raise NoValue
        if not reader.free:
            break
    return tuple(out)


def close(one: Value, two: Value) -> bool:
    """Whether two values are the same: exact ones exactly."""
    if isinstance(one, Fraction) and isinstance(two, Fraction):
        return one == two
    a, b = complex(one), complex(two)
    exact = one if isinstance(one, Fraction) else two if isinstance(two, Fraction) else 1
    return abs(a - b) <= (TINY if exact == 0 else CLOSE * max(abs(a), abs(b)))


@functools.lru_cache(maxsize=1 << 12)
def _drawn(name: str, point: int) -> Fraction:
    """A variable's value: the same in every formula; negative at the last point."""
    drawn = random.Random(f"{name} {point}").randrange(100_000, 1_000_000)
    return Fraction(-drawn if point == POINTS - 1 else drawn, 100_003)


class _Reader:
    """Recursive descent over the tokens, at one point."""

    def __init__(self, tokens: list[str], point: int) -> None:
        self.tokens, self.point, self.at = list(tokens), point, 0
        self.free, self.inside_bars = False, False

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        found = self.peek()
        if not found or (wanted and found not in wanted):
            raise NoValue
        self.at += 1
        return found

    def sum(self, depth: int) -> Value:
        if depth > MOST_DEPTH:
            raise NoValue
        total: Value = Fraction(0)
        sign = self.take() if self.peek() in ("-", "+") else "+"
        while True:
            term = self.product(depth)
            total = total + term if sign == "+" else total - term
            if self.peek() not in ("+", "-"):
                return total
            sign = self.take()

    def product(self, depth: int) -> Value:
        total = self.power(depth)
        while True:
            mark = self.peek()
            if mark in ("*", "/"):
                self.at += 1
                sign = -1 if self.peek() == "-" else 1
                self.at += sign < 0
                factor = sign * self.power(depth)
                total = total * factor if mark == "*" else total / factor
            elif (
                mark[:1].isalpha()
                or mark[:1] in ("\\", "(", "{")
                or (mark == "|" and not self.inside_bars)
                or (mark[:1].isdigit() and self.tokens[self.at - 1] == ")")
            ):
                total = total * self.power(depth)  # 2\pi, 2(3)
            else:
                return total

    def power(self, depth: int) -> Value:
        base = self.atom(depth)
        if self.peek() == "!":
            self.at += 1
            base = _factorial(base)
        if self.peek() != "^":
            return base
        self.at += 1
        return _power(base, self.argument(depth, whole=True))

    def argument(self, depth: int, whole: bool = False) -> Value:
        r"""What `^`, `\frac` and `\sqrt` apply to: a group, or one digit; after `^` also a `whole` number."""
        if self.peek() == "-":
            self.at += 1
            return -self.argument(depth + 1, whole)
        found = self.peek()
        if found[:1].isdigit() and len(found) > 1 and not whole:
            self.tokens[self.at : self.at + 1] = [found[0], found[1:]]
        return self.atom(depth + 1)

    def atom(self, depth: int) -> Value:
        if depth > MOST_DEPTH:
            raise NoValue
        mark = self.take()
        name = mark.lstrip("\\")
        if mark in ("(", "{", "["):
            inside = self.sum(depth + 1)
            self.take({"(": ")", "{": "}", "[": "]"}[mark])
            return inside
        if mark == "|":
            self.inside_bars = True
            inside = self.sum(depth + 1)
            self.take("|")
            self.inside_bars = False
            return abs(inside) if isinstance(inside, Fraction) else complex(abs(inside))
        if mark[0].isdigit() or (mark[0] == "." and len(mark) > 1):
            return self.number(Fraction(mark.rstrip(".")), depth)
        if mark in ("\\pi", "e", "i"):
            return {"\\pi": math.pi, "e": math.e, "i": 1j}[mark]
        if mark == "\\frac":
            above = self.argument(depth + 1)
            return above / self.argument(depth + 1)
        if mark == "\\binom":
            return _binomial(self.argument(depth + 1), self.argument(depth + 1))
        if mark == "\\sqrt":
            order = self.atom(depth + 1) if self.peek() == "[" else Fraction(2)
            return _root(self.argument(depth + 1), order)
        if mark[0] == "\\" and name in _FUNCTIONS:
            return self.function(name, depth + 1)
        if mark.isalpha() or name in _GREEK:
            return self.variable(name)
        raise NoValue

    def number(self, whole: Fraction, depth: int) -> Value:
        r"""A number; of `1\frac{2}{3}` the sum of both."""
        before, rest = self.tokens[self.at - 2 : self.at - 1], "".join(self.tokens[self.at :])
        if re.match(r"\\frac(\{\d+\}|\d)(\{\d+\}|\d)", rest) and whole.denominator == 1 and before != ["^"]:
            part = self.atom(depth)
            if not isinstance(part, Fraction) or part >= 1:
                raise NoValue  # a sum or a product
            return whole + part
        return whole

    def variable(self, name: str) -> Value:
        if self.peek() == "_":
            self.at += 1
            start = self.at
            if self.take() == "{":
                while self.take() != "}":
                    pass
            name += "_" + "".join(self.tokens[start : self.at]).strip("{}")
        self.free = True
        return _drawn(name, self.point)

    def function(self, name: str, depth: int) -> Value:
        base, exponent = None, None
        if name == "log" and self.peek() == "_":
            self.at += 1
            base = self.argument(depth)
        if self.peek() == "^":
            self.at += 1
            exponent = self.argument(depth, whole=True)
        if self.peek() in ("(", "{"):
            inside = self.atom(depth)
        else:
            inside = self.power(depth)
            while self.peek().isalnum() or self.peek() in ("\\pi", "\\frac", "\\sqrt") or self.peek()[1:] in _GREEK:
                inside = inside * self.power(depth)
        if exponent == -1 and f"arc{name}" in _FUNCTIONS:
            name, exponent = f"arc{name}", None
        found: Value = _FUNCTIONS[name](complex(inside))
        if base is not None:
            found = cmath.log(complex(inside)) / cmath.log(complex(base))
        if name == "exp" and not found:
            raise NoValue
        return found if exponent is None else _power(found, exponent)


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if (
            exponent.denominator > 1
            and base >= 0
            and isinstance(root := _root(base, Fraction(exponent.denominator)), Fraction)
        ):
            base, exponent = root, Fraction(exponent.numerator)
        size = base.numerator.bit_length() + base.denominator.bit_length()
        if exponent.denominator == 1:
            if abs(exponent) * size > MOST_BITS:
                raise NoValue  # rounded it would hide what is added to it
            return Fraction(base**exponent.numerator)
    found: complex = complex(base) ** complex(exponent)
    if not found and base:
        raise NoValue  # too small
    return found


def _root(inside: Value, order: Value) -> Value:
    if not isinstance(order, Fraction) or order.denominator > 1 or not 0 < order <= 64:
        raise NoValue
    n = order.numerator
    if isinstance(inside, Fraction) and (inside >= 0 or n % 2):
        sign = -1 if inside < 0 else 1
        sides = [_whole_root(side, n) for side in (abs(inside.numerator), inside.denominator)]
        if None not in sides:
            return Fraction(sign * (sides[0] or 0), sides[1] or 1)
        return complex(sign * float(abs(inside)) ** (1 / n))
    return complex(inside) ** (1 / n)


def _whole_root(number: int, order: int) -> int | None:
    """The whole root of a whole number, where it has one."""
    near = math.isqrt(number) if order == 2 else round(float(number) ** (1 / order))
    return near if near**order == number else None


def _factorial(of: Value) -> Value:
    if isinstance(of, Fraction) and of.denominator == 1:
        if not 0 <= of <= MOST_FACTORIAL:
            raise NoValue
        return Fraction(math.factorial(of.numerator))
    if not isinstance(of, Fraction):
        raise NoValue
    return complex(math.gamma(float(of) + 1))


def _binomial(above: Value, below: Value) -> Value:
    if isinstance(above, Fraction) and isinstance(below, Fraction) and above.denominator == below.denominator == 1:
        if not 0 <= below <= above <= 1000:
            raise NoValue
        return Fraction(math.comb(above.numerator, below.numerator))
    return _factorial(above) / (_factorial(below) * _factorial(above - below))
