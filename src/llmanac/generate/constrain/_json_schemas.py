"""What each keyword of JSON Schema means, as a set of values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import combinations
from typing import Any

from llmanac.core.errors import LlmanacError, SpecError, nearest, shown
from llmanac.generate.constrain import _json_formats as formats
from llmanac.generate.constrain import _json_numbers as numbers
from llmanac.generate.constrain import _json_strings as strings
from llmanac.generate.constrain._json_document import ANNOTATIONS, TRUE, Document, escaped, refuse
from llmanac.generate.constrain._json_numbers import Numbers
from llmanac.generate.constrain._json_strings import Strings
from llmanac.generate.constrain._json_values import (
    EVERYTHING,
    NEVER,
    NOTHING,
    Algebra,
    Array,
    Conjunction,
    Contains,
    Group,
    Object,
    Values,
    both,
)
from llmanac.generate.constrain.regex import search_regex

MAX_PIECES = 512  # alternatives of arrays or of objects
MAX_BRANCHES = 6  # of anyOf where unevaluatedItems or unevaluatedProperties is in force
MAX_COUNT = 100_000  # minLength, maxItems and the like
MAX_LOOKAHEAD = 8  # levels of required properties and items that are searched for one that no value satisfies

TYPES = {
    "null": replace(NOTHING, null=True),
    "boolean": replace(NOTHING, booleans=frozenset({False, True})),
    "number": replace(NOTHING, numbers=numbers.EVERY),
    "integer": replace(NOTHING, numbers=numbers.INTEGERS),
    "string": replace(NOTHING, strings=strings.EVERY),
    "array": replace(NOTHING, arrays=(Array(),)),
    "object": replace(NOTHING, objects=(Object(),)),
}
Handler = Callable[["Schemas", str, Mapping[str, Any], bool], Values]


class _Busy(Exception):
    """A schema is needed that is being read."""


@dataclass(frozen=True)
class _All:
    """A conjunction as a schema."""

    items: Conjunction


class Schemas(Algebra):
    """The sets of values of a document's schemas.

    Raises:
        SpecError: a keyword that is not supported or not well-formed, by its pointer.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.known: dict[tuple[str, bool], Values] = {}
        self.conjunctions: dict[Conjunction, Values] = {}
        self.hopeless: dict[Conjunction, bool] = {}
        self.opposites: dict[Conjunction, Conjunction] = {}
        self.open: dict[tuple[str, bool], int] = {}  # schemas being read, and the depth of the look-ahead then
        self.ahead = 0
        self.at = ""

    # --------------------------------------------------------------------------------------- algebra
    def limit(self, pieces: int) -> None:
        if pieces > MAX_PIECES:
            raise refuse(self.at, f"more than {MAX_PIECES} alternatives of arrays or objects; make it simpler")

    def impossible(self, schema: Conjunction) -> bool:
        if not schema or schema == NEVER:
            return schema == NEVER
        if schema not in self.hopeless:
            if self.ahead >= MAX_LOOKAHEAD:
                return False
            self.ahead += 1
            here = self.at
            try:
                result = self.no_value(self.conjunction(schema))
            except _Busy:
                return False
            finally:
                self.ahead -= 1
                self.at = here
            self.hopeless[schema] = result
        return self.hopeless[schema]

    def opposite(self, schema: Conjunction) -> Conjunction:
        if len(schema) == 1:
            return self.of(schema[0][1], not schema[0][0])
        if schema not in self.opposites:
            self.opposites[schema] = ((False, self.document.add(_All(schema))),) if schema else NEVER
        return self.opposites[schema]

    def of(self, pointer: str, sign: bool = True) -> Conjunction:
        """A schema as a conjunction."""
        schema = self.document[pointer]
        if isinstance(schema, bool):
            return () if schema == sign else NEVER
        if isinstance(schema, Mapping) and not schema:
            return () if sign else NEVER
        return ((sign, pointer),)

    def conjunction(self, schema: Conjunction) -> Values:
        """The values that satisfy a conjunction."""
        if schema not in self.conjunctions:
            result = EVERYTHING
            for sign, pointer in schema:
                values = self.values(pointer)
                self.at = pointer if pointer.startswith("/") else self.at
                result = self.meet(result, values if sign else self.negated(values))
            self.conjunctions[schema] = result
        return self.conjunctions[schema]

    def negated(self, values: Values) -> Values:
        """The complement of a set; its errors name the place."""
        try:
            return self.complement(values)
        except ValueError as error:
            raise error if isinstance(error, SpecError) else refuse(self.at, str(error)) from None

    # --------------------------------------------------------------------------------------- schemas
    def values(self, pointer: str, evaluated: bool = False) -> Values:
        """The values that satisfy a schema.

        Args:
            pointer: of the schema.
            evaluated: whether every way to satisfy it is followed, for what `unevaluatedProperties` leaves.
        """
        key = (pointer, evaluated)
        if key in self.known:
            return self.known[key]
        if key in self.open:
            if self.ahead > self.open[key]:
                raise _Busy
            raise refuse(pointer, "a reference leads back to its own schema without a property or item between")
        self.open[key] = self.ahead
        try:
            before, self.at = self.at, pointer if pointer.startswith("/") or not pointer else self.at
            self.known[key] = self._values(pointer, evaluated)
            self.at = before
        finally:
            del self.open[key]
        return self.known[key]

    def _values(self, pointer: str, evaluated: bool) -> Values:
        schema = self.document[pointer]
        if isinstance(schema, _All):
            return self.conjunction(schema.items)
        schema = self.document.checked(pointer)
        if isinstance(schema, bool):
            return EVERYTHING if schema else NOTHING
        has = self.document.has
        if "$ref" in schema and self.document.draft <= 7:
            return _ref(self, pointer, schema, evaluated)
        rest = [k for k in ("unevaluatedItems", "unevaluatedProperties") if has(k, schema)]
        result, done = EVERYTHING, set[Handler]()
        for keyword in schema:
            handler = HANDLERS.get(keyword)
            if handler and handler not in done and has(keyword, schema):
                done.add(handler)
                result = self.meet(result, handler(self, pointer, schema, evaluated or bool(rest)))
        for keyword in rest:
            schema_of_rest = self.of(self.child(pointer, keyword))
            if keyword == "unevaluatedItems":
                arrays = [self.array(self._other_items(a, schema_of_rest)) for a in result.arrays]
                result = replace(result, arrays=tuple(a for a in arrays if a is not None))
            else:
                objects = [self.object(_other_properties(o, schema_of_rest)) for o in result.objects]
                result = replace(result, objects=tuple(o for o in objects if o is not None))
        return result

    def _other_items(self, piece: Array, schema: Conjunction) -> Array:
        """With what unevaluatedItems says; items that `contains` found are evaluated, from 2020-12 on."""
        if piece.evaluated is None:
            return piece
        missing = self.opposite(schema)
        for part in piece.contains:
            if part.evaluates:
                missing = both(missing, self.opposite(part.schema))
        rest = self.opposite(missing) if piece.contains else schema
        return piece & Array(((),) * piece.evaluated, rest, evaluated=None)

    def child(self, pointer: str, *parts: object) -> str:
        """The pointer of a subschema, checked to be one."""
        place = pointer + "".join(f"/{escaped(str(p))}" for p in parts)
        if pointer.startswith("!"):  # a schema that the document does not hold
            value = self.document[pointer]
            for part in parts:
                value = value[part]
            place = self.document.add(value)
        self.document.checked(place)
        return place

    # ------------------------------------------------------------------------------ values of keywords
    def count(self, pointer: str, schema: Mapping[str, Any], keyword: str) -> int | None:
        """A number of characters, items or properties; None where it is not given."""
        if not self.document.has(keyword, schema):
            return None
        value = schema[keyword]
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
        if not whole or not 0 <= value <= MAX_COUNT:
            raise refuse(f"{pointer}/{keyword}", f"{shown(value)} is no whole number from 0 to {MAX_COUNT:,}")
        return int(value)

    def number(self, pointer: str, schema: Mapping[str, Any], keyword: str) -> Decimal:
        """The value of a keyword."""
        try:
            return numbers.decimal(schema[keyword])
        except ValueError as error:
            raise refuse(f"{pointer}/{keyword}", f"{shown(schema[keyword])} is {error}") from None

    def names(self, pointer: str, value: object) -> tuple[str, ...]:
        """A list of property names."""
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise refuse(pointer, f"{shown(value)} is no list of names")
        return tuple(dict.fromkeys(value))

    def list(self, pointer: str, schema: Mapping[str, Any], keyword: str) -> list[str]:
        """The pointers of the schemas of a list."""
        value = schema[keyword]
        if not isinstance(value, list | tuple) or not value:
            raise refuse(f"{pointer}/{keyword}", f"{shown(value)} is no list of schemas")
        return [self.child(pointer, keyword, n) for n in range(len(value))]

    def table(self, pointer: str, schema: Mapping[str, Any], keyword: str) -> Mapping[str, Any]:
        """An object of a keyword; empty where it is not given."""
        value = schema.get(keyword, {})
        if not isinstance(value, Mapping):
            raise refuse(f"{pointer}/{keyword}", f"{shown(value)} is no object")
        return value

    def pattern(self, pointer: str, text: object) -> Strings:
        """The strings that a pattern is found in."""
        if not isinstance(text, str):
            raise refuse(pointer, f"{shown(text)} is no string")
        try:
            return Strings.of(search_regex(text))
        except (LlmanacError, ValueError) as error:
            raise refuse(pointer, f"the pattern {shown(text)} is not supported: {error}") from None


