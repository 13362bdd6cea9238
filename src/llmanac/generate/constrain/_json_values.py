"""Sets of JSON values: of each type the values that belong to it, with and, or, not and exactly-one.

Null, booleans, numbers and strings are sets of their own, closed under all of these. Arrays and objects are unions of
pieces; a piece is a conjunction of constraints, and the complement of a piece is a union of pieces, one for each
constraint that may be broken. Schemas of items and properties stay references (`Conjunction`) until text is written,
so that recursive schemas end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from llmanac.generate.constrain import _json_numbers as numbers
from llmanac.generate.constrain import _json_strings as strings
from llmanac.generate.constrain._json_document import TRUE, refuse
from llmanac.generate.constrain._json_numbers import Numbers
from llmanac.generate.constrain._json_strings import Strings

Conjunction = tuple[tuple[bool, str], ...]  # schemas by pointer that all hold (True) or do not (False)
NEVER: Conjunction = ((False, TRUE),)


def both(one: Conjunction, two: Conjunction) -> Conjunction:
    """All schemas of two conjunctions."""
    found = dict.fromkeys(one + two)
    if any((not sign, pointer) in found for sign, pointer in found) or NEVER[0] in found:
        return NEVER
    return tuple(found)


@dataclass(frozen=True)
class PropertyGroup:
    """`properties`, `patternProperties` and `additionalProperties` of one schema."""

    names: tuple[tuple[str, Conjunction], ...] = ()
    patterns: tuple[tuple[Strings, Conjunction], ...] = ()
    additional: Conjunction | None = None  # None: not given
    evaluates: bool = True  # for unevaluatedProperties

    @cached_property
    def table(self) -> dict[str, Conjunction]:
        """`properties`."""
        return dict(self.names)

    def of(self, name: str) -> Conjunction:
        """What the value of a property has to be."""
        found = [self.table[name]] if name in self.table else []
        found += [schema for pattern, schema in self.patterns if name in pattern]
        if not found and self.additional is not None:
            found = [self.additional]
        result: Conjunction = ()
        for schema in found:
            result = both(result, schema)
        return result


@dataclass(frozen=True)
class Object:
    """Objects that meet all of these."""

    groups: tuple[PropertyGroup, ...] = ()
    required: tuple[str, ...] = ()
    least: int = 0
    most: int | None = None
    names: Strings = strings.EVERY
    exists: tuple[tuple[Strings, Conjunction], ...] = ()  # a property of such a name has such a value

    def of(self, name: str) -> Conjunction:
        """What the value of a property has to be."""
        result: Conjunction = () if name in self.names else NEVER
        for group in self.groups:
            result = both(result, group.of(name))
        return result

    def __and__(self, other: Object) -> Object:
        return Object(
            tuple(dict.fromkeys(self.groups + other.groups)),
            tuple(dict.fromkeys(self.required + other.required)),
            max(self.least, other.least),
            _lesser(self.most, other.most),
            self.names & other.names,
            tuple(dict.fromkeys(self.exists + other.exists)),
        )


@dataclass(frozen=True)
class Contains:
    """`least` to `most` items from place `start` on are of a schema."""

    schema: Conjunction
    start: int = 0
    least: int = 1
    most: int | None = None
    evaluates: bool = False


@dataclass(frozen=True)
class Array:
    """Arrays that meet all of these."""

    prefix: tuple[Conjunction, ...] = ()
    rest: Conjunction = ()
    least: int = 0
    most: int | None = None
    contains: tuple[Contains, ...] = ()
    unique: str | None = None  # where `uniqueItems` is
    evaluated: int | None = 0  # items that unevaluatedItems leaves; None: all

    def of(self, place: int) -> Conjunction:
        """What an item has to be."""
        return self.prefix[place] if place < len(self.prefix) else self.rest

    def __and__(self, other: Array) -> Array:
        seen = (self.evaluated, other.evaluated)
        places = range(max(len(self.prefix), len(other.prefix)))
        return Array(
            tuple(both(self.of(n), other.of(n)) for n in places),
            both(self.rest, other.rest),
            max(self.least, other.least),
            _lesser(self.most, other.most),
            tuple(dict.fromkeys(self.contains + other.contains)),
            other.unique if self.unique is None else self.unique,
            None if None in seen else max(n for n in seen if n is not None),
        )


def _lesser(one: int | None, two: int | None) -> int | None:
    return one if two is None else two if one is None else min(one, two)


@dataclass(frozen=True)
class Values:
    """A set of JSON values."""

    null: bool = True
    booleans: frozenset[bool] = frozenset({False, True})
    numbers: Numbers = numbers.EVERY
    strings: Strings = strings.EVERY
    arrays: tuple[Array, ...] = (Array(),)
    objects: tuple[Object, ...] = (Object(),)


EVERYTHING = Values()
NOTHING = Values(False, frozenset(), numbers.NONE, strings.NONE, (), ())


class Algebra:
    """The operations on sets of values; subclasses say which schemas no value satisfies, and how one is negated."""

    def impossible(self, schema: Conjunction) -> bool:
        """Whether no value satisfies a conjunction, as far as is known."""
        raise NotImplementedError

    def opposite(self, schema: Conjunction) -> Conjunction:
        """What a value satisfies that does not satisfy a conjunction."""
        raise NotImplementedError

    def vacant(self, of: Strings) -> bool:
        """Whether no string belongs to a set, as far as is known."""
        raise NotImplementedError

    def limit(self, pieces: int) -> None:
        """Raise SpecError where there are too many pieces."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------- pieces
    def object(self, piece: Object) -> Object | None:
        """The piece; None where no object belongs to it."""
        low = max(piece.least, len(piece.required))
        if (piece.most is not None and low > piece.most) or (low and self.vacant(piece.names)):
            return None
        if any(self.impossible(piece.of(name)) for name in piece.required):
            return None
        if any(self.impossible(schema) or self.vacant(piece.names & names) for names, schema in piece.exists):
            return None
        return piece

    def array(self, piece: Array) -> Array | None:
        """The piece with the limits that its items imply; None where no array belongs to it."""
        most = piece.most
        for place in range(len(piece.prefix) + 1):
            if (most is None or place < most) and self.impossible(piece.of(place)):
                most = place
        contains = []
        for part in piece.contains:
            room = None if most is None else max(most - part.start, 0)
            if part.least and (self.impossible(part.schema) or (room is not None and part.least > room)):
                return None
            if part.most is not None and part.least > part.most:
                return None
            contains.append(part)
        if most is not None and piece.least > most:
            return None
        unique = piece.unique if most is None or most > 1 else None
        prefix = piece.prefix if most is None else piece.prefix[:most]
        rest = NEVER if most is not None and len(piece.prefix) >= most else piece.rest
        return replace(piece, prefix=prefix, rest=rest, most=most, unique=unique, contains=tuple(contains))

    def without_object(self, piece: Object) -> Iterator[Object]:
        """The complement of a piece."""
        for name in piece.required:
            yield Object((PropertyGroup(((name, NEVER),), evaluates=False),))
        if piece.least:
            yield Object(most=piece.least - 1)
        if piece.most is not None:
            yield Object(least=piece.most + 1)
        if piece.names != strings.EVERY:
            yield Object(exists=((~piece.names, ()),))
        for group in piece.groups:
            others = strings.EVERY
            for name, schema in group.names:
                others &= ~Strings(frozenset({name}))
                if schema:
                    yield Object((PropertyGroup(((name, self.opposite(schema)),), evaluates=False),), (name,))
            for pattern, schema in group.patterns:
                others &= ~pattern
                if schema:
                    yield Object(exists=((pattern, self.opposite(schema)),))
            if group.additional:
                yield Object(exists=((others, self.opposite(group.additional)),))
        for names, schema in piece.exists:
            yield Object((PropertyGroup((), ((names, self.opposite(schema)),), evaluates=False),))

    def without_array(self, piece: Array) -> Iterator[Array]:
        """The complement of a piece."""
        if piece.unique is not None:
            raise refuse(piece.unique, "'uniqueItems' is supported neither below 'not' nor where alternatives overlap")
        for place, schema in enumerate(piece.prefix):
            if schema:
                yield Array(((),) * place + (self.opposite(schema),), least=place + 1)
        if piece.rest:
            yield Array(contains=(Contains(self.opposite(piece.rest), len(piece.prefix)),))
        if piece.least:
            yield Array(most=piece.least - 1)
        if piece.most is not None:
            yield Array(least=piece.most + 1)
        for part in piece.contains:
            if part.least == 1:
                yield Array(((),) * part.start, self.opposite(part.schema))
            elif part.least:
                yield Array(contains=(replace(part, least=0, most=part.least - 1, evaluates=False),))
            if part.most is not None:
                yield Array(contains=(replace(part, least=part.most + 1, most=None, evaluates=False),))

    def _arrays(self, one: tuple[Array, ...], two: tuple[Array, ...]) -> tuple[Array, ...]:
        self.limit(len(one) * len(two))
        found = (self.array(a & b) for a in one for b in two)
        return tuple(dict.fromkeys(a for a in found if a is not None))

    def _objects(self, one: tuple[Object, ...], two: tuple[Object, ...]) -> tuple[Object, ...]:
        self.limit(len(one) * len(two))
        found = (self.object(a & b) for a in one for b in two)
        return tuple(dict.fromkeys(a for a in found if a is not None))

    # ------------------------------------------------------------------------------------------ sets
    def meet(self, one: Values, two: Values) -> Values:
        """Values of both sets."""
        if one is EVERYTHING or two is EVERYTHING:
            return two if one is EVERYTHING else one
        return Values(
            one.null and two.null,
            one.booleans & two.booleans,
            one.numbers if one.numbers is two.numbers else one.numbers & two.numbers,
            one.strings & two.strings,
            self._arrays(one.arrays, two.arrays),
            self._objects(one.objects, two.objects),
        )

    def join(self, one: Values, two: Values) -> Values:
        """Values of either set."""
        return Values(
            one.null or two.null,
            one.booleans | two.booleans,
            one.numbers if one.numbers is two.numbers else one.numbers | two.numbers,
            one.strings | two.strings,
            tuple(dict.fromkeys(one.arrays + two.arrays)),
            tuple(dict.fromkeys(one.objects + two.objects)),
        )

    def complement(self, of: Values) -> Values:
        """Values that are not of the set."""
        arrays: tuple[Array, ...] = (Array(),)
        for array in of.arrays:
            arrays = self._arrays(arrays, tuple(self.without_array(array)))
        objects: tuple[Object, ...] = (Object(),)
        for piece in of.objects:
            objects = self._objects(objects, tuple(self.without_object(piece)))
        booleans = frozenset({False, True}) - of.booleans
        return Values(not of.null, booleans, ~of.numbers, ~of.strings, arrays, objects)

    def exactly_one(self, sets: list[Values]) -> Values:
        """Values of exactly one set. Pieces that have no value in common need no complement."""
        once = some = NOTHING
        for place, one in enumerate(sets):
            others = sets[:place] + sets[place + 1 :]
            arrays: list[Array] = []
            for array in one.arrays:
                rest: tuple[Array, ...] = (array,)
                for other in (a for v in others for a in v.arrays):
                    if rest and self._arrays((array,), (other,)):
                        rest = self._arrays(rest, tuple(self.without_array(other)))
                arrays += rest
            objects: list[Object] = []
            for piece in one.objects:
                left: tuple[Object, ...] = (piece,)
                for thing in (o for v in others for o in v.objects):
                    if left and self._objects((piece,), (thing,)):
                        left = self._objects(left, tuple(self.without_object(thing)))
                objects += left
            once = Values(
                (once.null and not one.null) or (one.null and not some.null),
                (once.booleans - one.booleans) | (one.booleans - some.booleans),
                (once.numbers & ~one.numbers) | (one.numbers & ~some.numbers),
                (once.strings & ~one.strings) | (one.strings & ~some.strings),
                tuple(dict.fromkeys((*once.arrays, *arrays))),
                tuple(dict.fromkeys((*once.objects, *objects))),
            )
            some = self.join(some, replace(one, arrays=(), objects=()))
        return once

    def no_value(self, of: Values) -> bool:
        """Whether no value belongs to a set, as far as is known."""
        if of.null or of.booleans or of.arrays or of.objects:
            return False
        return self.vacant(of.strings) and of.numbers.empty()
