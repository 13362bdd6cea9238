"""Sets of numbers as automata over decimal text: bounds, multiples and lists, with and, or and not, all exact.

A plain number is `-?(0|[1-9][0-9]*)(\\.[0-9]+)?`; zero has no sign. Every set holds all plain texts of a value or none
(2, 2.0 and 2.00 are one value), so `not` is exact. `style` then narrows how the values are written. Texts with an
exponent are not followed by the automata: they belong to a set only where it holds every number (`exponent`).

Readers round fractions to float64, and 2.99999999999999999 would become 3 in spite of `exclusiveMaximum: 3`. So next to
a limit that is excluded or is no float64 itself, texts between two float64 numbers belong to no set; multiples, and
numbers that are not multiples or not listed, have at most 15 digits where they have a fraction, which float64 holds
apart.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from llmanac.core.errors import SpecError
from llmanac.generate.constrain import _patience
from llmanac.generate.constrain._json_minimal import Automaton, smallest

MAX_STATES = 5000  # of one automaton
MAX_EXPRESSION = 64  # machines and connectives; what is longer is made one machine
ALPHABET = "-.0123456789"
State = Hashable


def decimal(value: object) -> Decimal:
    """The exact value of a number of a schema. Raises ValueError: not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("not a number")
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite() or abs(number.adjusted()) > 400:
        raise ValueError("not a finite number of at most 400 digits")
    return number


def _digits(value: Decimal) -> tuple[str, str]:
    """Integer and fraction digits of the magnitude, without needless zeros; the integer part of 0.5 is "0"."""
    whole, _, fraction = format(value.copy_abs(), "f").partition(".")
    return whole.lstrip("0") or "0", fraction.rstrip("0")


class Below:
    """Numbers less than a bound, or equal to it where inclusive."""

    def __init__(self, bound: Decimal, inclusive: bool):
        self.key = ("below", bound, inclusive)
        self.bound, self.negative, self.inclusive = bound, bound < 0, inclusive
        self.whole, self.fraction = _digits(bound)

    start: State = "sign"

    def _result(self, order: int) -> bool:  # order of the magnitudes of number and bound
        return (order > 0 if self.negative else order < 0) or (order == 0 and self.inclusive)

    def step(self, state: State, symbol: str) -> State:
        if isinstance(state, bool):
            return state
        if state == "sign":
            if symbol == "-":
                return (0, 0) if self.negative else True
            if self.negative:
                return False
            state = (0, 0)
        assert isinstance(state, tuple)
        if state[0] == "fraction":
            place = state[1]
            bound = self.fraction[place] if place < len(self.fraction) else "0"
            if symbol == bound:
                return ("fraction", min(place + 1, len(self.fraction)))
            return self._result(1 if symbol > bound else -1)
        read, order = state
        if symbol == ".":
            if read < len(self.whole) or order:
                return self._result(-1 if read < len(self.whole) else order)
            return ("fraction", 0)
        if read == len(self.whole):
            return self._result(1)
        bound = self.whole[read]
        return (read + 1, order or (symbol > bound) - (symbol < bound))

    def accepts(self, state: State) -> bool:
        if isinstance(state, bool):
            return state
        assert isinstance(state, tuple)
        if state[0] == "fraction":
            return self._result(-1 if state[1] < len(self.fraction) else 0)
        read, order = state
        if read < len(self.whole):
            return self._result(-1)
        return self._result(order or (-1 if self.fraction else 0))


class Multiple:
    """Multiples of a positive number p / 10^k: the digits down to place k are divisible by p, later ones are zero."""

    def __init__(self, of: Decimal):
        self.key = ("multiple", of)
        whole, fraction = _digits(of)
        self.places, self.divisor = len(fraction), int(whole + fraction)

    start: State = (-1, 0)

    def step(self, state: State, symbol: str) -> State:
        if state is None or symbol == "-":
            return state
        assert isinstance(state, tuple)
        place, rest = state
        if symbol == ".":
            return (0, rest)
        if place == self.places:
            return state if symbol == "0" else None
        return (place + 1 if place >= 0 else -1, (rest * 10 + int(symbol)) % self.divisor)

    def accepts(self, state: State) -> bool:
        if state is None:
            return False
        assert isinstance(state, tuple)
        place, rest = state
        return bool(rest * 10 ** (self.places - max(place, 0)) % self.divisor == 0)


