"""Sets of JSON values as grammars of their texts."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations

from llmanac.core.errors import SpecError
from llmanac.generate.constrain import _json_digits as digits
from llmanac.generate.constrain import _json_numbers as numbers
from llmanac.generate.constrain import _json_strings as strings
from llmanac.generate.constrain import _patience
from llmanac.generate.constrain._json_document import refuse
from llmanac.generate.constrain._json_layouts import JSONLayout
from llmanac.generate.constrain._json_numbers import Numbers
from llmanac.generate.constrain._json_schemas import Schemas
from llmanac.generate.constrain._json_strings import Strings, literal
from llmanac.generate.constrain._json_values import NEVER, Array, Conjunction, Object, PropertyGroup, Values, both
from llmanac.generate.constrain._json_values import NOTHING as NO_VALUES
from llmanac.generate.constrain.expressions import (
    Choice,
    Concat,
    Concatenation,
    Fresh,
    Many,
    Node,
    Ref,
    Regex,
    Scope,
    Terminal,
    Union,
)

MAX_RULES = 20_000
LONGEST = 8192  # items or properties where a greater number is allowed
MAX_PATTERNS = 6  # of patternProperties that apply to one object
MAX_EXISTS = 3  # properties of one object that have to exist under a name that is not given
EMPTY, NOTHING = Concatenation(()), Choice(())
Region = tuple[Strings, Conjunction]  # names, and what the values of such properties have to be


class Writer:
    """Writes the rules of schemas; each conjunction of schemas that is needed becomes one rule.

    Args:
        schemas: of one document.
        layout: what is between the parts.
        name: starts the names of the rules.
    """

    def __init__(self, schemas: Schemas, layout: JSONLayout, name: str) -> None:
        self.schemas, self.layout, self.name = schemas, layout, name
        self.rules: dict[str, Node] = {}
        self.names: dict[Conjunction, str] = {}
        self.waiting: list[Conjunction] = []

    def write(self, schema: Conjunction) -> Ref:
        """All rules that a conjunction needs; the reference to its own."""
        start = self.reference(schema)
        while self.waiting:
            following = self.waiting.pop()
            values = self.schemas.conjunction(following)
            self.schemas.at = next((p for _, p in following if not p.startswith("!")), self.schemas.at)
            self.rules[self.names[following]] = self.any_of(values, self.names[following])
        return start

    def reference(self, schema: Conjunction) -> Ref:
        """The rule of a conjunction."""
        if schema not in self.names:
            self.names[schema] = self.fresh_name()
            self.waiting.append(schema)
        return Ref(self.names[schema])

    def fresh_name(self) -> str:
        """A rule's name; the rule is taken."""
        _patience.check()
        if len(self.rules) >= MAX_RULES:
            raise SpecError(f"schema: it needs more than {MAX_RULES:,} rules; make it smaller")
        name = f"{self.name}{len(self.rules)}"
        self.rules[name] = NOTHING
        return name

    def any_of(self, values: Values, name: str) -> Node:
        """The texts of a set of values."""
        number = digits.text_of(values.numbers)
        scalars = list(self.scalars(values))
        items: list[Node] = []
        if number is None:
            self.rules.update(digits.rules_of(values.numbers, f"{name}.n"))
            items.append(Ref(f"{name}.n0"))
        elif number != Union(()):
            scalars.append(number)
        if scalars:
            items.append(Terminal(scalars[0] if len(scalars) == 1 else Union(tuple(scalars))))
        arrays = [Array(evaluated=a.evaluated) for a in values.arrays if replace(a, evaluated=0) == Array()]
        items += [self.array(piece, name) for piece in arrays[:1] or values.arrays]
        everything = [o for o in values.objects if replace(o, groups=_strict(o)) == Object()]
        items += [self.object(piece) for piece in everything[:1] or values.objects]
        return items[0] if len(items) == 1 else Choice(tuple(items))

    @staticmethod
    def scalars(values: Values) -> Iterator[Regex]:
        """The texts of null, booleans and strings."""
        if values.null:
            yield literal("null")
        for value in sorted(values.booleans):
            yield literal("true" if value else "false")
        if values.strings != strings.NONE:
            yield values.strings.text()

    # ---------------------------------------------------------------------------------------- arrays
    def array(self, piece: Array, name: str) -> Node:
        """The texts of the arrays of a piece."""
        item: Callable[[Conjunction], Node] = self.reference
        if piece.most is not None:
            piece = replace(piece, most=min(piece.most, max(piece.least, LONGEST)))
        if piece.unique is not None:
            item = partial(self.unique_item, piece.unique)
            piece = replace(piece, most=self.distinct(piece))
            if piece.most is not None and piece.most < piece.least:
                return NOTHING
        body = self.counted(piece, item) if piece.contains else self.items(piece, item)
        node = Concatenation((self.layout.opening("["), body, self.layout.closing("]")))
        return node if piece.unique is None else Scope(node)

    def unique_item(self, pointer: str, schema: Conjunction) -> Node:
        """An item whose text no other item has; equal values have one text."""
        values = self.schemas.conjunction(schema)
        if values.arrays or values.objects:
            raise refuse(pointer, "'uniqueItems' is supported where no item is an array or object; give their 'type'")
        number = digits.text_of(_short(values.numbers))
        if number is None:
            raise refuse(pointer, "'uniqueItems' is not supported for numbers of so complex a form")
        return Fresh(Union((*self.scalars(values), number)))

    def distinct(self, piece: Array) -> int | None:
        """How many items a unique array has at most."""
        union = NO_VALUES
        for schema in {*piece.prefix, piece.rest} - {NEVER}:
            values = self.schemas.conjunction(schema)
            union = self.schemas.join(union, replace(values, numbers=_short(values.numbers)))
        number = digits.count(union.numbers)
        endless = union.strings.regex is not None or union.strings.rest
        if number is None or endless or union.arrays or union.objects:
            return piece.most
        total = union.null + len(union.booleans) + len(union.strings.words) + number
        return total if piece.most is None else min(total, piece.most)

    def items(self, piece: Array, item: Callable[[Conjunction], Node]) -> Node:
        """The items between the brackets."""
        comma = Terminal(self.layout.comma)
        length = len(piece.prefix)
        most = None if piece.most is None else piece.most - length
        node: Node = EMPTY
        if most is None or most > 0:
            one = item(piece.rest)
            more, least = Concatenation((comma, one)), max(piece.least - length, 0)
            if length:
                node = Many(more, least, most)
            else:
                node = Concatenation((one, Many(more, max(least - 1, 0), None if most is None else most - 1)))
                node = node if least else Choice((EMPTY, node))
        for place in range(length - 1, -1, -1):
            head: tuple[Node, ...] = (item(piece.prefix[place]),)
            node = Concatenation(((comma, *head) if place else head) + (node,))
            if place >= piece.least:
                node = Choice((EMPTY, node))
            if place % 16 == 15:  # trees stay shallow
                name = self.fresh_name()
                self.rules[name] = node
                node = Ref(name)
        return node

    def counted(self, piece: Array, item: Callable[[Conjunction], Node]) -> Node:
        """The items between the brackets where `contains` counts some: a rule for each place and counts."""
        comma = Terminal(self.layout.comma)
        parts = piece.contains
        last = max(len(piece.prefix), piece.least, piece.most or 0, *(p.start for p in parts))
        states: dict[tuple[int, tuple[int, ...]], str] = {}
        todo: list[tuple[int, tuple[int, ...]]] = []

        def state(place: int, counts: tuple[int, ...]) -> Ref:
            key = (place, counts)
            if key not in states:
                states[key] = self.fresh_name()
                todo.append(key)
            return Ref(states[key])

        # the first item has no comma, so place 0 is left for good
        last = max(last, 1)
        start = state(0, (0,) * len(parts))
        while todo:
            place, counts = key = todo.pop()
            options: list[Node] = []
            enough = all(c >= p.least for c, p in zip(counts, parts, strict=True))
            if place >= piece.least and enough:
                options.append(EMPTY)
            ways: list[tuple[Conjunction, tuple[int, ...]]] = [(piece.of(place), ())]
            for part, count in zip(parts, counts, strict=True):
                found = []
                for schema, seen in ways:
                    cap = part.least if part.most is None else part.most
                    inside = both(schema, part.schema)
                    if place < part.start:
                        found.append((schema, (*seen, count)))
                        continue
                    if part.most is None or count < part.most:
                        found.append((inside, (*seen, min(count + 1, cap))))
                    outside = schema if part.most is None else both(schema, self.schemas.opposite(part.schema))
                    found.append((outside, (*seen, count)))
                ways = found
            for schema, seen in dict.fromkeys(ways):
                if (piece.most is None or place < piece.most) and not self.schemas.impossible(schema):
                    head = (comma, item(schema)) if place else (item(schema),)
                    options.append(Concatenation((*head, state(min(place + 1, last), seen))))
            self.rules[states[key]] = Choice(tuple(options))
        return start

    # --------------------------------------------------------------------------------------- objects
    def object(self, piece: Object) -> Node:
        """The texts of the objects of a piece: declared names in order, then any others."""
        declared = tuple(dict.fromkeys(n for g in piece.groups for n, _ in g.names)) + piece.required
        entries: list[tuple[str, Conjunction, bool]] = []
        for name in dict.fromkeys(declared):
            schema, needed = piece.of(name), name in piece.required
            if self.schemas.impossible(schema):
                if needed:
                    return NOTHING
                continue
            entries.append((name, schema, needed))
        others: dict[Conjunction, Strings] = {}
        for names, schema in self.regions(piece, frozenset(declared)):
            if names.regex is None and not names.rest:
                entries += [(name, schema, False) for name in sorted(names.words)]
            else:
                others[schema] = others.get(schema, strings.NONE) | names
        body = _Properties(self, piece, entries, list(others.items())).node()
        node = Concatenation((self.layout.opening("{"), body, self.layout.closing("}")))
        return Scope(node) if others else node

    def regions(self, piece: Object, declared: frozenset[str]) -> Iterator[Region]:
        """The names that are not declared, by what their values have to be."""
        patterns = list(dict.fromkeys(p for g in piece.groups for p, _ in g.patterns))
        if len(patterns) > MAX_PATTERNS:
            raise refuse(self.schemas.at, f"more than {MAX_PATTERNS} patterns of property names for one object")
        start = piece.names & Strings(declared, rest=True)

        def split(names: Strings, chosen: tuple[Strings, ...], rest: list[Strings]) -> Iterator[Region]:
            if self.schemas.vacant(names):
                return
            if rest:
                yield from split(names & rest[0], (*chosen, rest[0]), rest[1:])
                yield from split(names & ~rest[0], chosen, rest[1:])
                return
            result: Conjunction = ()
            for group in piece.groups:
                found = [schema for pattern, schema in group.patterns if pattern in chosen]
                if not found and group.additional is not None:
                    found = [group.additional]
                for schema in found:
                    result = both(result, schema)
            if not self.schemas.impossible(result):
                yield names, result

        return split(start, (), patterns)


