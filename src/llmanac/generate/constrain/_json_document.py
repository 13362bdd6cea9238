"""A JSON Schema document: its size, its draft, its keywords, and what its references point at."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from llmanac.core.errors import SpecError, nearest, shown

MAX_DEPTH = 100  # of nested JSON values of a schema
MAX_VALUES = 200_000  # JSON values in a schema

SURROGATE = re.compile("[\\ud800-\\udfff]").search
TRUE = "!true"  # the pointer of a schema that allows every value; no pointer of a document starts so
Schema = Mapping[str, Any] | bool

DRAFTS = {
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "https://json-schema.org/draft/2020-12/schema": 2020,
}
# keywords whose values are a schema, a list of schemas, or schemas by name
_ONE = {
    "additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties",
}  # fmt: skip
_LIST = {"allOf", "anyOf", "oneOf", "prefixItems", "items"}
_NAMED = {"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"}
ANNOTATIONS = frozenset({
    "$comment", "$schema", "$vocabulary", "contentEncoding", "contentMediaType", "contentSchema", "default",
    "deprecated", "description", "examples", "readOnly", "title", "writeOnly",
})  # fmt: skip
KEYWORDS = frozenset({
    "$anchor", "$defs", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveAnchor", "$recursiveRef", "$ref",
    "additionalItems", "additionalProperties", "allOf", "anyOf", "const", "contains", "definitions", "dependencies",
    "dependentRequired", "dependentSchemas", "else", "enum", "exclusiveMaximum", "exclusiveMinimum", "format", "if",
    "items", "maxContains", "maxItems", "maxLength", "maxProperties", "maximum", "minContains", "minItems",
    "minLength", "minProperties", "minimum", "multipleOf", "not", "oneOf", "pattern", "patternProperties",
    "prefixItems", "properties", "propertyNames", "required", "then", "type", "unevaluatedItems",
    "unevaluatedProperties", "uniqueItems",
})  # fmt: skip
_FOLDED = {name.lower(): name for name in KEYWORDS}
# keywords that a draft does not have, which it ignores
_SINCE = {
    "const": 6, "contains": 6, "propertyNames": 6, "if": 7, "then": 7, "else": 7, "dependentRequired": 2019,
    "dependentSchemas": 2019, "minContains": 2019, "maxContains": 2019, "unevaluatedItems": 2019,
    "unevaluatedProperties": 2019, "$recursiveRef": 2019, "$anchor": 2019, "prefixItems": 2020,
    "$dynamicRef": 2020, "$dynamicAnchor": 2020,
}  # fmt: skip


def refuse(pointer: str, why: str) -> SpecError:
    """The error for a place in the schema."""
    return SpecError(f"schema#{pointer}: {why}")


def escaped(name: str) -> str:
    """A key as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def _check_unicode(text: str, path: tuple[Any, ...]) -> None:
    """Raise SpecError for a text that has no bytes; `path` is (the parent's path, key or place)."""
    if not SURROGATE(text):
        return
    pointer = ""
    while path:
        path, pointer = path[0], f"/{escaped(str(path[1]))}{pointer}"
    raise refuse(pointer, f"{shown(text)} has half of a surrogate pair, which is no character; write both halves")