class Listed:
    """The numbers of a list."""

    def __init__(self, values: frozenset[Decimal]):
        digits = {v: _digits(v) for v in values}
        texts = {"-" * (v < 0) + whole + "." * bool(rest) + rest for v, (whole, rest) in digits.items()}
        self.key = ("listed", frozenset(texts))
        self.texts, self.prefixes = texts, {t[:n] for t in texts for n in range(len(t) + 1)}

    start: State = ""

    def step(self, state: State, symbol: str) -> State:
        if state is None:
            return None
        text = str(state) + symbol
        if text in self.prefixes:
            return text
        short = text.rstrip("0").rstrip(".") if "." in text else text
        return text[: len(short) + 2] if short in self.texts and "." in text else None

    def accepts(self, state: State) -> bool:
        if state is None:
            return False
        text = str(state)
        return (text.rstrip("0").rstrip(".") if "." in text else text) in self.texts


class _Digits:
    """No point, or at most 15 significant digits."""

    key = ("digits",)
    start: State = 0

    def step(self, state: State, symbol: str) -> State:
        if state is None or symbol == "-":
            return state
        assert isinstance(state, tuple | int)
        count, fraction = state if isinstance(state, tuple) else (state, False)
        fraction |= symbol == "."
        count = min(count + (symbol != "." and (count > 0 or symbol != "0")), 16)
        return None if fraction and count > 15 else (count, True) if fraction else count

    def accepts(self, state: State) -> bool:
        return state is not None


class _Written:
    """Well-formed text; zero has no sign."""

    key = ("written",)
    start: State = "start"

    def step(self, state: State, symbol: str) -> State:
        digit = symbol not in "-."
        if state == "start":
            return "minus" if symbol == "-" else "zero" if symbol == "0" else "whole" if digit else None
        if state == "minus":
            return None if not digit else "minus zero" if symbol == "0" else "whole"
        if state in ("zero", "minus zero"):
            return ("point" if state == "zero" else "minus point") if symbol == "." else None
        if state == "whole":
            return "whole" if digit else "point" if symbol == "." else None
        if state in ("point", "fraction"):
            return "fraction" if digit else None
        return None if not digit else "minus point" if symbol == "0" else "fraction"

    def accepts(self, state: State) -> bool:
        return state in ("zero", "whole", "fraction")


class _Style:
    """How a value is written: "whole", without a point; "short", without zeros at the end of a fraction."""

    def __init__(self, name: str):
        self.key, self.name = ("style", name), name

    start: State = "whole"

    def step(self, state: State, symbol: str) -> State:
        if symbol == ".":
            return None if self.name == "whole" else "zeros"
        return state if state in (None, "whole") else "zeros" if symbol == "0" else "digit"

    def accepts(self, state: State) -> bool:
        return state in ("whole", "digit")


class _DigitTable:
    """A set of which the automaton was made before, and what is left out of it and of its complement."""

    def __init__(self, values: Expression):
        self.key = ("table", id(self))
        self.edges, self.accepting = _automaton(("and", _Written(), values), 1)
        self.limits = {inside: _limits(values, inside) for inside in (False, True)}

    start: State = 0

    def step(self, state: State, symbol: str) -> State:
        return None if state is None else self.edges[state].get(symbol)  # type: ignore[call-overload]

    def accepts(self, state: State) -> bool:
        return state in self.accepting


Machine = Below | Multiple | Listed | _Digits | _Written | _Style | _DigitTable
Expression = Machine | tuple[object, ...]  # a machine, or ("and" | "or" | "not", expressions...)


def _size(item: Expression) -> int:
    return 1 + sum(map(_size, item[1:])) if isinstance(item, tuple) else 1  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Numbers:
    """A set of numbers: an expression over machines, its style, and whether texts with an exponent belong to it."""

    values: Expression
    style: frozenset[str] = frozenset()
    exponent: str = "some"  # "all", "none", or "some" where the automata do not know

    def _with(self, other: Numbers, connective: str, style: frozenset[str]) -> Numbers:
        strong, weak = ("none", "all") if connective == "and" else ("all", "none")
        pair = (self.exponent, other.exponent)
        exponent = strong if strong in pair else weak if pair == (weak, weak) else "some"
        values: Expression = (connective, self.values, other.values)
        if _size(values) > MAX_EXPRESSION:
            values = _DigitTable(values)
        return Numbers(values, style, exponent)

    def __and__(self, other: Numbers) -> Numbers:
        for one, two in ((self, other), (other, self)):
            if one is EVERY or two is NONE:
                return two
        return self._with(other, "and", self.style | other.style)

    def __or__(self, other: Numbers) -> Numbers:
        for one, two in ((self, other), (other, self)):
            if one is NONE or two is EVERY:
                return two
        return self._with(other, "or", self.style & other.style)

    def __invert__(self) -> Numbers:
        if self is EVERY or self is NONE:
            return NONE if self is EVERY else EVERY
        opposite = {"all": "none", "none": "all"}.get(self.exponent, "some")
        return Numbers(("not", self.values), frozenset(), opposite)

    def empty(self) -> bool:
        """Whether no number belongs to it."""
        return self.exponent != "all" and not automaton(self)[1]


