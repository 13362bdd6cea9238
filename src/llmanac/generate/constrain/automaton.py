"""Grammars as networks over bytes, and their recognizer: which bytes and tokens may follow a text.

`compile_grammar` writes the trees of `expressions.py` as one network (`kernels/constrain/recognize.py` has its form):
terminals by Thompson's construction over the bytes of UTF-8, rules as calls. `And` and `Not` need deterministic
automata, which are made and combined here. Sizes are bounded; what is larger is refused with a sentence.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np

from llmanac.core.errors import RequestError, nearest, shown
from llmanac.generate.constrain import _patience
from llmanac.generate.constrain import expressions as ex
from llmanac.generate.constrain._utf8 import EVERY, byte_moves, plain_automaton
from llmanac.kernels.constrain import networks, recognize
from llmanac.kernels.constrain.items import (
    ACCEPTS,
    CALL_AT,
    EMPTY_AT,
    ENDS,
    FINAL,
    FRESH,
    MANY,
    MOVE_AT,
    PLAIN,
    RUN,
    SCOPE,
    TAIL,
    WORDS,
    Network,
    memory_for,
)

MOST_STATES = 1 << 19  # of a network
MOST_AUTOMATON = 20_000  # states of a deterministic automaton for And and Not
MOST_DEPTH = 200  # of the trees


class _Automaton:
    """A deterministic automaton: moves (states, classes) with -1 for none, the class of each byte, final states."""

    def __init__(self, moves: np.ndarray, classes: np.ndarray, final: np.ndarray) -> None:
        self.moves, self.classes, self.final = moves, classes, final

    def product(self, other: _Automaton) -> _Automaton:
        """What both match."""
        pairs = self.classes.astype(np.int64) * 256 + other.classes
        both, classes = np.unique(pairs, return_inverse=True)
        left, right = self.moves[:, both // 256], other.moves[:, both % 256]
        width = len(other.moves)
        number = {0: 0}
        codes, rows, at = [0], [], 0
        while at < len(codes):
            _patience.check()
            chunk = np.array(codes[at:])
            at = len(codes)
            a, b = left[chunk // width], right[chunk % width]
            found = np.where((a < 0) | (b < 0), -1, a.astype(np.int64) * width + b)
            for code in np.unique(found).tolist():
                if code >= 0 and code not in number:
                    number[code] = len(codes)
                    codes.append(code)
            _bounded(len(codes))
            rows.append(found)
        table = np.concatenate(rows)
        known = np.array(sorted(number))
        place = np.array([number[code] for code in known.tolist()])
        moves = np.where(table < 0, -1, place[np.searchsorted(known, np.maximum(table, 0))]).astype(np.int32)
        pair = np.array(codes)
        final = self.final[pair // width] & other.final[pair % width]
        moves[~networks.alive(moves, final)[moves]] = -1  # for `automaton_runs`, and for smaller products
        return _Automaton(moves, classes.astype(np.uint8), final)

    def complement(self) -> _Automaton:
        """What it does not match, of all bytes."""
        end = len(self.moves)
        moves = np.vstack([np.where(self.moves < 0, end, self.moves), np.full((1, self.moves.shape[1]), end)])
        return _Automaton(moves.astype(np.int32), self.classes, np.append(~self.final, True))


def _bounded(states: int) -> None:
    if states > MOST_AUTOMATON:
        raise RequestError(
            f"the constraint combines patterns (and, not) into more than {MOST_AUTOMATON:,} states; simplify them"
        )


@functools.lru_cache(maxsize=64)
def automaton_of(regex: ex.Regex) -> _Automaton:
    """The deterministic automaton of an expression. Raises RequestError where it is too large."""
    if isinstance(regex, ex.And):
        found = automaton_of(regex.items[0]) if regex.items else automaton_of(_ANY)
        for item in regex.items[1:]:
            found = found.product(automaton_of(item))
        return found
    if isinstance(regex, ex.Not):
        return automaton_of(_ANY).product(automaton_of(regex.item).complement())
    network = compile_grammar(ex.Grammar({"": ex.Terminal(regex)}, ""), nothing=True)
    for sets in (1 << 10, 1 << 15):
        memory = memory_for(int(network.classes.max()) + 1, sets)
        count = recognize.explore(network, memory)
        if count >= 0:
            break
    _bounded(MOST_AUTOMATON + 1 if count < 0 else count)
    return _Automaton(memory.moves[:count].copy(), network.classes, memory.sets[:count, ACCEPTS] != 0)


_ANY = ex.Repeat(ex.Chars(EVERY), 0)


class _AutomatonBuilder:
    """Collects the states and moves of a network."""

    def __init__(self, grammar: ex.Grammar) -> None:
        self.grammar = grammar
        self.states = self.depth = 0
        self.moves: list[tuple[int, int, int, int]] = []
        self.empties: list[tuple[int, int]] = []
        self.calls: list[tuple[int, int, int]] = []
        self.plain: list[tuple[int, int]] = []  # moves on a plain character
        self.known_runs: list[tuple[int, int]] = []
        self.words: list[tuple[int, int]] = []
        self.ends: list[int] = []
        self.rules: list[tuple[int, int]] = []  # start state, kind
        self.numbers: dict[object, int] = {}
        self.waiting: list[tuple[int, Callable[[int], int]]] = []

    def state(self, count: int = 1) -> int:
        _patience.check()
        self.states += count
        if self.states > MOST_STATES:
            raise RequestError(f"the constraint is too large: it has more than {MOST_STATES:,} states; make it smaller")
        return self.states - count

    def rule(self, key: object, kind: int, body: Callable[[int], int]) -> int:
        """The number of a rule; what it consists of is built later."""
        if key not in self.numbers:
            self.numbers[key] = len(self.rules)
            self.rules.append((self.state(), kind))
            self.waiting.append((self.rules[-1][0], body))
        return self.numbers[key]

    def build(self) -> None:
        self.rule(("rule", self.grammar.start), PLAIN, lambda at: self.node(self._body(self.grammar.start), at))
        while self.waiting:
            start, body = self.waiting.pop()
            self.ends.append(body(start))

    def _body(self, name: str) -> ex.Node:
        if name not in self.grammar.rules:
            raise RequestError(f"grammar: there is no rule {shown(name)}{nearest(name, self.grammar.rules)}")
        return self.grammar.rules[name]

    def call(self, at: int, rule: int) -> int:
        end = self.state()
        self.calls.append((at, rule, end))
        return end

    # ------------------------------------------------------------------------------------------ trees
    def node(self, node: ex.Node | ex.Regex, at: int) -> int:
        """Build a tree from state `at` on; the state where it ends. Nothing of it leads back to `at`."""
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise RequestError(f"the constraint is nested more than {MOST_DEPTH} deep; make it flatter")
        end = self._node(node, at)
        self.depth -= 1
        return end

    def _node(self, node: ex.Node | ex.Regex, at: int) -> int:
        match node:
            case ex.Chars(ranges):
                return self.characters(ranges, at)
            case ex.Concat(items) | ex.Concatenation(items):
                for item in items:
                    at = self.node(item, at)
                return at
            case ex.Union(items) | ex.Choice(items):
                return self.choice(items, at)
            case ex.Repeat(item, least, most) | ex.Many(item, least, most):
                return self.repeat(item, least, most, at)
            case ex.And() | ex.Not():
                return self.automaton(automaton_of(node), at)
            case ex.Terminal(regex):
                return self.node(regex, at)
            case ex.Fresh(regex):
                return self.call(at, self.rule(("fresh", regex), FRESH, lambda start: self.fresh(regex, start)))
            case ex.Scope(inner):
                return self.call(at, self.rule(("scope", inner), SCOPE, lambda start: self.node(inner, start)))
            case ex.Ref(name):
                body = self._body(name)
                return self.call(at, self.rule(("rule", name), PLAIN, lambda start: self.node(body, start)))
        raise RequestError(f"the constraint has {shown(node)}, which is no expression")

    def characters(self, ranges: tuple[tuple[int, int], ...], at: int) -> int:
        count, moves, plain = byte_moves(ranges)
        first = self.state(count - 1) - 1  # state 1 of `moves` and those behind it
        end = first + 1
        self.moves += [(first + a if a else at, low, high, first + b) for a, low, high, b in moves]
        if plain:
            self.plain.append((at, end))
        return end

    def choice(self, items: tuple[ex.Node | ex.Regex, ...], at: int) -> int:
        single = [item for item in items if isinstance(item, ex.Chars)]
        if len(single) > 1:
            joined = ex.Chars(tuple(r for item in single for r in item.ranges))
            items = (joined, *(item for item in items if not isinstance(item, ex.Chars)))
        if len(items) == 1:
            return self.node(items[0], at)
        end = self.state()
        for item in items:
            self.empties.append((self.node(item, at), end))
        return end

    def repeat(self, item: ex.Node | ex.Regex, least: int, most: int | None, at: int) -> int:
        if least < 0 or (most is not None and most < least):
            raise RequestError(
                f"the constraint repeats something {least} to {most} times; give the smaller number first"
            )
        at = self.copies(item, least, at, None)
        if most is None:
            loop = self.state()
            self.empties.append((at, loop))
            self.empties.append((self.node(item, loop), loop))
            return loop
        if most == least:
            return at
        end = self.state()
        at = self.copies(item, most - least, at, end)
        self.empties.append((at, end))
        return end

    def copies(self, item: ex.Node | ex.Regex, count: int, at: int, leave: int | None) -> int:
        """`count` copies, one behind the other; `leave`: where an empty move leads from the start of each."""
        if not count:
            return at
        first, before = self.states, (len(self.moves), len(self.empties), len(self.calls))
        runs = (len(self.plain), len(self.known_runs))
        end = self.node(item, at)
        size = self.states - first
        if leave is not None:
            self.empties.append((at, leave))
        moves, empties, calls = self.moves[before[0] :], self.empties[before[1] :], self.calls[before[2] :]
        plain, known = self.plain[runs[0] :], self.known_runs[runs[1] :]
        self.state(size * (count - 1))
        start = at
        for copy in range(1, count):
            _patience.check()
            shift, begin = size * copy, end + size * (copy - 1)

            def moved(state: int, begin: int = begin, shift: int = shift) -> int:
                return begin if state == start else state + shift if state >= first else state

            self.moves += [(moved(a), low, high, moved(b)) for a, low, high, b in moves]
            self.empties += [(moved(a), moved(b)) for a, b in empties]
            self.calls += [(moved(a), rule, moved(b)) for a, rule, b in calls]
            self.plain += [(moved(a), moved(b)) for a, b in plain]
            self.known_runs += [(moved(a), run) for a, run in known]
        return end + size * (count - 1)

    def fresh(self, regex: ex.Regex, at: int) -> int:
        """Its automaton, if that is not too large: by it, texts of which none is left are known at their beginnings."""
        try:
            found = automaton_of(regex)
        except RequestError:
            return self.node(regex, at)
        words = networks.words(found.moves, found.final, np.bincount(found.classes, minlength=found.moves.shape[1]))
        self.words += [(self.states + state, int(n)) for state, n in enumerate(words)]
        return self.automaton(found, at)

    def automaton(self, automaton: _Automaton, at: int) -> int:
        first = self.state(len(automaton.moves) + 1)
        end = first + len(automaton.moves)
        run = networks.automaton_runs(automaton.moves, plain_automaton(), automaton.classes)
        for state, row in enumerate(automaton.moves[:, automaton.classes]):
            _patience.check()
            cuts = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), 256]
            for low, high in itertools.pairwise(cuts):
                if row[low] >= 0:
                    self.moves.append((first + state, low, high - 1, first + int(row[low])))
        self.known_runs += [(first + state, int(n)) for state, n in enumerate(run) if n]
        self.empties.append((at, first))
        self.empties += [(first + int(state), end) for state in np.flatnonzero(automaton.final)]
        return end


def compile_grammar(grammar: ex.Grammar, *, nothing: bool = False) -> Network:
    """The network of a grammar; rule 0 is its start.

    Args:
        nothing: whether a grammar that matches no text is taken.

    Raises:
        RequestError: a rule that does not exist, a grammar that is too large or that matches no text.
    """
    builder = _AutomatonBuilder(grammar)
    builder.build()
    moves = np.array(builder.moves, np.int64).reshape(-1, 4)
    empties = np.array(builder.empties, np.int64).reshape(-1, 2)
    calls = np.array(builder.calls, np.int64).reshape(-1, 3)
    cuts = np.zeros(257, bool)
    cuts[moves[:, 1]] = cuts[moves[:, 2] + 1] = True
    cuts[0] = False
    classes = np.cumsum(cuts[:256]).astype(np.uint8)
    moves = moves[np.lexsort((moves[:, 1], moves[:, 0]))]
    empties, calls = empties[empties[:, 0].argsort()], calls[calls[:, 0].argsort()]
    rules = np.array(builder.rules, np.int32)
    states = np.zeros((builder.states + 1, 8), np.int32)
    states[:, WORDS] = MANY
    states[builder.ends, FINAL] = 1

    def network() -> Network:
        for column, part in zip((MOVE_AT, EMPTY_AT, CALL_AT), parts, strict=True):
            states[:, column] = np.searchsorted(part[:, 0], np.arange(builder.states + 1))
        found = [np.ascontiguousarray(part[:, 1:], np.int32) for part in parts]
        found[0][:, :2] = classes[found[0][:, :2]]
        return Network(states, found[0], found[1][:, 0].copy(), found[2], rules, classes)

    parts = [moves, empties, calls]
    targets = [moves[:, 3], empties[:, 1], calls[:, 2]]
    first, second = np.concatenate(targets), np.concatenate([*targets[:2], rules[calls[:, 1], 0]])
    both = np.concatenate([first, second])
    order = both.argsort(kind="stable")
    place = np.searchsorted(both[order], np.arange(builder.states + 1))
    sources = np.concatenate([part[:, 0] for part in parts])
    live = networks.live(states[:-1, FINAL] != 0, sources, first, second, order, place)
    if not live[rules[0, 0]] and not nothing:
        raise RequestError("the constraint matches no text at all; check it for parts that exclude each other")
    targets[2] = np.where(live[rules[calls[:, 1], 0]], calls[:, 2], -1)
    parts = [part[(to >= 0) & live[to]] for part, to in zip(parts, targets, strict=True)]
    made = network()
    for state, run in builder.known_runs:
        states[state, RUN] = max(states[state, RUN], run)
    for state, count in builder.words:
        states[state, WORDS] = count
    plain = np.array([(a, b) for a, b in builder.plain if live[b]], np.int64).reshape(-1, 2)
    plain = plain[plain[:, 0].argsort()]
    first = np.searchsorted(plain[:, 0], np.arange(builder.states + 1))
    states[:-1, ENDS], states[:-1, TAIL] = networks.ends(made)
    states[:-1, RUN] = networks.runs(made, states[:-1, RUN].copy(), first, np.ascontiguousarray(plain[:, 1]))
    return made


@functools.cache
def warm() -> None:
    """Compile the kernels for this machine, where that was never done; no constraint's own time is used for it."""
    letter = ex.Chars(((97, 97),))
    compile_grammar(ex.Grammar({"": ex.Scope(ex.Fresh(ex.Not(letter)))}, ""))