class _Properties:
    """The properties of one object, as rules for each place, count of properties and existence still to be shown."""

    def __init__(
        self,
        writer: Writer,
        piece: Object,
        entries: list[tuple[str, Conjunction, bool]],
        others: list[tuple[Conjunction, Strings]],
    ) -> None:
        self.writer, self.entries, self.others, self.exists = writer, entries, others, piece.exists
        if len(self.exists) > MAX_EXISTS:
            raise refuse(
                writer.schemas.at,
                f"'not', 'oneOf' or 'else' ask for more than {MAX_EXISTS} properties of names that are not given",
            )
        needed = sum(entry[2] for entry in entries)
        self.least = piece.least if piece.least > needed else 0
        if piece.most is not None:
            piece = replace(piece, most=min(piece.most, max(piece.least, needed, LONGEST)))
        self.most = piece.most if others or (piece.most is not None and piece.most < len(entries)) else None
        self.cap = max(self.least, 1) if self.most is None else max(self.most, 1)
        self.comma, self.colon = writer.layout.comma, writer.layout.colon
        self.states: dict[tuple[int, int, int], str] = {}
        self.todo: list[tuple[int, int, int]] = []

    def node(self) -> Node:
        """What is between the braces."""
        start = self.state(0, 0, (1 << len(self.exists)) - 1)
        while self.todo:
            key = self.todo.pop()
            place, count, missing = key
            last = place == len(self.entries)
            self.writer.rules[self.states[key]] = self.more(count, missing) if last else self.entry(*key)
        return start

    def state(self, place: int, count: int, missing: int) -> Ref:
        """The rule of a state."""
        key = (place, count, missing)
        if key not in self.states:
            self.states[key] = self.writer.fresh_name()
            self.todo.append(key)
        return Ref(self.states[key])

    def shown(
        self, missing: int, names: Strings | str, schema: Conjunction
    ) -> Iterator[tuple[Strings | str, Conjunction, int]]:
        """The ways in which a property shows some of the missing existences, with what remains of its names."""
        places = [n for n in range(len(self.exists)) if missing >> n & 1]
        for size in range(len(places) + 1):
            for chosen in combinations(places, size):
                left, value = names, schema
                for n in chosen:
                    region, needs = self.exists[n]
                    if isinstance(left, str):
                        value = both(value, needs if left in region else NEVER)
                    else:
                        left, value = left & region, both(value, needs)
                if not self.writer.schemas.impossible(value) and (
                    isinstance(left, str) or not self.writer.schemas.vacant(left)
                ):
                    yield left, value, missing - sum(1 << n for n in chosen)

    def entry(self, place: int, count: int, missing: int) -> Node:
        """A declared property and all that follow; those that are certain to follow are written out."""
        name, schema, needed = self.entries[place]
        options: list[Node] = []
        if self.most is None or count < self.most:
            key = Concat((*([self.comma] if count else []), literal(json.dumps(name, ensure_ascii=False)), self.colon))
            for _, value, left in self.shown(missing, name, schema):
                tail = self.state(place + 1, min(count + 1, self.cap), left)
                options.append(Concatenation((Terminal(key), self.writer.reference(value), tail)))
        if not needed:
            options.append(self.state(place + 1, count, missing))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def more(self, count: int, missing: int) -> Node:
        """Properties that are not declared, each of another name."""
        comma: tuple[Node, ...] = (Terminal(self.comma),) if count else ()
        least = max(self.least - count, 0)
        most = None if self.most is None else self.most - count
        if missing:
            options: list[Node] = []
            for schema, names in self.others if most is None or most > 0 else []:
                for left, value, rest in self.shown(missing, names, schema):
                    tail = self.state(len(self.entries), min(count + 1, self.cap), rest)
                    options.append(Concatenation((*comma, self.pair(left, value), tail)))
            return Choice(tuple(options))
        if not self.others or most == 0:
            return NOTHING if least else EMPTY
        pairs = [self.pair(names, schema) for schema, names in self.others]
        pair = pairs[0] if len(pairs) == 1 else Choice(tuple(pairs))
        following = Concatenation((Terminal(self.comma), pair))
        if count:
            return Many(following, least, most)
        node = Concatenation((pair, Many(following, max(least - 1, 0), None if most is None else most - 1)))
        return node if least else Choice((EMPTY, node))

    def pair(self, names: Strings | str, schema: Conjunction) -> Node:
        """A property of a name that is not declared."""
        assert isinstance(names, Strings)
        return Concatenation((Fresh(names.text()), Terminal(self.colon), self.writer.reference(schema)))


def _strict(piece: Object) -> tuple[PropertyGroup, ...]:
    """The groups of a piece that say something."""
    return tuple(g for g in piece.groups if g.additional or any(s for _, s in g.names) or any(s for _, s in g.patterns))


def _short(of: Numbers) -> Numbers:
    """Each value in one way only, also when it is rounded to float64."""
    if of is numbers.NONE:
        return of
    return Numbers(("and", of.values, numbers.APART), of.style | {"short"}, "none")
