"""Tool calls in the forms of Hermes, Qwen and Llama 3, as a model writes them; with the official client."""

from __future__ import annotations

import json
import random

import httpx
import openai
import pytest
from _engine_models import HistoryModel
from _servers import running, saying, tokenizer_with

from llmanac.generate.constrain import compile_kernels
from llmanac.generate.constrain.tools import FORMS
from llmanac.generate.engine import Engine
from llmanac.web._tools import Calls, form_of

HEAD = """{%- if tools %}<|im_start|>system
# Tools
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
For each call, return a json object within <tool_call></tool_call> tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif %}"""
TURNS = """{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.content %}{{ m.content }}{% endif %}{% for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
QWEN = HEAD + TURNS
LLAMA3 = """{%- if tools %}Environment: ipython
Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.
{% for t in tools %}{{ t | tojson(indent=4) }}{% endfor %}{% endif %}
{%- for m in messages %}{{ m.role }}: {{ m.content }}
{% for call in m.tool_calls or [] %}{% set f = call.function %}
{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}
{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name} two numbers",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer"},
                    "b": {"type": "integer"},
                    "note": {"type": "string", "maxLength": 40},
                },
                "required": ["a", "b"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("add_two_numbers", "subtract")
]
ASK = [{"role": "user", "content": "2 and 3?"}]
CALLS = [("add_two_numbers", {"a": 2, "b": 3}), ("subtract", {"a": 2, "b": 3, "note": 'brace } and "quote" 日本'})]
SAID = {
    "hermes": "Let me see.\n"
    + "\n".join(
        f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(given, ensure_ascii=False)}}}\n</tool_call>'
        for name, given in CALLS
    ),
    "llama3": "; ".join(
        f'{{"name": "{name}", "parameters": {json.dumps(given, ensure_ascii=False)}}}' for name, given in CALLS
    ),
}


@pytest.fixture(scope="module", params=["hermes", "llama3"])
def calling(request):
    engine, asked = saying(SAID[request.param], QWEN if request.param == "hermes" else LLAMA3)
    with running(engine, prefix_cache_bytes=None) as found:
        found.asked, found.form, found.tokenizer = asked, request.param, engine.tokenizer
        yield found


def calls_of(message):
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]


def test_calls(calling):
    reply = calling.client.chat.completions.create(model="tiny", messages=ASK, tools=TOOLS, temperature=0)
    choice = reply.choices[0]
    assert choice.finish_reason == "tool_calls" and calls_of(choice.message) == CALLS
    assert choice.message.content == ("Let me see." if calling.form == "hermes" else None)
    assert len({call.id for call in choice.message.tool_calls}) == 2
    assert all(call.type == "function" and call.id.startswith("call_") for call in choice.message.tool_calls)
    prompt = calling.tokenizer.decode(calling.asked[-1])
    assert '"add_two_numbers two numbers"' in prompt  # the model saw the tools


def test_streamed_calls(calling):
    ask = {"model": "tiny", "messages": ASK, "tools": TOOLS, "temperature": 0}
    deltas = [c.choices[0].delta for c in calling.client.chat.completions.create(**ask, stream=True)]
    names, texts, ids = {}, {}, {}
    for call in (call for delta in deltas for call in delta.tool_calls or ()):
        sent = call.model_dump(exclude_unset=True)
        if call.index not in names:
            assert sent.keys() == {"index", "id", "type", "function"}
            assert sent["function"].keys() == {"name", "arguments"} and sent["function"]["arguments"] == ""
            names[call.index], texts[call.index], ids[call.index] = call.function.name, "", call.id
        else:
            assert sent.keys() == {"index", "function"} and sent["function"].keys() == {"arguments"}
            texts[call.index] += call.function.arguments
    assert [(names[i], json.loads(texts[i])) for i in sorted(names)] == CALLS and len(set(ids.values())) == 2
    assert "".join(d.content or "" for d in deltas) == ("Let me see." if calling.form == "hermes" else "")
    with calling.client.chat.completions.stream(**ask) as stream:
        final = stream.get_final_completion().choices[0]
    assert calls_of(final.message) == CALLS and final.finish_reason == "tool_calls"


