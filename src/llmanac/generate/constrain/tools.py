"""Tool calls as text: a grammar of the calls that may be made, and the calls of such a text.

hermes (Qwen too):  <tool_call>\\n{"name": "f", "arguments": {...}}\\n</tool_call>, several joined by a new line
llama3:             {"name": "f", "parameters": {...}}, several joined by "; "
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmanac.core.errors import DataError, SpecError, nearest, shown
from llmanac.generate.constrain import expressions as ex
from llmanac.generate.constrain._json_strings import literal
from llmanac.generate.constrain.json_schema import grammar

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "additionalProperties": False}
MAX_TOOLS = 128


@dataclass(frozen=True)
class ToolForm:
    """What is written before a call, behind it and between two, and the key of the arguments."""

    opening: str
    closing: str
    between: str
    key: str


FORMS = {
    "hermes": ToolForm("<tool_call>\n", "\n</tool_call>", "\n", "arguments"),
    "llama3": ToolForm("", "", "; ", "parameters"),
}


@dataclass(frozen=True)
class FunctionCall:
    """A function's name and its arguments."""

    name: str
    arguments: dict[str, Any]


def calls_grammar(
    tools: Sequence[Mapping[str, Any]],
    form: Literal["hermes", "llama3"],
    *,
    name: str | None = None,
    most: int | None = 1,
) -> ex.Grammar:
    """The texts of calls, at least one.

    Args:
        tools: as OpenAI's API has them: `{"type": "function", "function": {"name": ..., "parameters": schema}}`.
        form: how the model writes calls.
        name: the only tool that may be called; None: any.
        most: how many calls at most; None: no limit.

    Raises:
        SpecError: a tool without a name, with a name that another has, or with parameters that `json_schema.grammar`
            refuses; a `name` that no tool has.
    """
    chosen = form_named(form)
    schemas: dict[str, Any] = {}
    if not tools or len(tools) > MAX_TOOLS:
        raise SpecError(f"tools: {len(tools)} are given; give 1 to {MAX_TOOLS}")
    for place, tool in enumerate(tools):
        function = tool.get("function", {}) if isinstance(tool, Mapping) else {}
        known = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(known, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", known) or known in schemas:
            raise SpecError(f"tools[{place}].function.name: {shown(known)} is no name of 1 to 64 letters or is taken")
        schemas[known] = _arguments(function.get("parameters"), f"tools[{place}].function.parameters")
    if name is not None and name not in schemas:
        raise SpecError(f"tool_choice: there is no tool {shown(name)}{nearest(name, schemas)}")
    rules: dict[str, ex.Node] = {}
    calls: list[ex.Node] = []
    for place, (known, schema) in enumerate(schemas.items()):
        if name in (None, known):
            try:
                arguments = grammar(schema, name=f"tool{place}.")
            except SpecError as error:
                raise SpecError(f"tools[{place}].function.parameters: {error}") from None
            rules |= arguments.rules
            head = f'{chosen.opening}{{"name": "{known}", "{chosen.key}": '
            tail = ex.Terminal(literal("}" + chosen.closing))
            calls.append(ex.Concatenation((ex.Terminal(literal(head)), ex.Ref(arguments.start), tail)))
    rules["call"] = ex.Choice(tuple(calls))
    following = ex.Concatenation((ex.Terminal(literal(chosen.between)), ex.Ref("call")))
    more = ex.Many(following, 0, None if most is None else most - 1)
    rules["calls"] = ex.Concatenation((ex.Ref("call"), more))
    return ex.Grammar(rules, "calls")


def form_named(name: str) -> ToolForm:
    """How calls are written. Raises SpecError: no such form."""
    if name not in FORMS:
        raise SpecError(f"form: {shown(name)} is none of {', '.join(FORMS)}{nearest(name, FORMS)}")
    return FORMS[name]


def form_of(template: str | None) -> str | None:
    """The form that a chat template (Jinja source) asks for, of `FORMS`; None where it is another one, or
    the template has no tools."""
    if template is None or not re.search(r"\btools\b", template):
        return None

    def names(key: str) -> bool:
        return re.search(rf'"{key}\\?"\s*:', template) is not None  # quotes may be escaped in Jinja's strings

    if "<tool_call>" in template:
        xml = "<function=" in template or "<arg_key>" in template  # Qwen3-Coder and GLM: no JSON inside
        return "hermes" if names("name") and names("arguments") and not xml else None
    return "llama3" if names("name") and names("parameters") and "ipython" in template else None


def _arguments(schema: object, field: str) -> dict[str, Any]:
    """The schema of a function's arguments, which are an object."""
    if schema is None:
        return NO_ARGUMENTS
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        raise SpecError(f"{field}: {shown(schema)} is no schema of an object")
    return {"type": "object", **schema}


def parse_calls(text: str, form: Literal["hermes", "llama3"]) -> list[FunctionCall]:
    """The calls of a text that `calls_grammar` allows; white space around calls is allowed too.

    Raises:
        DataError: what is not a call.
    """
    chosen = form_named(form)
    calls, rest, decoder = [], text.strip(), json.JSONDecoder()
    while rest:
        if not rest.startswith(chosen.opening.strip()):
            raise DataError(f"no tool call: {shown(rest)} does not begin with {chosen.opening.strip()}")
        rest = rest.removeprefix(chosen.opening.strip()).lstrip()
        try:
            value, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError) as error:
            raise DataError(f"no tool call: {shown(rest)} is not complete JSON ({error})") from None
        if not isinstance(value, dict) or set(value) != {"name", chosen.key} or not isinstance(value[chosen.key], dict):
            raise DataError(f"no tool call: {shown(rest)} is not an object of 'name' and {chosen.key!r}")
        calls.append(FunctionCall(str(value["name"]), value[chosen.key]))
        rest = rest[end:].strip().removeprefix(chosen.closing.strip()).strip()
        rest = rest.removeprefix(chosen.between.strip()).strip()
    if not calls:
        raise DataError("no tool call: the text is empty")
    return calls
