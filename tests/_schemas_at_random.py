"""Random JSON values and random schemas over few names and numbers, so that values often satisfy schemas."""

from __future__ import annotations

import random
from typing import Any

TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]
STRINGS = ["a", "b", "ab", "", "aa", "ba", "1", "é"]
NUMBERS = [0, 1, 2, 3, -1, 1.5, 2.5, 10, 4, 0.25, -2.5, 6]
PATTERNS = ["^a", "b$", "^a*$", "^[ab]$", "a", "^.b", "^(a|b)*$"]


def value(rng: random.Random, depth: int = 2) -> Any:
    """A random value."""
    kind = rng.random()
    if kind < 0.2:
        return rng.choice(STRINGS)
    if kind < 0.4:
        return rng.choice(NUMBERS)
    if kind < 0.5 or not depth:
        return rng.choice([None, True, False])
    size = rng.choice([0, 1, 1, 2, 2, 3])
    if kind < 0.75:
        return [value(rng, depth - 1) for _ in range(size)]
    return {rng.choice(["a", "b", "ab", "c"]): value(rng, depth - 1) for _ in range(size)}


def schema(rng: random.Random, depth: int) -> Any:
    """A random schema that may refer to `#/$defs/x` and `#/$defs/y`."""
    if rng.random() < 0.06:
        return rng.random() < 0.7
    made: dict[str, Any] = {}
    if rng.random() < 0.5:
        made["type"] = rng.choice(TYPES) if rng.random() < 0.7 else rng.sample(TYPES, 2)
    parts = {"number": _number, "string": _string, "array": _array, "object": _object, "logic": _logic, "enum": _enum}
    kinds = ["number", "string", "array", "object", "object", "logic", "logic", "enum"]
    for kind in rng.sample(kinds, rng.choice([0, 1, 1, 2, 2, 3])):
        if depth or kind not in ("array", "object", "logic"):
            made |= {k: v for k, (chance, v) in parts[kind](rng, max(depth - 1, 0)).items() if rng.random() < chance}
    return made


def document(seed: int, depth: int = 2) -> Any:
    """A random schema with definitions, one of which is recursive."""
    rng = random.Random(seed)
    made = schema(rng, depth)
    if isinstance(made, dict):
        inner = {"a": {"$ref": "#/$defs/y"}, "b": {"$ref": "#/$defs/x"}}
        tree = {"type": ["array", "null", "object"], "items": {"$ref": "#/$defs/y"}, "properties": inner}
        made["$defs"] = {"x": {"type": rng.choice(TYPES), **_plain(rng)}, "y": tree}
    return made


Parts = dict[str, tuple[float, Any]]


def _plain(rng: random.Random) -> dict[str, Any]:
    return {} if rng.random() < 0.5 else {"enum": [value(rng, 1) for _ in range(3)]}


def _number(rng: random.Random, depth: int) -> Parts:
    bounds = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    made: Parts = {k: (0.3, rng.choice([0, 1, 2, 3, 1.5, -1, 5])) for k in bounds}
    return {**made, "multipleOf": (0.3, rng.choice([1, 2, 0.5, 3, 1.5]))}


def _string(rng: random.Random, depth: int) -> Parts:
    return {
        "minLength": (0.5, rng.choice([0, 1, 2])),
        "maxLength": (0.5, rng.choice([1, 2, 3])),
        "pattern": (0.4, rng.choice(PATTERNS)),
    }


def _array(rng: random.Random, depth: int) -> Parts:
    return {
        "items": (0.5, schema(rng, depth)),
        "prefixItems": (0.4, [schema(rng, depth) for _ in range(rng.choice([1, 2]))]),
        "minItems": (0.4, rng.choice([0, 1, 2])),
        "maxItems": (0.4, rng.choice([0, 1, 2, 3])),
        "contains": (0.3, schema(rng, depth)),
        "minContains": (0.15, rng.choice([0, 1, 2])),
        "maxContains": (0.15, rng.choice([0, 1, 2])),
        "uniqueItems": (0.1, True),
        "unevaluatedItems": (0.15, schema(rng, 0)),
    }


def _object(rng: random.Random, depth: int) -> Parts:
    names = rng.sample(["a", "b", "ab", "c"], rng.choice([1, 2]))
    return {
        "properties": (0.6, {n: schema(rng, depth) for n in names}),
        "required": (0.4, rng.sample(["a", "b", "c"], rng.choice([1, 1, 2]))),
        "additionalProperties": (0.35, schema(rng, depth)),
        "patternProperties": (0.3, {rng.choice(PATTERNS): schema(rng, depth)}),
        "minProperties": (0.2, rng.choice([0, 1, 2])),
        "maxProperties": (0.2, rng.choice([0, 1, 2])),
        "propertyNames": (0.15, schema(rng, 0)),
        "dependentRequired": (0.15, {"a": ["b"]}),
        "dependentSchemas": (0.15, {"b": schema(rng, depth)}),
        "unevaluatedProperties": (0.2, schema(rng, 0)),
    }


def _logic(rng: random.Random, depth: int) -> Parts:
    kind = rng.choice(["allOf", "anyOf", "oneOf", "oneOf", "not", "if", "$ref"])
    if kind == "$ref":
        return {"$ref": (1, rng.choice(["#/$defs/x", "#/$defs/y"]))}
    if kind == "not":
        return {"not": (1, schema(rng, depth))}
    if kind == "if":
        return {k: (1 if k == "if" else 0.7, schema(rng, depth)) for k in ("if", "then", "else")}
    return {kind: (1, [schema(rng, depth) for _ in range(rng.choice([1, 2, 2, 3]))])}


def _enum(rng: random.Random, depth: int) -> Parts:
    return {"enum": (0.5, [value(rng, 1) for _ in range(3)]), "const": (0.3, value(rng, 1))}