APART = _Digits()
EVERY = Numbers(("and",), exponent="all")
NONE = Numbers(("or",), exponent="none")
INTEGERS = Numbers(("and", Multiple(Decimal(1)), APART), frozenset({"whole"}))


def at_most(bound: Decimal, *, inclusive: bool) -> Numbers:
    """Numbers up to a bound."""
    return Numbers(Below(bound, inclusive))


def multiples(of: Decimal) -> Numbers:
    """Multiples of a positive number."""
    return Numbers(("and", Multiple(of), APART))


def listed(values: Iterable[Decimal]) -> Numbers:
    """These numbers, each written in one way."""
    values = frozenset(values)
    whole = all(v == v.to_integral_value() for v in values)
    return Numbers(Listed(values), frozenset({"whole", "short"} if whole else {"short"}))


def _limits(item: Expression, inside: bool) -> dict[object, Expression]:
    """What keeps a set, or its complement, the same when its numbers are rounded to float64."""
    if isinstance(item, tuple):
        found: dict[object, Expression] = {}
        for part in item[1:]:
            found |= _limits(part, inside != (item[0] == "not"))  # type: ignore[arg-type]
        return found
    if isinstance(item, _DigitTable):
        return item.limits[inside]
    if isinstance(item, Multiple | Listed) and not inside:
        return {"digits": APART}
    if not isinstance(item, Below) or not item.bound or item.bound.adjusted() >= 300:
        return {}
    limit = float(item.bound)
    moved = item.bound == item.bound.to_integral_value() and Decimal(limit).compare(item.bound)  # no float64 is it
    beyond = moved == (1 if inside else -1)
    if item.inclusive != inside or beyond:
        near = Decimal(repr(math.nextafter(limit, -math.inf if inside else math.inf)))
        low, high = sorted((near, item.bound))
        between = ("and", ("not", Below(low, not beyond or inside)), Below(high, beyond and inside))
        return {(inside, item.bound): ("or", _Style("whole"), ("not", between))}
    return {}


@lru_cache(maxsize=1024)
def automaton(numbers: Numbers) -> Automaton:
    """The smallest automaton without dead states. Raises SpecError: more than MAX_STATES."""
    whole = "whole" in numbers.style
    limits = () if whole else _limits(numbers.values, True).values()
    styles = map(_Style, sorted(numbers.style))
    return _automaton(("and", _Written(), *styles, *limits, numbers.values), 1 + len(numbers.style), whole)


def _automaton(everything: Expression, forms: int, whole: bool = False) -> Automaton:
    """Of an expression; its first parts are about the form of the text, and a dead one ends the search."""
    machines: dict[object, Machine] = {}

    def collect(item: Expression) -> None:
        if isinstance(item, tuple):
            for part in item[1:]:
                collect(part)  # type: ignore[arg-type]
        elif item is not APART or not whole:  # without a point there is nothing to count
            machines.setdefault(item.key, item)

    collect(everything)
    order = list(machines.values())
    place = {m.key: n for n, m in enumerate(order)}

    def accepts(item: Expression, state: tuple[State, ...]) -> bool:
        if not isinstance(item, tuple):
            return item.key not in place or item.accepts(state[place[item.key]])
        parts = (accepts(part, state) for part in item[1:])  # type: ignore[arg-type]
        if item[0] == "not":
            return not next(parts)
        return all(parts) if item[0] == "and" else any(parts)

    start = tuple(m.start for m in order)
    index, edges = {start: 0}, [dict[str, int]()]
    queue = [start]
    for state in queue:
        _patience.check()
        for symbol in ALPHABET:
            head = tuple(m.step(s, symbol) for m, s in zip(order[:forms], state[:forms], strict=True))
            if None in head:
                continue
            target = head + tuple(m.step(s, symbol) for m, s in zip(order[forms:], state[forms:], strict=True))
            if target not in index:
                if len(index) == MAX_STATES:
                    raise SpecError(f"schema: its numbers need an automaton of more than {MAX_STATES} states")
                index[target] = len(edges)
                edges.append({})
                queue.append(target)
            edges[index[state]][symbol] = index[target]
    accepting = {n for state, n in index.items() if order[0].accepts(state[0]) and accepts(everything, state)}
    return smallest(edges, accepting, ALPHABET)