def _other_properties(piece: Object, schema: Conjunction) -> Object:
    """With what unevaluatedProperties says."""
    seen = [group for group in piece.groups if group.evaluates]
    if any(group.additional is not None for group in seen):
        return piece
    names = tuple((name, ()) for group in seen for name, _ in group.names)
    patterns = tuple((pattern, ()) for group in seen for pattern, _ in group.patterns)
    return piece & Object((Group(names, patterns, schema),))


# -------------------------------------------------------------------------------------------- handlers
def _ref(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    result = EVERYTHING
    for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
        if keyword == "$ref" and keyword in schema or self.document.has(keyword, schema) and keyword in schema:
            target = self.document.target(pointer, keyword)
            self.document.checked(target)
            result = self.meet(result, self.values(target, evaluated))
    return result


def _type(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    given = schema["type"]
    result = NOTHING
    for name in given if isinstance(given, list | tuple) else [given]:
        if not isinstance(name, str) or name not in TYPES:
            raise refuse(f"{pointer}/type", f"{shown(name)} is no type{nearest(str(name), TYPES)}")
        result = self.join(result, TYPES[name])
    return result


def constant(self: Schemas, pointer: str, value: object) -> Values:
    """Exactly this value."""
    if value is None:
        return TYPES["null"]
    if isinstance(value, bool):
        return replace(NOTHING, booleans=frozenset({value}))
    if isinstance(value, str):
        return replace(NOTHING, strings=Strings(frozenset({value})))
    if isinstance(value, Mapping):
        names = tuple((k, ((True, self.document.add({"const": v})),)) for k, v in value.items())
        group = Group(names, additional=NEVER, evaluates=False)
        return replace(NOTHING, objects=(Object((group,), tuple(value)),))
    if isinstance(value, list | tuple):
        prefix = tuple(((True, self.document.add({"const": v})),) for v in value)
        return replace(NOTHING, arrays=(Array(prefix, NEVER, len(value), len(value)),))
    try:
        return replace(NOTHING, numbers=numbers.listed([numbers.decimal(value)]))
    except ValueError as error:
        raise refuse(pointer, f"{shown(value)} is {error}") from None


def _const(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    return constant(self, f"{pointer}/const", schema["const"])


def _enum(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    given = schema["enum"]
    if not isinstance(given, list | tuple):
        raise refuse(f"{pointer}/enum", f"{shown(given)} is no list")
    words = frozenset(v for v in given if isinstance(v, str))
    result = replace(NOTHING, strings=Strings(words))
    values = [v for v in given if isinstance(v, int | float) and not isinstance(v, bool)]
    if values:
        try:
            result = replace(result, numbers=numbers.listed(map(numbers.decimal, values)))
        except ValueError as error:
            raise refuse(f"{pointer}/enum", f"one of its numbers is {error}") from None
    for place, value in enumerate(given):
        if value is None or isinstance(value, bool | Mapping | list | tuple):
            result = self.join(result, constant(self, f"{pointer}/enum/{place}", value))
            self.limit(len(result.objects) + len(result.arrays))
    return result


def _numbers(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    result = numbers.EVERY
    for keyword, other in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        low = keyword == "minimum"

        def bounded(of: Numbers, limit: Decimal, strict: bool, low: bool = low) -> Numbers:
            return of & (
                ~numbers.at_most(limit, inclusive=strict) if low else numbers.at_most(limit, inclusive=not strict)
            )

        strict = schema.get(other)
        if keyword in schema:
            result = bounded(result, self.number(pointer, schema, keyword), strict is True)
        if other in schema and not isinstance(strict, bool):
            result = bounded(result, self.number(pointer, schema, other), True)
    if "multipleOf" in schema:
        divisor = self.number(pointer, schema, "multipleOf")
        if divisor <= 0:
            raise refuse(f"{pointer}/multipleOf", f"{shown(schema['multipleOf'])} is not greater than 0")
        result &= numbers.multiples(divisor)
    if result is not numbers.EVERY:
        try:
            numbers.automaton(result)
        except SpecError as error:
            raise refuse(pointer, str(error).removeprefix("schema: ")) from None
    return replace(EVERYTHING, numbers=result)


def _strings(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    least = self.count(pointer, schema, "minLength") or 0
    most = self.count(pointer, schema, "maxLength")
    result = strings.NONE if most is not None and least > most else strings.lengths(least, most)
    if "pattern" in schema:
        result &= self.pattern(f"{pointer}/pattern", schema["pattern"])
    name = schema.get("format")
    if name is not None and name not in formats.ANNOTATIONS:
        if not isinstance(name, str) or name not in formats.FORMATS:
            hint = nearest(str(name), formats.FORMATS)
            raise refuse(f"{pointer}/format", f"the format {shown(name)} is not supported{hint}")
        result &= formats.strings(name)
    return replace(EVERYTHING, strings=result)


def _array(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    has = self.document.has
    prefix: tuple[Conjunction, ...] = ()
    rest: Conjunction = ()
    seen: int | None = 0
    items = schema.get("items")
    if has("prefixItems", schema):
        prefix = tuple(self.of(p) for p in self.list(pointer, schema, "prefixItems"))
        seen = len(prefix)
    if isinstance(items, list | tuple):
        if prefix:
            raise refuse(f"{pointer}/items", "a list beside 'prefixItems'; give one schema")
        prefix = tuple(self.of(self.child(pointer, "items", n)) for n in range(len(items)))
        seen = len(prefix)
        if "additionalItems" in schema:
            rest, seen = self.of(self.child(pointer, "additionalItems")), None
    elif "items" in schema:
        rest, seen = self.of(self.child(pointer, "items")), None
    contains: tuple[Contains, ...] = ()
    if has("contains", schema):
        low, high = (self.count(pointer, schema, k) for k in ("minContains", "maxContains"))
        part = self.of(self.child(pointer, "contains"))
        contains = (Contains(part, 0, 1 if low is None else low, high, self.document.draft >= 2020),)
    least, most = (self.count(pointer, schema, k) for k in ("minItems", "maxItems"))
    unique = schema.get("uniqueItems", False)
    if not isinstance(unique, bool):
        raise refuse(f"{pointer}/uniqueItems", f"{shown(unique)} is neither true nor false")
    found = self.array(Array(prefix, rest, least or 0, most, contains, unique, seen))
    return replace(EVERYTHING, arrays=() if found is None else (found,))


def _object(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    properties, matching = (self.table(pointer, schema, k) for k in ("properties", "patternProperties"))
    names = tuple((name, self.of(self.child(pointer, "properties", name))) for name in properties)
    patterns = tuple(
        (self.pattern(f"{pointer}/patternProperties/{escaped(p)}", p), self.of(self.child(pointer, "patternProperties", p)))
        for p in matching
    )
    rest = self.of(self.child(pointer, "additionalProperties")) if "additionalProperties" in schema else None
    groups = (Group(names, patterns, rest),) if names or patterns or rest is not None else ()
    required = schema.get("required", ())
    if isinstance(required, bool) and self.document.draft <= 7:  # as draft 3 had it
        raise refuse(f"{pointer}/required", "true and false are of draft 3; list the names in the object's schema")
    least, most = (self.count(pointer, schema, k) for k in ("minProperties", "maxProperties"))
    allowed = strings.EVERY
    if self.document.has("propertyNames", schema):
        allowed = self.conjunction(self.of(self.child(pointer, "propertyNames"))).strings
    required = self.names(f"{pointer}/required", required)
    found = self.object(Object(groups, required, least or 0, most, allowed))
    return replace(EVERYTHING, objects=() if found is None else (found,))


def _dependent(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    result = EVERYTHING
    for keyword in ("dependencies", "dependentRequired", "dependentSchemas"):
        if not self.document.has(keyword, schema):
            continue
        for name, needs in self.table(pointer, schema, keyword).items():
            absent = replace(EVERYTHING, objects=(Object((Group(((name, NEVER),), evaluates=False),)),))
            if keyword == "dependentRequired" or (keyword == "dependencies" and isinstance(needs, list | tuple)):
                more = self.names(f"{pointer}/{keyword}/{escaped(name)}", needs)
                present = replace(NOTHING, objects=(Object((), (name, *more)),))
            else:
                there = replace(NOTHING, objects=(Object((), (name,)),))
                present = self.meet(there, self.values(self.child(pointer, keyword, name), evaluated))
            result = self.meet(result, self.join(absent, present))
    return result


def _all_of(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    result = EVERYTHING
    for place in self.list(pointer, schema, "allOf"):
        result = self.meet(result, self.values(place, evaluated))
    return result


def _any_of(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    sets = [self.values(place, evaluated) for place in self.list(pointer, schema, "anyOf")]
    result = NOTHING
    for one in sets:
        result = self.join(result, one)
    if evaluated and len(sets) > 1:  # more branches at once evaluate more
        if len(sets) > MAX_BRANCHES:
            raise refuse(f"{pointer}/anyOf", f"more than {MAX_BRANCHES} schemas beside an 'unevaluated' keyword")
        for size in range(2, len(sets) + 1):
            for chosen in combinations(sets, size):
                values = EVERYTHING
                for one in chosen:
                    values = self.meet(values, one)
                result = self.join(result, values)
    self.limit(max(len(result.arrays), len(result.objects)))
    return result


def _one_of(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    places = self.list(pointer, schema, "oneOf")
    self.limit(len(places))
    sets = [self.values(place, evaluated) for place in places]
    try:
        return sets[0] if len(sets) == 1 else self.exactly_one(sets)
    except ValueError as error:
        raise error if isinstance(error, SpecError) else refuse(f"{pointer}/oneOf", str(error)) from None


def _not(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    return self.negated(self.values(self.child(pointer, "not")))


def _if(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    if not evaluated and "then" not in schema and "else" not in schema:
        return EVERYTHING
    place = self.child(pointer, "if")
    sides = []
    for keyword, condition in (
        ("then", self.values(place, evaluated)),
        ("else", self.negated(self.values(place))),
    ):
        if keyword in schema:
            condition = self.meet(condition, self.values(self.child(pointer, keyword), evaluated))
        sides.append(condition)
    return self.join(*sides)


HANDLERS: dict[str, Handler] = {
    "type": _type,
    "const": _const,
    "enum": _enum,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), _numbers),
    **dict.fromkeys(("minLength", "maxLength", "pattern", "format"), _strings),
    **dict.fromkeys(
        ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"),
        _array,
    ),
    **dict.fromkeys(
        (
            "properties", "patternProperties", "additionalProperties", "required", "minProperties", "maxProperties",
            "propertyNames",
        ),
        _object,
    ),
    **dict.fromkeys(("dependencies", "dependentRequired", "dependentSchemas"), _dependent),
    **dict.fromkeys(("$ref", "$dynamicRef", "$recursiveRef"), _ref),
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
}  # fmt: skip
