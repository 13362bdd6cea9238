"""Tool calls as text: a grammar of the calls that may be made, and the calls of such a text.

hermes (Qwen too):  <tool_call>\\n{"name": "f", "arguments": {...}}\\n</tool_call>, several joined by a new line
llama3:             {"name": "f", "parameters": {...}}, several joined by "; "
mistral:            [TOOL_CALLS][{"name": "f", "arguments": {...}}, ...], or [TOOL_CALLS]f[ARGS]{...} (mistral-args)
granite, phi4:      <|tool_call|>[{"name": "f", "arguments": {...}}, ...], with <|/tool_call|> behind it (phi4)
deepseek-v3, -v3.1: markers around all calls, around each, and behind its name; v3 has its arguments in a block of code
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmanac.core.errors import DataError, SpecError, nearest, shown
from llmanac.generate.constrain import expressions as ex
from llmanac.generate.constrain._json_strings import literal
from llmanac.generate.constrain.json_schema import grammar

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "additionalProperties": False}
MAX_TOOLS = 128


@dataclass(frozen=True)
class ToolForm:
    """How calls are written: `marker opening CALL after (between CALL after)* closing`.

    Attributes:
        marker: what tells that calls begin; without one a text is either calls or none.
        each: whether marker and opening stand before every call, and not only before the first.
        key: of the arguments, where a call is a JSON object of `name` and this key.
        before, middle: before the name, and between it and the arguments, where a call is no such object.
    """

    marker: str = ""
    each: bool = False
    opening: str = ""
    key: str = ""
    before: str = ""
    middle: str = ""
    after: str = ""
    between: str = ""
    closing: str = ""

    @property
    def end(self) -> str:
        """What tells that the only call is over; empty where its arguments' end does."""
        return (self.after + self.closing).strip()

    def written(self, name: str) -> tuple[str, str]:
        """A call up to its arguments, and what is behind them."""
        if self.key:
            return f'{{"name": "{name}", "{self.key}": ', "}" + self.after
        return f"{self.before}{name}{self.middle}", self.after

    @cached_property
    def head(self) -> re.Pattern[str]:
        """A call from behind the marker to its arguments, as a model may write it; group 1 is the name."""
        start = rf"\s*(?:{re.escape(self.opening.strip())})?\s*"
        if self.key:
            kind = r'(?:"type"\s*:\s*"function"\s*,\s*)?'
            return re.compile(rf'{start}\{{\s*{kind}"name"\s*:\s*"([\w.-]+)"\s*,\s*"{self.key}"\s*:\s*(?=\{{)')
        before, middle = re.escape(self.before), re.escape(self.middle.strip())
        return re.compile(rf"{start}{before}\s*([\w.-]+?)\s*{middle}\s*(?=\{{)")

    @cached_property
    def tail(self) -> re.Pattern[str]:
        """What is between the arguments and the next call or the closing, where nothing says that a call is over."""
        return re.compile(r'\s*(?:,\s*"id"\s*:\s*"[^"]*"\s*)?\}?\s*[;,]?\s*')

    def special(self, tokens: Mapping[str, int]) -> frozenset[int]:
        """Which of a tokenizer's special tokens are part of calls."""
        text = "".join((self.marker, self.opening, self.before, self.middle, self.after, self.closing))
        return frozenset(i for token, i in tokens.items() if token in text)


LIST: dict[str, Any] = {"opening": "[", "key": "arguments", "between": ", ", "closing": "]"}
DEEPSEEK: dict[str, Any] = {"marker": "<｜tool▁calls▁begin｜>", "closing": "<｜tool▁calls▁end｜>"}
FORMS = {
    "hermes": ToolForm("<tool_call>", True, "\n", "arguments", after="\n</tool_call>", between="\n"),
    "llama3": ToolForm(key="parameters", between="; "),
    "mistral": ToolForm("[TOOL_CALLS]", **LIST),
    "mistral-args": ToolForm("[TOOL_CALLS]", True, middle="[ARGS]"),
    "granite": ToolForm("<|tool_call|>", **LIST),
    "phi4": ToolForm("<|tool_call|>", **LIST | {"closing": "]<|/tool_call|>"}),
    "deepseek-v3": ToolForm(
        **DEEPSEEK,
        before="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        middle="\n```json\n",
        after="\n```<｜tool▁call▁end｜>",
        between="\n",
    ),
    "deepseek-v3.1": ToolForm(
        **DEEPSEEK, before="<｜tool▁call▁begin｜>", middle="<｜tool▁sep｜>", after="<｜tool▁call▁end｜>"
    ),
}


