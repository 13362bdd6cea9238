"""The schemas of a document as sets of values: conjunctions, references, and what `unevaluated` keywords leave."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, TypeVar

from llmanac.core.errors import LlmanacError, SpecError, shown
from llmanac.generate.constrain import _json_numbers as numbers
from llmanac.generate.constrain import _patience
from llmanac.generate.constrain._json_document import ANNOTATIONS, SchemaDocument, escaped, refuse
from llmanac.generate.constrain._json_strings import Strings
from llmanac.generate.constrain._json_values import (
    EVERYTHING,
    NEVER,
    NOTHING,
    Algebra,
    Array,
    Conjunction,
    Object,
    PropertyGroup,
    Values,
    both,
)
from llmanac.generate.constrain.regex import search_regex

MAX_PIECES = 512  # alternatives of arrays or of objects
MAX_WORK = 200_000  # pieces that are combined for one document
MAX_SECONDS = 5.0  # for simplifications; without them a grammar is larger or has fewer texts
MAX_LEAST = 8192  # minLength, minItems and the like
MAX_LOOKAHEAD = 8  # levels of required properties and items that are searched for one that no value satisfies

Result = TypeVar("Result")
Handler = Callable[["Schemas", str, Mapping[str, Any], bool], Values]


class _Busy(Exception):
    """A schema is needed that is being read."""


@dataclass(frozen=True)
class _All:
    """A conjunction as a schema."""

    items: Conjunction


class Schemas(Algebra):
    """The sets of values of a document's schemas.

    Args:
        document: what the pointers lead into.
        handlers: what each keyword means; keywords that are read together share one.

    Raises:
        SpecError: a keyword that is not supported or not well-formed, by its pointer.
    """

    def __init__(self, document: SchemaDocument, handlers: Mapping[str, Handler]) -> None:
        self.document = document
        self.known: dict[tuple[str, bool], Values] = {}
        self.conjunctions: dict[Conjunction, Values] = {}
        self.hopeless: dict[Conjunction, bool] = {}
        self.opposites: dict[Conjunction, Conjunction] = {}
        self.open: dict[tuple[str, bool], int] = {}  # schemas being read, and the depth of the look-ahead then
        self.ahead = 0
        self.at = ""
        self.work = 0
        self.seconds = 0.0
        self.same: dict[str, str] = {}
        self.handlers = handlers

    # --------------------------------------------------------------------------------------- algebra
    def timed(self, work: Callable[[], Result], otherwise: Result) -> Result:
        """What some work on automata gives; after MAX_SECONDS of such work for a document, what is said otherwise."""
        if self.seconds > MAX_SECONDS:
            return otherwise
        start = time.monotonic()
        try:
            return work()
        finally:
            self.seconds += time.monotonic() - start

    def vacant(self, of: Strings) -> bool:
        return self.timed(of.empty, False)

    def limit(self, pieces: int) -> None:
        _patience.check()
        self.work += pieces
        if pieces > MAX_PIECES or self.work > MAX_WORK:
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
            except SpecError:
                result = False  # refused where a value reaches it
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
        if isinstance(schema, Mapping) and not any(isinstance(v, Mapping | list) for v in schema.values()):
            key = repr([(k, v) for k, v in schema.items() if k not in ANNOTATIONS])
            if "$" not in key:  # schemas that say the same share a rule
                pointer = self.same.setdefault(key, pointer)
        return ((sign, pointer),)

    def conjunction(self, schema: Conjunction) -> Values:
        """The values that satisfy a conjunction."""
        if schema not in self.conjunctions:
            result = EVERYTHING
            for sign, pointer in schema:
                values = self.values(pointer)
                self.at = pointer if pointer.startswith("/") else self.at
                result = self.meet(result, values if sign else self.complement(values))
            self.conjunctions[schema] = result
        return self.conjunctions[schema]

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
            return self.handlers["$ref"](self, pointer, schema, evaluated)
        rest = [k for k in ("unevaluatedItems", "unevaluatedProperties") if has(k, schema)]
        result, done = EVERYTHING, set[Handler]()
        for keyword in schema:
            handler = self.handlers.get(keyword)
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
        if not whole or value < 0:
            raise refuse(f"{pointer}/{keyword}", f"{shown(value)} is no whole number of 0 or more")
        if keyword.startswith("min") and value > MAX_LEAST:
            raise refuse(f"{pointer}/{keyword}", f"{shown(value)} is more than {MAX_LEAST:,}; give a smaller one")
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
    return piece & Object((PropertyGroup(names, patterns, schema),))
