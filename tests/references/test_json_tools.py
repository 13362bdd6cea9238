"""Schemas of Pydantic models, JSON mode, and tool calls in their forms."""

import json
import random
from typing import Literal

import jsonschema
import pydantic
import pytest
from _json_texts import Cut, Reader, drawn

from llmanac.core.errors import DataError, SpecError
from llmanac.generate.constrain.json_schema import grammar, parse
from llmanac.generate.constrain.tools import FORMS, FunctionCall, calls_grammar, parse_calls


class Address(pydantic.BaseModel):
    street: str = pydantic.Field(min_length=1, max_length=20)
    zip: str = pydantic.Field(pattern=r"^\d{5}$")


class Person(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(ge=0, le=130)
    kind: Literal["guest", "member"] = "guest"
    address: Address | None = None
    friends: list["Person"] = []
    scores: dict[str, float] = {}


def test_pydantic_model():
    made, rng = grammar(Person), random.Random(0)
    reads = Reader(made)
    ann = Person(name="Ann", age=3, address=Address(street="x", zip="12345"), friends=[Person(name="", age=130)])
    assert reads(json.dumps(ann.model_dump()))
    assert not reads(json.dumps(ann.model_dump() | {"age": 131}))
    drawn_models = 0
    for _ in range(60):
        try:
            text = drawn(made, rng, 800)
        except Cut:
            continue
        Person.model_validate(parse(text))
        drawn_models += 1
    assert drawn_models > 20


def test_json_mode_and_parse():
    reads = Reader(grammar({"type": "object"}))
    assert reads('{"a": [1, {"b": null}]}')
    assert not reads("[1]")
    assert parse('{"a": 1}') == {"a": 1}
    with pytest.raises(DataError, match="not complete JSON"):
        parse('{"a": ')


WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TREE = {"$ref": "#/$defs/t", "$defs": {"t": {"properties": {"left": {"$ref": "#"}}}}}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
    {"type": "function", "function": {"name": "tree", "parameters": TREE}},
]
TEXTS = {
    "hermes": '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome; </tool_call>"}}\n</tool_call>',
    "llama3": '{"name": "weather", "parameters": {"city": "Rome; {"}}',
    "mistral": '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Rome; {"}}]',
    "mistral-args": '[TOOL_CALLS]weather[ARGS]{"city": "Rome; {"}',
    "granite": '<|tool_call|>[{"name": "weather", "arguments": {"city": "Rome; {"}}]',
    "phi4": '<|tool_call|>[{"name": "weather", "arguments": {"city": "Rome; {"}}]<|/tool_call|>',
    "deepseek-v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
    '{"city": "Rome; {"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "deepseek-v3.1": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
    '{"city": "Rome; {"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
}


@pytest.mark.parametrize("form", FORMS)
def test_calls(form):
    text = TEXTS[form].replace("Rome; </tool_call>", "Rome; </t>")
    one, many = Reader(calls_grammar(TOOLS, form)), Reader(calls_grammar(TOOLS, form, most=None))
    made = FORMS[form]
    start, closing = made.marker + made.opening, made.closing
    again = text if made.each else text.removeprefix(start)
    twice = text.removesuffix(closing) + made.between + again
    assert one(text)
    assert many(twice)
    assert not one(twice)
    assert len(parse_calls(twice, form)) == 2
    assert not one(text.replace("weather", "wether"))
    assert not one(text.replace("city", "town"))
    assert not one("")
    now = Reader(calls_grammar(TOOLS, form, name="now"))
    assert not now(text)
    head, tail = made.written("now")
    assert now(f"{start}{head}{{}}{tail}{closing}")
    rng = random.Random(0)
    for _ in range(40):
        try:
            calls = parse_calls(drawn(calls_grammar(TOOLS, form, most=3), rng, 600), form)
        except Cut:
            continue
        for call in calls:
            assert call.name in ("weather", "now", "tree")
            if call.name == "weather":
                jsonschema.validate(call.arguments, WEATHER)


def test_a_format_that_is_not_enforced():
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": "phone"}}, "required": ["a"]}
    tools = [{"type": "function", "function": {"name": "dial", "parameters": schema}}]
    assert Reader(calls_grammar(tools, "llama3"))('{"name": "dial", "parameters": {"a": "112"}}')


def test_a_text_inside_arguments_is_no_end():
    assert parse_calls(TEXTS["hermes"], "hermes") == [FunctionCall("weather", {"city": "Rome; </tool_call>"})]
    assert parse_calls(TEXTS["llama3"], "llama3") == [FunctionCall("weather", {"city": "Rome; {"})]


@pytest.mark.parametrize("text", ["", "hello", '{"name": "f"}', '{"name": "f", "parameters": []}', '{"name":', "[1]"])
def test_no_call(text):
    with pytest.raises(DataError, match="no tool call"):
        parse_calls(text, "llama3")


@pytest.mark.parametrize(
    ("tools", "more", "message"),
    [
        ([], {}, "tools: 0 are given"),
        ([{}], {}, r"tools\[0\].function.name"),
        (TOOLS + TOOLS[:1], {}, r"tools\[3\].function.name: 'weather'"),
        (TOOLS, {"name": "wether"}, "did you mean 'weather'"),
        ([{"function": {"name": "f", "parameters": {"type": "array"}}}], {}, r"tools\[0\].function.parameters"),
        ([{"function": {"name": "f", "parameters": {"required": 1}}}], {}, r"parameters: schema#/required"),
    ],
)
def test_tools_refused(tools, more, message):
    with pytest.raises(SpecError, match=message):
        calls_grammar(tools, "hermes", **more)
    with pytest.raises(SpecError, match="form: 'x' is none of"):
        calls_grammar(tools, "x")
