"""The texts of a set of numbers, as an expression or as rules."""

from itertools import product

from llmanac.generate.constrain._json_minimal import Automaton
from llmanac.generate.constrain._json_numbers import Numbers, automaton
from llmanac.generate.constrain._json_strings import literal
from llmanac.generate.constrain.expressions import (
    Chars,
    Choice,
    Concat,
    Concatenation,
    Node,
    Ref,
    Regex,
    Repeat,
    Terminal,
    Union,
)

MAX_REGEX = 3000  # leaves of an expression; what needs more becomes rules
MAX_REMOVED = 80  # states of an automaton that becomes an expression


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
    if len(edges) > MAX_REMOVED:
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


def _others() -> Regex:
    """What a number that no keyword limits may be too: -0, or with an exponent within the range of float64."""
    digit, nonzero, point = _chars("0123456789"), _chars("123456789"), _chars(".")
    fraction = Repeat(Concat((point, Repeat(digit, 1))), 0, 1)
    mark, sign = Chars(((69, 69), (101, 101))), Repeat(_chars("+-"), 0, 1)
    short = Concat((Union((_chars("0"), Concat((nonzero, Repeat(digit, 0, 14))))), fraction))
    large = Union((Concat((_chars("012"), digit, digit)), Concat((literal("30"), _chars("01234567")))))
    # below 1.7976931348623157e308
    under = [(_chars("7"),), (literal("79"),), (literal("7976931348623157"),), (_chars("0123456"), Repeat(digit, 0))]
    under += [
        (_chars("7"), _chars("012345678"), Repeat(digit, 0)),
        (literal("79"), _chars("0123456"), Repeat(digit, 0)),
    ]
    largest = Concat((_chars("1"), Repeat(Concat((point, Union(tuple(map(Concat, under))))), 0, 1)))
    forms = (
        Concat((short, mark, sign, Repeat(digit, 1, 2))),
        Concat((nonzero, fraction, mark, sign, large)),
        Concat((largest, mark, Repeat(_chars("+"), 0, 1), literal("308"))),
    )
    zero = Concat((literal("-0"), Repeat(Concat((point, Repeat(_chars("0"), 1))), 0, 1)))
    return Union((*(Concat((Repeat(_chars("-"), 0, 1), form)) for form in forms), zero))


def text_of(numbers: Numbers) -> Regex | None:
    """The texts of a set as an expression; None: too long for one, see `rules_of`."""
    plain = _regex(automaton(numbers)) if automaton(numbers)[1] else Union(())
    if plain is None or numbers.exponent != "all" or numbers.style:
        return plain
    return Union((plain, _others()))


def rules_of(numbers: Numbers, name: str) -> dict[str, Node]:
    """The texts of a set as right-linear rules; the start is `name` with 0."""
    edges, accepting = automaton(numbers)
    rules: dict[str, Node] = {}
    for n, out in enumerate(edges):
        steps: list[Node] = [Concatenation((Terminal(c), Ref(f"{name}{t}"))) for t, c in _arrows(out).items()]
        rules[f"{name}{n}"] = Choice((*steps, *([Concatenation(())] if n in accepting else [])))
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