def test_results_go_back_to_the_model(calling):
    first = calling.client.chat.completions.create(model="tiny", messages=ASK, tools=TOOLS, temperature=0)
    made = first.choices[0].message.model_dump(exclude_none=True)
    calling.asked.clear()
    result = {"role": "tool", "tool_call_id": made["tool_calls"][0]["id"], "content": "five"}
    calling.client.chat.completions.create(
        model="tiny", messages=[*ASK, made, result], tools=TOOLS, temperature=0, max_tokens=1
    )
    prompt = calling.tokenizer.decode(calling.asked[-1])
    assert "five" in prompt and json.dumps(CALLS[0][1]) in prompt
    broken = {**made, "tool_calls": [{**made["tool_calls"][0], "function": {"name": "subtract", "arguments": "[1]"}}]}
    with pytest.raises(openai.BadRequestError) as caught:
        calling.client.chat.completions.create(model="tiny", messages=[*ASK, broken], tools=TOOLS)
    assert caught.value.param == "messages.1.tool_calls.0.function.arguments"


def test_without_tools_it_is_text(calling):
    for given in ({}, {"tools": TOOLS, "tool_choice": "none"}, {"tools": []}):
        reply = calling.client.chat.completions.create(model="tiny", messages=ASK, temperature=0, **given)
        choice = reply.choices[0]
        assert choice.message.content == SAID[calling.form] and choice.message.tool_calls is None
        assert choice.finish_reason == "stop"
        assert "add_two_numbers two numbers" not in calling.tokenizer.decode(calling.asked[-1])


def test_a_call_that_is_cut_short(calling):
    cut = len(SAID[calling.form].partition('"a": 2')[0].encode()) + 3
    ask = {"model": "tiny", "messages": ASK, "tools": TOOLS, "temperature": 0, "max_tokens": cut}
    choice = calling.client.chat.completions.create(**ask).choices[0]
    assert choice.finish_reason == "length" and choice.message.tool_calls[0].function.arguments == '{"a"'
    assert not choice.message.tool_calls[1:]


def test_one_call_at_most(calling):
    ask = {"model": "tiny", "messages": ASK, "tools": TOOLS, "temperature": 0, "parallel_tool_calls": False}
    assert calls_of(calling.client.chat.completions.create(**ask).choices[0].message) == CALLS[:1]
    with calling.client.chat.completions.stream(**ask) as stream:
        assert calls_of(stream.get_final_completion().choices[0].message) == CALLS[:1]


@pytest.mark.parametrize("mode", ["required", "auto"])
def test_some_of_the_tools_are_allowed(calling, mode):
    one = {"type": "function", "function": {"name": "subtract"}}
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [one]}}
    ask = {"model": "tiny", "tools": TOOLS, "temperature": 0, "max_tokens": 100}
    reply = calling.client.chat.completions.create(messages=ASK, tool_choice=choice, **ask)
    assert {call.function.name for call in reply.choices[0].message.tool_calls} == {"subtract"}
    assert "add_two_numbers two numbers" not in calling.tokenizer.decode(calling.asked[-1])
    flat = [{"type": "function", **tool["function"]} for tool in TOOLS]
    choice = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "subtract"}]}
    made = calling.client.responses.create(
        model="tiny", input=ASK, tools=flat, tool_choice=choice, temperature=0, max_output_tokens=100
    )
    assert {item.name for item in made.output if item.type == "function_call"} == {"subtract"}
    assert made.tool_choice.model_dump(exclude_none=True) == choice


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "code"}]}, "tools.0.type"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        (
            {
                "tools": TOOLS,
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "auto",
                        "tools": [{"type": "function", "function": {"name": "other"}}],
                    },
                },
            },
            "tool_choice",
        ),
        ({"tools": TOOLS, "structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
        ({"tools": TOOLS * 65}, "tools"),
        (
            {"tools": [{**TOOLS[0], "function": {**TOOLS[0]["function"], "parameters": 1}}]},
            "tools.0.function.parameters",
        ),
    ],
)
def test_what_is_refused(calling, fields, param):
    answer = httpx.post(f"{calling.url}/v1/chat/completions", json={"model": "tiny", "messages": ASK, **fields})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_what_the_model_may_ignore_is_named(calling):
    tool = {"type": "function", "function": {**TOOLS[0]["function"], "strict": True, "cache": 1}, "extra": 1}
    body = {"model": "tiny", "messages": ASK, "tools": [tool], "temperature": 0, "max_tokens": 1}
    answer = httpx.post(f"{calling.url}/v1/chat/completions", json=body)
    assert answer.headers["x-llmanac-ignored"] == "tools.extra, tools.function.cache"