class SchemaDocument:
    """The schemas of a document by JSON pointer.

    Args:
        schema: Python values as `json.loads` makes them.

    Raises:
        SpecError: it is too large or too deep, no schema, of an unknown draft, or an identifier is defined twice.
    """

    def __init__(self, schema: object) -> None:
        self._measure(schema)
        self.values: dict[str, Any] = {"": schema, TRUE: True}
        self.base: dict[str, str] = {}  # the URI of the resource that a schema is in
        self.roots: dict[str, str] = {"": ""}  # pointer of each resource, by URI
        self.anchors: dict[tuple[str, str], str] = {}
        self.dynamic: dict[str, list[str]] = {}
        self.recursive = False
        self.draft = self._draft(schema, "", 2020)
        self._walk(schema, "", "")

    @staticmethod
    def _measure(schema: object) -> None:
        todo: list[tuple[Any, int, tuple[Any, ...]]] = [(schema, 0, ())]  # the last is (parent's, key or place)
        count = 0
        while todo:
            value, depth, path = todo.pop()
            count += 1
            if depth > MAX_DEPTH or count > MAX_VALUES:
                raise SpecError(f"schema: more than {MAX_DEPTH} levels or {MAX_VALUES:,} values; make it smaller")
            if isinstance(value, Mapping):
                for key in value:
                    if not isinstance(key, str):
                        raise SpecError(f"schema: the key {shown(key)} is no string")
                    _check_unicode(key, path)
                todo += [(v, depth + 1, (path, k)) for k, v in value.items()]
            elif isinstance(value, list | tuple):
                todo += [(v, depth + 1, (path, n)) for n, v in enumerate(value)]
            elif isinstance(value, str):
                _check_unicode(value, path)

    def _draft(self, schema: object, pointer: str, default: int) -> int:
        if not isinstance(schema, Mapping) or "$schema" not in schema:
            return default
        uri = schema["$schema"]
        known = DRAFTS.get(uri.rstrip("#").replace("https://json-schema.org/draft-", "http://json-schema.org/draft-")) \
            if isinstance(uri, str) else None  # fmt: skip
        if known is None:
            raise refuse(pointer + "/$schema", f"{shown(uri)} is not supported; use one of {', '.join(DRAFTS)}")
        return known

    def _walk(self, schema: object, pointer: str, base: str) -> None:
        """Note every subschema, its identifiers and its resource."""
        if not isinstance(schema, Mapping):
            self.base[pointer] = base
            return
        identifier = schema.get("id" if self.draft == 4 else "$id")
        alone = "$ref" in schema and self.draft <= 7  # its siblings mean nothing
        if isinstance(identifier, str) and not alone:
            uri, fragment = urldefrag(urljoin(base, identifier) if base else identifier)
            if fragment:
                self._name(uri if not identifier.startswith("#") else base, fragment, pointer)
            if not identifier.startswith("#"):
                if self.roots.setdefault(uri, pointer) != pointer:
                    raise refuse(pointer, f"the identifier {shown(identifier)} is also that of another schema")
                base = uri
        if pointer and self._draft(schema, pointer, self.draft) != self.draft:
            raise refuse(pointer + "/$schema", "schemas of two drafts in one document are not supported")
        self.base[pointer] = base
        for keyword in ("$anchor", "$dynamicAnchor"):
            if self.has(keyword, schema) and isinstance(schema[keyword], str):
                self._name(base, schema[keyword], pointer)
        if self.has("$dynamicAnchor", schema):
            self.dynamic.setdefault(schema["$dynamicAnchor"], []).append(pointer)
        self.recursive |= schema.get("$recursiveAnchor") is True
        for keyword, value in schema.items():
            here = f"{pointer}/{escaped(keyword)}"
            if keyword in _NAMED and isinstance(value, Mapping):
                for name, item in value.items():
                    if isinstance(item, Mapping | bool):
                        self._walk(item, f"{here}/{escaped(name)}", base)
            elif keyword in _LIST and isinstance(value, list | tuple):
                for n, item in enumerate(value):
                    self._walk(item, f"{here}/{n}", base)
            elif keyword in _ONE and isinstance(value, Mapping | bool):
                self._walk(value, here, base)

    def _name(self, base: str, anchor: str, pointer: str) -> None:
        if self.anchors.setdefault((base, anchor), pointer) != pointer:
            raise refuse(pointer, f"the anchor {shown(anchor)} is also that of another schema")

    def has(self, keyword: str, schema: Mapping[str, Any]) -> bool:
        """Whether a schema has a keyword that its draft knows."""
        return keyword in schema and _SINCE.get(keyword, 0) <= self.draft

    def add(self, value: object) -> str:
        """A schema that the document does not hold; its pointer."""
        pointer = f"!{len(self.values)}"
        self.values[pointer] = value
        self.base[pointer] = ""
        return pointer

    def __getitem__(self, pointer: str) -> Any:
        """The schema at a pointer."""
        if pointer not in self.values:
            value = self.values[""]
            for part in pointer.split("/")[1:]:
                name = part.replace("~1", "/").replace("~0", "~")
                value = value[int(name)] if isinstance(value, list | tuple) else value[name]
            self.values[pointer] = value
        return self.values[pointer]

    def checked(self, pointer: str) -> Schema:
        """The schema at a pointer. Raises SpecError: it is no schema, or a keyword is one of ours but for its case."""
        schema = self[pointer]
        if not isinstance(schema, Mapping | bool):
            raise refuse(pointer, f"{shown(schema)} is no schema: it has to be an object, true or false")
        for name in schema if isinstance(schema, Mapping) else ():
            known = _FOLDED.get(name.lower())
            if known and known != name:
                raise refuse(f"{pointer}/{escaped(name)}", f"unknown keyword; did you mean {known!r}?")
        return schema

    def target(self, pointer: str, keyword: str) -> str:
        """The pointer of what the reference of a schema points at.

        Raises:
            SpecError: it is outside of the document, points at nothing, or depends on the path to it.
        """
        here, reference = f"{pointer}/{keyword}", self[pointer][keyword]
        if not isinstance(reference, str):
            raise refuse(here, f"{shown(reference)} is no string")
        base = self.base.get(pointer, "")
        uri, fragment = urldefrag(urljoin(base, reference) if base else reference)
        if reference.startswith("#"):  # urljoin does not know urn:
            uri, fragment = base, reference[1:]
        fragment = unquote(fragment)
        if uri not in self.roots and uri + "#" not in self.roots:
            raise refuse(here, f"{shown(reference)} is outside of the document; include it under '$defs'")
        root = self.roots[uri]
        if fragment and not fragment.startswith("/"):
            found = self.anchors.get((uri, fragment))
            if found is None:
                names = [name for base, name in self.anchors if base == uri]
                raise refuse(here, f"there is no anchor {shown(fragment)}{nearest(fragment, names)}")
        else:
            found = self._normal(root + fragment, here)
        if keyword == "$recursiveRef" and self.recursive:
            raise refuse(here, "'$recursiveRef' is supported only where no schema has '$recursiveAnchor'")
        places = self.dynamic.get(fragment, [])
        if keyword == "$dynamicRef" and found in places and len(places) > 1:
            raise refuse(here, "'$dynamicRef' is supported only where one schema has its '$dynamicAnchor'")
        return found

    def _normal(self, pointer: str, here: str) -> str:
        """A pointer written as the document's walk writes it."""
        value, path, inside = self.values[""], "", self.base.get("", "")
        for part in pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, list | tuple) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            elif isinstance(value, Mapping) and name in value:
                value = value[name]
            else:
                raise refuse(here, f"the document has nothing at {shown(pointer)}")
            path += "/" + escaped(name)
            inside = self.base.get(path, inside)
            if path not in self.base and isinstance(value, Mapping) and "$id" in value and pointer == path:
                raise refuse(here, f"{shown(pointer)} is an unknown place for a schema with '$id'")
        self.base.setdefault(path, inside)
        return path
