"""What each keyword of JSON Schema means, as a set of values."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from itertools import combinations
from typing import Any

from llmanac.core.errors import SpecError, nearest, shown
from llmanac.generate.constrain import _json_formats as formats
from llmanac.generate.constrain import _json_numbers as numbers
from llmanac.generate.constrain import _json_strings as strings
from llmanac.generate.constrain._json_document import escaped, refuse
from llmanac.generate.constrain._json_numbers import Numbers
from llmanac.generate.constrain._json_schemas import Handler, Schemas
from llmanac.generate.constrain._json_strings import Strings
from llmanac.generate.constrain._json_values import (
    EVERYTHING,
    NEVER,
    NOTHING,
    Array,
    Conjunction,
    Contains,
    Object,
    PropertyGroup,
    Values,
)

MAX_BRANCHES = 6  # of anyOf where unevaluatedItems or unevaluatedProperties is in force

TYPES = {
    "null": replace(NOTHING, null=True),
    "boolean": replace(NOTHING, booleans=frozenset({False, True})),
    "number": replace(NOTHING, numbers=numbers.EVERY),
    "integer": replace(NOTHING, numbers=numbers.INTEGERS),
    "string": replace(NOTHING, strings=strings.EVERY),
    "array": replace(NOTHING, arrays=(Array(),)),
    "object": replace(NOTHING, objects=(Object(),)),
}


def _ref(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    result = EVERYTHING
    for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
        if self.document.has(keyword, schema):
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
    """Exactly this value. Its parts are `enum`, which every draft has; draft 4 has no `const`."""
    if value is None:
        return TYPES["null"]
    if isinstance(value, bool):
        return replace(NOTHING, booleans=frozenset({value}))
    if isinstance(value, str):
        return replace(NOTHING, strings=Strings(frozenset({value})))
    if isinstance(value, Mapping):
        names = tuple((k, ((True, self.document.add({"enum": [v]})),)) for k, v in value.items())
        group = PropertyGroup(names, additional=NEVER, evaluates=False)
        return replace(NOTHING, objects=(Object((group,), tuple(value)),))
    if isinstance(value, list | tuple):
        prefix = tuple(((True, self.document.add({"enum": [v]})),) for v in value)
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
            numbers.automaton(result & numbers.INTEGERS if schema.get("type") == "integer" else result)
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
    if name is not None and not isinstance(name, str):
        raise refuse(f"{pointer}/format", f"{shown(name)} is no string")
    if name in formats.FORMATS:  # any other is an annotation
        result &= formats.strings(name, short=result != strings.EVERY)
    if self.document.draft <= 7:  # annotations since 2019-09
        if schema.get("contentEncoding") == "base64":
            result &= formats.BASE64
        elif schema.get("contentEncoding") in ("base16", "base32", "quoted-printable"):
            raise refuse(f"{pointer}/contentEncoding", f"{shown(schema['contentEncoding'])} is not supported")
        if str(schema.get("contentMediaType")).partition(";")[0] == "application/json":
            raise refuse(f"{pointer}/contentMediaType", "'application/json' is not supported in drafts up to 7")
    return replace(EVERYTHING, strings=self.timed(result.counted, result))


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
    distinct = f"{pointer}/uniqueItems" if unique else None
    found = self.array(Array(prefix, rest, least or 0, most, contains, distinct, seen))
    return replace(EVERYTHING, arrays=() if found is None else (found,))


def _object(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    properties, matching = (self.table(pointer, schema, k) for k in ("properties", "patternProperties"))
    names = tuple((name, self.of(self.child(pointer, "properties", name))) for name in properties)
    at = f"{pointer}/patternProperties"
    patterns = tuple(
        (self.pattern(f"{at}/{escaped(p)}", p), self.of(self.child(pointer, "patternProperties", p))) for p in matching
    )
    rest = self.of(self.child(pointer, "additionalProperties")) if "additionalProperties" in schema else None
    groups = (PropertyGroup(names, patterns, rest),) if names or patterns or rest is not None else ()
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
            absent = replace(EVERYTHING, objects=(Object((PropertyGroup(((name, NEVER),), evaluates=False),)),))
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
    return sets[0] if len(sets) == 1 else self.exactly_one(sets)


def _not(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    return self.complement(self.values(self.child(pointer, "not")))


def _if(self: Schemas, pointer: str, schema: Mapping[str, Any], evaluated: bool) -> Values:
    if not evaluated and "then" not in schema and "else" not in schema:
        return EVERYTHING
    place = self.child(pointer, "if")
    sides = []
    for keyword, condition in (("then", self.values(place, evaluated)), ("else", self.complement(self.values(place)))):
        if keyword in schema:
            condition = self.meet(condition, self.values(self.child(pointer, keyword), evaluated))
        sides.append(condition)
    return self.join(*sides)


HANDLERS: dict[str, Handler] = {
    "type": _type,
    "const": _const,
    "enum": _enum,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), _numbers),
    **dict.fromkeys(
        ("minLength", "maxLength", "pattern", "format", "contentEncoding", "contentMediaType"), _strings
    ),
    **dict.fromkeys(
        ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"), _array
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