LISTED = "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}" + TURNS.replace("tool_call>", "call>")
CALLED = {
    "llama3": (LLAMA3, []),
    "mistral": (LISTED + "{# [TOOL_CALLS] #}", ["[TOOL_CALLS]"]),
    "mistral-args": (LISTED + "{# [TOOL_CALLS] [ARGS] #}", ["[TOOL_CALLS]", "[ARGS]"]),
    "granite": (LISTED + "{# <|tool_call|> #}", ["<|tool_call|>"]),
    "phi4": (LISTED + "{# <|tool_call|> <|/tool_call|> #}", ["<|tool_call|>", "<|/tool_call|>"]),
    "deepseek-v3": (
        LISTED + "{# <｜tool▁call▁begin｜> ```json #}",
        [f"<｜tool▁{name}｜>" for name in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep")],
    ),
    "deepseek-v3.1": (
        LISTED + "{# <｜tool▁call▁begin｜> #}",
        [f"<｜tool▁{name}｜>" for name in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep")],
    ),
    "prompted": ("{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}assistant: ", []),
}


def test_the_form_of_a_template():
    coder = QWEN.replace("</tool_call>", "<function=name><parameter=a></tool_call>")
    glm = QWEN.replace("<tool_call>", "<tool_call>{{ name }}<arg_key>")
    escaped = QWEN.replace('{"name": <function-name>, "arguments":', '{{ "{\\"name\\": <name>, \\"arguments\\":" }}')
    assert [form_of(t) for t in (QWEN, escaped, LLAMA3)] == ["hermes", "hermes", "llama3"]
    assert [form_of(t) for t in (coder, glm, LLAMA3.replace("ipython", "python"), TURNS, None)] == [None] * 5
    for form, (template, _) in CALLED.items():
        assert form_of(template) == (None if form == "prompted" else form)


@pytest.mark.parametrize("form", CALLED)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_calls_in_the_form_of_the_template(form, choice):
    """What a model writes as its template has it is read, its marker tokens included; wrong arguments cannot come."""
    written = FORMS["hermes" if form == "prompted" else form]
    head, tail = written.written("subtract")
    said = f"{written.marker}{written.opening}{head}{{}}{tail}{written.closing}"  # without a and b
    text = "So. " if choice == "auto" and written.marker else ""  # without a marker it is a text or calls
    template, special = CALLED[form]
    engine, asked = saying(text + said, template, special)
    with running(engine, prefix_cache_bytes=None) as found:
        for stream in (False, True):
            ask = {"model": "tiny", "messages": ASK, "tools": TOOLS, "tool_choice": choice, "seed": 3}
            ask |= {"parallel_tool_calls": False, "max_tokens": 400}
            if stream:
                with found.client.chat.completions.stream(**ask) as events:
                    done = events.get_final_completion().choices[0]
            else:
                done = found.client.chat.completions.create(**ask).choices[0]
            [(name, arguments)] = calls_of(done.message)
            assert name == "subtract" and arguments.keys() >= {"a", "b"} and done.finish_reason == "tool_calls"
            assert (done.message.content or "") == text.strip()
        assert '"subtract two numbers"' in engine.tokenizer.decode(asked[-1])


def test_a_prompted_conversation():
    engine, asked = saying("x", CALLED["prompted"][0])
    made = {"id": "c1", "type": "function", "function": {"name": "subtract", "arguments": '{"a": 2, "b": 3}'}}
    result = {"role": "tool", "tool_call_id": "c1", "content": "-1"}
    messages = [{"role": "system", "content": "Be brief."}, *ASK]
    messages += [
        {"role": "assistant", "content": "So", "tool_calls": [made]},
        result,
        {"role": "user", "content": "And?"},
    ]
    with running(engine, prefix_cache_bytes=None) as found:
        for tools in (TOOLS, openai.NOT_GIVEN):
            asked.clear()
            found.client.chat.completions.create(model="tiny", messages=messages, tools=tools, max_tokens=1)
            told = engine.tokenizer.decode(asked[-1])
            assert ("You can call functions" in told) == (tools is TOOLS)
            system, user, assistant, last = told.split("<|im_end|>")[:4]
            assert system.startswith("system: Be brief.") and user == "user: 2 and 3?"
            call = '<tool_call>\n{"name": "subtract", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
            assert assistant == f"assistant: So\n{call}"
            assert last == "user: <tool_response>\n-1\n</tool_response>\n\nAnd?"


def test_a_structure_beside_tools():
    """Either the call or the JSON that was asked for."""
    schema = {
        "type": "object",
        "properties": {"sum": {"enum": [5]}},
        "required": ["sum"],
        "additionalProperties": False,
    }
    format = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
    for said in ('{"sum": 6}', SAID["hermes"].partition("\n")[2]):
        engine, _ = saying(said, QWEN)
        with running(engine, prefix_cache_bytes=None) as found:
            ask = {"model": "tiny", "messages": ASK, "tools": TOOLS, "response_format": format, "seed": 1}
            message = found.client.chat.completions.create(**ask, parallel_tool_calls=False).choices[0].message
        if said.startswith("{"):
            assert json.loads(message.content) == {"sum": 5} and not message.tool_calls
        else:
            assert calls_of(message)[0][0] == "add_two_numbers" and not message.content


@pytest.mark.parametrize(
    ("form", "text", "content", "calls"),
    [
        ("hermes", "plain <tool text  ", "plain <tool text  ", []),
        ("hermes", "a <tool_c", "a <tool_c", []),
        ("hermes", "x <tool_call> never", "x <tool_call> never", []),
        ("hermes", "<tool_call>\n{bad}\n</tool_call> more", "<tool_call>\n{bad}\n</tool_call> more", []),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}}', "", [("f", "{}")]),
        ("hermes", '<tool_call>{"name": "no", "arguments": {}}</tool_call>', None, []),
        ("hermes", 'a\n<tool_call>{"name":"f","arguments":{"x":"}"}}</tool_call>\nb', "a\nb", [("f", '{"x":"}"}')]),
        ("hermes", '<tool_call>{"arguments": {"a": "é"}, "name": "f"}</tool_call>', "", [("f", '{"a": "é"}')]),
        ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "no"}</tool_call>', None, []),
        ("hermes", '<tool_call>{"arguments": [], "name": "f"}', None, []),
        ("hermes", "y" * 600 + "<tool_call>" + "z" * 600, None, []),
        ("llama3", '{"type": "function", "name": "f", "parameters": {"x": [{}]}}', "", [("f", '{"x": [{}]}')]),
        ("llama3", '{"name": "f", "parameters": {}}\n{"name": "f", "parameters": {"a": 1}}', "", [("f", "{}"), ("f", '{"a": 1}')]),  # noqa: E501
        ("llama3", '{"answer": 1}', None, []),
        ("llama3", " hello {x} ", None, []),
        ("mistral", 'I look.[TOOL_CALLS][{"name": "f", "arguments": {"a": "]"}}, {"name": "f", "arguments": {}}]', "I look.", [("f", '{"a": "]"}'), ("f", "{}")]),  # noqa: E501
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "VvvODy9mT"}]', "", [("f", '{"a": 1}')]),
        ("mistral", "[TOOL_CALLS] no", None, []),
        ("mistral-args", '[TOOL_CALLS]f[ARGS]{"a": "é"}[TOOL_CALLS]f[ARGS]{}', "", [("f", '{"a": "é"}'), ("f", "{}")]),
        ("mistral-args", '[TOOL_CALLS]no[ARGS]{}[TOOL_CALLS]f[ARGS]{"a": 1}', "[TOOL_CALLS]no[ARGS]{}", [("f", '{"a": 1}')]),  # noqa: E501
        ("mistral", "[TOOL_CALLS]", None, []),
        ("granite", '<|tool_call|>[{"name": "f", "arguments": {"a": [1]}}]', "", [("f", '{"a": [1]}')]),
        ("granite", 'so: <|tool_call|> [{"arguments": {}, "name": "f"}]', None, []),
        ("phi4", 'a <|tool_call|>[{"name": "f", "arguments": {}}]<|/tool_call|> b', "a b", [("f", "{}")]),
        ("deepseek-v3", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": "```"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>', "", [("f", '{"a": "```"}'), ("f", "{}")]),  # noqa: E501
        ("deepseek-v3.1", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>', "", [("f", '{"a": 1}')]),  # noqa: E501
    ],
)  # fmt: skip
def test_every_cut_gives_the_same(form, text, content, calls):
    """Text that comes in any pieces gives the same text and calls; what is no call is text as it was written."""
    pick = random.Random(0)
    for trial in range(60):
        cuts = sorted(pick.sample(range(len(text) + 1), min(len(text), trial // 6)))
        found = Calls(form, {"f"})
        deltas = [d for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True) for d in found.push(text[a:b])]
        deltas += found.push("", last=True)
        if not cuts:  # as an answer that is not streamed comes
            found = Calls(form, {"f"})
            deltas = list(found.push(text, last=True))
        assert "".join(d.get("content", "") for d in deltas) == (text if content is None else content) == found.content
        assert [(c["function"]["name"], c["function"]["arguments"]) for c in found.made] == calls


# ---------------------------------------------------------------- calls that must be made


@pytest.fixture(scope="module", params=[QWEN, LLAMA3], ids=["hermes", "llama3"])
def free(request):
    """A model that writes anything, so that only the constraint makes its text a call."""
    tokenizer = tokenizer_with(request.param)
    with running(Engine(HistoryModel(max_length=4096, vocab_size=tokenizer.vocab_size), tokenizer)) as found:
        engine = found.service.engine  # compiling may take longer than a request may
        compile_kernels(
            engine.tokenizer, engine.eos_ids, engine.model.vocab_size
        )  # it may compile for longer than a request may take
        yield found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", [None, "subtract"], ids=["required", "named"])
def test_calls_that_must_be_made(free, name, stream):
    choice = "required" if name is None else {"type": "function", "function": {"name": name}}
    for seed in range(4):
        ask = {"model": "tiny", "messages": ASK, "tools": TOOLS, "tool_choice": choice, "seed": seed}
        ask["parallel_tool_calls"] = False
        if stream:
            with free.client.chat.completions.stream(**ask) as events:
                found = events.get_final_completion().choices[0]
        else:
            found = free.client.chat.completions.create(**ask).choices[0]
        [(called, arguments)] = calls_of(found.message)
        assert found.finish_reason == "tool_calls" and not found.message.content
        assert called in ([name] if name else ["add_two_numbers", "subtract"])
        assert arguments.keys() >= {"a", "b"} and type(arguments["a"]) is type(arguments["b"]) is int


def test_tools_whose_parameters_cannot_be_followed(free):
    wrong = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "unevaluatedItems": 3}}}
    for choice in ("required", {"type": "function", "function": {"name": "f"}}):
        body = {"model": "tiny", "messages": ASK, "tools": [wrong], "tool_choice": choice}
        answer = httpx.post(f"{free.url}/v1/chat/completions", json=body)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "tools", answer.text
