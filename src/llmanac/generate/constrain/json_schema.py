"""A grammar of the JSON texts that a JSON Schema describes (drafts 4 to 2020-12).

No text of the grammar is invalid, and every valid value has one, written by this policy:

- properties that the schema names come first, in the order of the schema (`properties`, then names only in `required`;
  of `allOf` and the like in the order of the keywords), then those that a pattern or `additionalProperties` allows, in
  any order (in sorted order where a pattern matches only a few names); no name twice;
- between the parts is what `whitespace` says: "spaced" (`, ` and `: `, as `json.dumps`), "compact" (`,` and `:`) or
  "any" (any whitespace of JSON); none before or after the text;
- strings escape only `"`, `\\` and control characters, by the short escape where there is one;
- numbers have no exponent and zero has no sign; where every number has to be an integer there is no fraction, and
  those of `const`, `enum` and `uniqueItems` end in no needless zeros. A number that no keyword limits may also have the
  form `1.5e-7`, within the range of float64, or be -0.

What cannot be followed exactly is refused by the pointer of its keyword. Keywords of no draft are annotations.
Source: json-schema.org, drafts 4, 6, 7, 2019-09 and 2020-12.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from llmanac.core.errors import DataError, SpecError, shown
from llmanac.generate.constrain._json_document import SchemaDocument, refuse
from llmanac.generate.constrain._json_keywords import HANDLERS
from llmanac.generate.constrain._json_layouts import LAYOUTS
from llmanac.generate.constrain._json_schemas import Schemas
from llmanac.generate.constrain._json_text import Writer
from llmanac.generate.constrain.expressions import Grammar

Whitespace = Literal["spaced", "compact", "any"]


def schema_of(schema: object) -> dict[str, Any] | bool:
    """A schema, or the one of a Pydantic model.

    Raises:
        SpecError: neither.
    """
    if isinstance(schema, bool):
        return schema
    if isinstance(schema, Mapping):
        return dict(schema)
    make = getattr(schema, "model_json_schema", None)
    if callable(make):
        return dict(make())
    raise SpecError(f"schema: {shown(schema)} is neither a JSON Schema (a dict) nor a Pydantic model")


def grammar(schema: object, *, whitespace: Whitespace = "spaced", name: str = "json") -> Grammar:
    """The texts of the values that satisfy a schema.

    Args:
        schema: a JSON Schema as Python values, or a Pydantic model's class.
        whitespace: what is between the parts of arrays and objects.
        name: starts the names of the rules, for grammars that hold several schemas.

    Raises:
        SpecError: a keyword that is not supported or not well-formed, by its JSON pointer; a schema that no value
            satisfies or that is too large.
    """
    if whitespace not in LAYOUTS:
        raise SpecError(f"whitespace: {shown(whitespace)} is none of {', '.join(LAYOUTS)}")
    schemas = Schemas(SchemaDocument(schema_of(schema)), HANDLERS)
    start = schemas.of("")
    try:
        if schemas.impossible(start):
            raise SpecError("schema: no value satisfies it")
        writer = Writer(schemas, LAYOUTS[whitespace], name)
        found = writer.write(start)
    except RecursionError:
        raise refuse(schemas.at, "nested too deeply; make it flatter") from None
    return Grammar(writer.rules, found.name)


def parse(text: str) -> Any:
    """The value of a generated text.

    Raises:
        DataError: no JSON (a generation that was cut off by its limit of tokens).
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the text is not complete JSON ({error}); raise the limit of tokens") from None
