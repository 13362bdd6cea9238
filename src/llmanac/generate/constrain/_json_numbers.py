"""Sets of numbers as automata over decimal text: bounds, multiples and lists of values, with and, or and not, all exact.

A plain number is `-?(0|[1-9][0-9]*)(\\.[0-9]+)?`; zero has no sign. Every set holds all plain texts of a value or none
(2, 2.0 and 2.00 are one value), so `not` is exact. `style` then narrows how the values are written. Texts with an
exponent are not followed by the automata: they belong to a set only where it holds every number (`exponent`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from itertools import product

from llmanac.core.errors import SpecError
from llmanac.generate.constrain.expressions import Chars, Concat, Node, Ref, Regex, Repeat, Sequence, Terminal, Union
from llmanac.generate.constrain.expressions import Choice as Alternatives

MAX_STATES = 5000
MAX_REGEX = 3000
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
    whole, _, fraction = format(abs(value), "f").partition(".")
    return whole.lstrip("0") or "0", fraction.rstrip("0")


class Below:
    """Numbers less than a bound, or equal to it where inclusive."""

    def __init__(self, bound: Decimal, inclusive: bool):
        self.key = ("below", bound, inclusive)
        self.negative, self.inclusive = bound < 0, inclusive
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
        texts = {self._text(v) for v in values}
        self.key = ("listed", frozenset(texts))
        self.texts, self.prefixes = texts, {t[:n] for t in texts for n in range(len(t) + 1)}

    @staticmethod
    def _text(value: Decimal) -> str:
        whole, fraction = _digits(value)
        return ("-" if value < 0 else "") + whole + ("." + fraction if fraction else "")

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


Machine = Below | Multiple | Listed | _Written | _Style
Expression = Machine | tuple[object, ...]  # a machine, or ("and" | "or" | "not", expressions...)


@dataclass(frozen=True, eq=False)
class Numbers:
    """A set of numbers: an expression over machines, its style, and whether texts with an exponent belong to it."""

    values: Expression
    style: frozenset[str] = frozenset()
    exponent: str = "some"  # "all", "none", or "some" where the automata do not know

    def __and__(self, other: Numbers) -> Numbers:
        for one, two in ((self, other), (other, self)):
            if one is EVERY or two is NONE:
                return two
        pair = (self.exponent, other.exponent)
        exponent = "none" if "none" in pair else "all" if pair == ("all", "all") else "some"
        return Numbers(("and", self.values, other.values), self.style | other.style, exponent)

    def __or__(self, other: Numbers) -> Numbers:
        for one, two in ((self, other), (other, self)):
            if one is NONE or two is EVERY:
                return two
        pair = (self.exponent, other.exponent)
        exponent = "all" if "all" in pair else "none" if pair == ("none", "none") else "some"
        return Numbers(("or", self.values, other.values), self.style & other.style, exponent)

    def __invert__(self) -> Numbers:
        if self is EVERY or self is NONE:
            return NONE if self is EVERY else EVERY
        opposite = {"all": "none", "none": "all"}.get(self.exponent, "some")
        return Numbers(("not", self.values), frozenset(), opposite)

    def empty(self) -> bool:
        """Whether no number belongs to it."""
        return self.exponent != "all" and not automaton(self)[1]


EVERY = Numbers(("and",), exponent="all")
NONE = Numbers(("or",), exponent="none")
INTEGERS = Numbers(Multiple(Decimal(1)), frozenset({"whole"}))


def at_most(bound: Decimal, *, inclusive: bool) -> Numbers:
    """Numbers up to a bound."""
    return Numbers(Below(bound, inclusive))


def multiples(of: Decimal) -> Numbers:
    """Multiples of a positive number."""
    return Numbers(Multiple(of))


def listed(values: Iterable[Decimal]) -> Numbers:
    """These numbers, each written in one way."""
    values = frozenset(values)
    whole = all(v == v.to_integral_value() for v in values)
    return Numbers(Listed(values), frozenset({"whole", "short"} if whole else {"short"}))


Automaton = tuple[list[dict[str, int]], frozenset[int]]  # edges of each state (0 is the start), accepting states


@cache
def automaton(numbers: Numbers) -> Automaton:
    """The smallest automaton without dead states. Raises SpecError: more than MAX_STATES."""
    machines: dict[object, Machine] = {}

    def collect(item: Expression) -> None:
        if isinstance(item, tuple):
            for part in item[1:]:
                collect(part)  # type: ignore[arg-type]
        else:
            machines.setdefault(item.key, item)

    everything: Expression = ("and", _Written(), *(_Style(s) for s in sorted(numbers.style)), numbers.values)
    collect(everything)
    order = list(machines.values())
    place = {m.key: n for n, m in enumerate(order)}

    def accepts(item: Expression, state: tuple[State, ...]) -> bool:
        if not isinstance(item, tuple):
            return item.accepts(state[place[item.key]])
        parts = (accepts(part, state) for part in item[1:])  # type: ignore[arg-type]
        if item[0] == "not":
            return not next(parts)
        return all(parts) if item[0] == "and" else any(parts)

    # the form of the text comes first, then the styles: a dead one ends the search
    forms = 1 + len(numbers.style)
    start = tuple(m.start for m in order)
    index, edges = {start: 0}, [dict[str, int]()]
    queue = [start]
    for state in queue:
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
    return _smallest(edges, accepting)


def _smallest(edges: list[dict[str, int]], accepting: set[int]) -> Automaton:
    """Without states that reach no accepting one, and with equal states made one."""
    sources: dict[int, set[int]] = {}
    for n, out in enumerate(edges):
        for target in out.values():
            sources.setdefault(target, set()).add(n)
    alive, todo = set(accepting), list(accepting)
    while todo:
        for source in sources.get(todo.pop(), ()):
            if source not in alive:
                alive.add(source)
                todo.append(source)
    if 0 not in alive:
        return [{}], frozenset()
    part = {n: int(n in accepting) for n in alive}
    count = 0
    while True:
        seen: dict[object, int] = {}
        # the start gets number 0
        signatures = {
            n: (part[n], tuple((s, part[t]) for s, t in edges[n].items() if t in alive)) for n in sorted(alive)
        }
        part = {n: seen.setdefault(signature, len(seen)) for n, signature in signatures.items()}
        if len(seen) == count:
            break
        count = len(seen)
    result: list[dict[str, int]] = [{} for _ in range(count)]
    for n in alive:
        result[part[n]] = {s: part[t] for s, t in edges[n].items() if t in alive}
    return result, frozenset(part[n] for n in accepting)


def _chars(symbols: str) -> Chars:
    """One of these symbols."""
    ranges: list[tuple[int, int]] = []
    for code in sorted(map(ord, symbols)):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1] = (ranges[-1][0], code)
        else:
            ranges.append((code, code))
    return Chars(tuple(ranges))


def _arrows(out: dict[str, int]) -> dict[int, Chars]:
    """The symbols to each target."""
    targets: dict[int, str] = {}
    for symbol, target in out.items():
        targets[target] = targets.get(target, "") + symbol
    return {target: _chars(symbols) for target, symbols in targets.items()}


def _joined(*items: Regex) -> Regex:
    parts = [p for i in items for p in (i.items if isinstance(i, Concat) else (i,))]
    return parts[0] if len(parts) == 1 else Concat(tuple(parts))


def _either(first: Regex | None, second: Regex) -> Regex:
    return second if first is None or first == second else Union((first, second))


def _regex(machine: Automaton) -> Regex | None:
    """The automaton as an expression, by removing one state after the other; None where it gets too long."""
    edges, accepting = machine
    if len(edges) > 80:
        return None
    final, size = len(edges), dict[tuple[int, int], int]()
    arrows: dict[tuple[int, int], Regex] = {}
    for n, out in enumerate(edges):
        arrows.update({(n, t): chars for t, chars in _arrows(out).items()})
        if n in accepting:
            arrows[n, final] = Concat(())
    arrows[-1, 0] = Concat(())
    size = dict.fromkeys(arrows, 1)
    left = set(range(len(edges)))
    while left:

        def cost(n: int) -> tuple[int, int]:
            into = [size[a] for a in arrows if a[1] == n and a[0] != n]
            outof = [size[a] for a in arrows if a[0] == n and a[1] != n]
            loop = size.get((n, n), 0)
            return sum(into) * len(outof) + sum(outof) * len(into) + loop * len(into) * len(outof), n

        n = min(left, key=cost)
        left.discard(n)
        loop = arrows.pop((n, n), None)
        weight = size.pop((n, n), 0)
        middle = () if loop is None else (Repeat(loop, 0),)
        into = [a for a in arrows if a[1] == n]
        outof = [a for a in arrows if a[0] == n]
        for source, target in product(into, outof):
            arrow = (source[0], target[1])
            arrows[arrow] = _either(arrows.get(arrow), _joined(arrows[source], *middle, arrows[target]))
            size[arrow] = size.get(arrow, 0) + size[source] + weight + size[target]
            if size[arrow] > MAX_REGEX:
                return None
        for arrow in (*into, *outof):
            arrows.pop(arrow, None)
            size.pop(arrow, None)
    return arrows.get((-1, final))


def _exponents() -> Regex:
    """One digit before the point, and an exponent that a float64 can hold."""
    digit, nonzero = _chars("0123456789"), _chars("123456789")
    fraction = Repeat(Concat((_chars("."), Repeat(digit, 1))), 0, 1)
    small = Union((Repeat(digit, 1, 2), Concat((_chars("012"), digit, digit)), Concat((*map(_chars, "30"), _chars("01234567")))))
    mark = Concat((Chars(((69, 69), (101, 101))), Repeat(_chars("+-"), 0, 1)))
    largest = Repeat(Concat((_chars("."), Repeat(_chars("0123456"), 1, 1), Repeat(digit, 0))), 0, 1)
    tail = Concat((Chars(((69, 69), (101, 101))), Repeat(_chars("+"), 0, 1), *map(_chars, "308")))
    body = Union((Concat((nonzero, fraction, mark, small)), Concat((_chars("1"), largest, tail))))
    return Concat((Repeat(_chars("-"), 0, 1), body))


def text_of(numbers: Numbers) -> Regex | None:
    """The texts of a set as an expression; None: too long for one, see `rules_of`."""
    plain = _regex(automaton(numbers)) if automaton(numbers)[1] else Union(())
    if plain is None or numbers.exponent != "all" or numbers.style:
        return plain
    return Union((plain, _exponents()))


def rules_of(numbers: Numbers, name: str) -> dict[str, Node]:
    """The texts of a set as right-linear rules; the start is `name` with 0."""
    edges, accepting = automaton(numbers)
    rules: dict[str, Node] = {}
    for n, out in enumerate(edges):
        steps: list[Node] = [Sequence((Terminal(c), Ref(f"{name}{t}"))) for t, c in _arrows(out).items()]
        rules[f"{name}{n}"] = Alternatives((*steps, *([Sequence(())] if n in accepting else [])))
    return rules


def count(numbers: Numbers) -> int | None:
    """How many texts belong to a set; None: no limit."""
    edges, accepting = automaton(numbers)
    if numbers.exponent == "all" and not numbers.style:
        return None
    known: dict[int, int | None] = {}

    def texts(state: int, path: frozenset[int]) -> int | None:
        if state in path:
            return None
        if state not in known:
            total: int | None = int(state in accepting)
            for target in edges[state].values():
                more = texts(target, path | {state})
                total = None if total is None or more is None else total + more
            known[state] = total
        return known[state]

    return texts(0, frozenset())