@dataclass(frozen=True)
class FunctionCall:
    """A function's name and its arguments."""

    name: str
    arguments: dict[str, Any]


def calls_grammar(
    tools: Sequence[Mapping[str, Any]],
    form: str,
    *,
    name: str | None = None,
    most: int | None = 1,
    marked: bool = False,
) -> ex.Grammar:
    """The texts of calls, at least one.

    Args:
        tools: as OpenAI's API has them: `{"type": "function", "function": {"name": ..., "parameters": schema}}`.
        form: how the model writes calls.
        name: the only tool that may be called; None: any.
        most: how many calls at most; None: no limit.
        marked: whether the first call's marker is there already.

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
            head, tail = map(_literal, chosen.written(known))
            calls.append(ex.Concatenation((*head, ex.Ref(arguments.start), *tail)))
    rules["call"] = ex.Choice(tuple(calls))
    start = chosen.marker + chosen.opening
    following = ex.Concatenation((*_literal(chosen.between + (start if chosen.each else "")), ex.Ref("call")))
    more = ex.Many(following, 0, None if most is None else most - 1)
    begun = _literal(start if not marked else chosen.opening)
    rules["calls"] = ex.Concatenation((*begun, ex.Ref("call"), more, *_literal(chosen.closing)))
    return ex.Grammar(rules, "calls")


def _literal(text: str) -> tuple[ex.Node, ...]:
    """The text as parts of a concatenation; none where it is empty."""
    return (ex.Terminal(literal(text)),) if text else ()


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
    if "[TOOL_CALLS]" in template:
        return "mistral-args" if "[ARGS]" in template else "mistral"
    if "<|tool_call|>" in template:
        return "phi4" if "<|/tool_call|>" in template else "granite"
    if "<｜tool▁call▁begin｜>" in template:
        return "deepseek-v3" if "```json" in template else "deepseek-v3.1"
    return "llama3" if names("name") and names("parameters") and "ipython" in template else None


def _arguments(schema: object, field: str) -> dict[str, Any]:
    """The schema of a function's arguments, which are an object."""
    if schema is None:
        return NO_ARGUMENTS
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        raise SpecError(f"{field}: {shown(schema)} is no schema of an object")
    return {"type": "object", **schema}


def parse_calls(text: str, form: str) -> list[FunctionCall]:
    """The calls of a text that `calls_grammar` allows; white space around calls is allowed too.

    Raises:
        DataError: what is not a call.
    """
    chosen = form_named(form)
    calls, decoder = [], json.JSONDecoder()
    rest = _without(text.strip(), chosen.marker)
    while rest:
        found = chosen.head.match(rest)
        if found is None:
            raise DataError(f"no tool call: {shown(rest)}")
        try:
            value, end = decoder.raw_decode(rest[found.end() :])
        except (ValueError, RecursionError) as error:
            raise DataError(f"no tool call: {shown(rest)} is not complete JSON ({error})") from None
        calls.append(FunctionCall(found[1], value))
        rest = rest[found.end() + end :].lstrip()
        if chosen.key:
            rest = _without(rest, "}")
        rest = _without(rest, chosen.after.strip())
        if rest == chosen.closing.strip():
            break
        rest = rest.removeprefix(chosen.between.strip()).lstrip()
        rest = _without(rest, chosen.marker) if chosen.each and rest else rest
    if not calls:
        raise DataError("no tool call: the text is empty")
    return calls


def _without(text: str, start: str) -> str:
    if not text.startswith(start):
        raise DataError(f"no tool call: {shown(text)} does not begin with {start}")
    return text.removeprefix(start).lstrip()
