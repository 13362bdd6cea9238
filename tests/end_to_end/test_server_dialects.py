"""The server's other APIs by their official clients (/v1/responses, Anthropic's, Ollama's), and thoughts."""

from __future__ import annotations

import json

import anthropic
import httpx
import ollama
import openai
import pytest
from _engine_models import ByteTokenizer, HistoryModel
from _servers import running, saying

from llmanac.generate.engine import Engine
from llmanac.web import _ollama
from llmanac.web._errors import ApiError

TEMPLATE = """{%- if tools %}<|im_start|>system
For each call, return a json object: <tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}
{%- if m.content %}{{ m.content }}{% endif %}
{%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""
THOUGHT, TEXT = "They ask for a sum. é", "It is 5, naïve 日本."
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
SAID = f"<think>\n{THOUGHT}\n</think>\n\n{TEXT}"
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
ASK = [{"role": "user", "content": "2 and 3?"}]


@pytest.fixture(scope="module", params=["text", "call"])
def server(request):
    """A model that thinks, and then says a text or a text and a call."""
    engine, asked = saying(SAID + (f"\n{CALL}" if request.param == "call" else ""), TEMPLATE)
    with running(engine, prefix_cache_bytes=None) as found:
        found.asked, found.calls, found.tokenizer = asked, request.param == "call", engine.tokenizer
        found.anthropic = anthropic.Anthropic(base_url=found.url, api_key="none", max_retries=0)
        found.ollama = ollama.Client(host=found.url)
        yield found


def prompt(server):
    return server.tokenizer.decode(server.asked[-1])


def test_chat_tells_thoughts_from_text(server):
    ask = {"model": "tiny", "messages": ASK, "temperature": 0}
    message = server.client.chat.completions.create(**ask).choices[0].message
    assert message.reasoning_content == THOUGHT
    assert message.content == (f"{TEXT}\n{CALL}" if server.calls else TEXT)
    deltas = [c.choices[0].delta for c in server.client.chat.completions.create(**ask, stream=True)]
    thought = "".join(getattr(d, "reasoning_content", None) or "" for d in deltas)
    assert (thought, "".join(d.content or "" for d in deltas)) == (THOUGHT, message.content)


def tools_of(form):
    return [{"name": "add", "description": "adds", form: SCHEMA}]


@pytest.mark.parametrize("stream", [False, True])
def test_messages(server, stream):
    ask = {"model": "tiny", "max_tokens": 500, "messages": ASK, "system": "Be brief.", "extra_body": {"temperature": 0}}
    ask["tools"] = tools_of("input_schema")
    if stream:
        with server.anthropic.messages.stream(**ask) as events:
            names = [event.type for event in events]
            message = events.get_final_message()
        assert names[0] == "message_start" and names[-1] == "message_stop"
    else:
        message = server.anthropic.messages.create(**ask)
    kinds = ["thinking", "text", *(["tool_use"] if server.calls else [])]
    assert [block.type for block in message.content] == kinds
    assert (message.content[0].thinking, message.content[1].text) == (THOUGHT, TEXT)
    assert message.stop_reason == ("tool_use" if server.calls else "end_turn") and message.role == "assistant"
    if server.calls:
        assert (message.content[2].name, message.content[2].input) == ("add", {"a": 2, "b": 3})
    assert "Be brief." in prompt(server) and '"adds"' in prompt(server)
    assert message.usage.input_tokens == len(server.asked[-1])
    counted = server.anthropic.messages.count_tokens(
        **{k: v for k, v in ask.items() if k not in ("max_tokens", "extra_body")}
    )
    assert counted.input_tokens == message.usage.input_tokens


def test_messages_of_earlier_turns(server):
    turns = [
        *ASK,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "I add."},
                {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 2, "b": 3}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "five"}]},
                {"type": "text", "text": "And?"},
            ],
        },
        {"role": "assistant", "content": "So it "},
    ]
    seen = prompt_of(server, lambda: server.anthropic.messages.create(model="tiny", max_tokens=2, messages=turns))
    assert seen.index("<think>hm</think>I add.") < seen.index(CALL) < seen.index("five") < seen.index("And?")
    assert seen.endswith("<|im_start|>assistant\nSo it ")  # the last turn is gone on with


def test_messages_that_stop(server):
    ask = {"model": "tiny", "messages": ASK, "extra_body": {"temperature": 0}}
    cut = server.anthropic.messages.create(**ask, max_tokens=3)
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 3
    stopped = server.anthropic.messages.create(**ask, max_tokens=500, stop_sequences=["xyz", "naïve"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "naïve")
    assert stopped.content[-1].text == "It is 5, "


@pytest.mark.parametrize("stream", [False, True])
def test_responses(server, stream):
    ask = {"model": "tiny", "input": "2 and 3?", "instructions": "Be brief.", "temperature": 0}
    ask["tools"] = [{"type": "function", "strict": False, **one} for one in tools_of("parameters")]
    if stream:
        with server.client.responses.stream(**ask) as events:
            seen = list(events)
            done = events.get_final_response()
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        assert (seen[0].type, seen[-1].type) == ("response.created", "response.completed")
        assert "".join(e.delta for e in seen if e.type == "response.output_text.delta") == TEXT
    else:
        done = server.client.responses.create(**ask)
    assert [item.type for item in done.output] == ["reasoning", "message", *(["function_call"] if server.calls else [])]
    assert done.output_text == TEXT and done.output[0].content[0].text == THOUGHT and done.status == "completed"
    if server.calls:
        assert (done.output[2].name, json.loads(done.output[2].arguments)) == ("add", {"a": 2, "b": 3})
    assert "Be brief." in prompt(server) and done.usage.input_tokens == len(server.asked[-1])


def test_responses_go_on_from_earlier_ones(server):
    ask = {"model": "tiny", "temperature": 0}
    tools = [{"type": "function", "strict": False, **one} for one in tools_of("parameters")]
    first = server.client.responses.create(**ask, input="2 and 3?", instructions="Once.", tools=tools)
    assert server.client.responses.retrieve(first.id).output_text == first.output_text
    following: list = [{"role": "user", "content": [{"type": "input_text", "text": "And 4?"}]}]
    if server.calls:
        following = [{"type": "function_call_output", "call_id": first.output[2].call_id, "output": "five"}, *following]
    second = server.client.responses.create(**ask, input=following, previous_response_id=first.id, tools=tools)
    seen = prompt(server)
    assert second.previous_response_id == first.id and "Once." not in seen
    assert seen.index("2 and 3?") < seen.index(TEXT) < seen.index("And 4?")
    assert not server.calls or seen.index(CALL) < seen.index("five")
    server.client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        server.client.responses.create(**ask, input="x", previous_response_id=first.id)
    unkept = server.client.responses.create(**ask, input="x", store=False)
    with pytest.raises(openai.NotFoundError):
        server.client.responses.retrieve(unkept.id)


def test_responses_by_a_schema_behind_the_thought(server):
    format = {"type": "json_schema", "name": "sum", "schema": SCHEMA, "strict": True}
    done = server.client.responses.create(
        model="tiny", input="2 and 3?", text={"format": format}, max_output_tokens=300, extra_body={"seed": 1}
    )
    assert done.output[0].content[0].text == THOUGHT
    assert set(json.loads(done.output_text)) == {"a", "b"}
    cut = server.client.responses.create(model="tiny", input="2 and 3?", max_output_tokens=3)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("stream", [False, True])
def test_ollama_chat(server, stream):
    tools = [{"type": "function", "function": one} for one in tools_of("parameters")]
    found = server.ollama.chat("tiny", messages=ASK, tools=tools, stream=stream, options={"temperature": 0})
    parts = list(found) if stream else [found]
    assert "".join(part.message.thinking or "" for part in parts) == THOUGHT
    assert "".join(part.message.content or "" for part in parts) == TEXT
    calls = [call.function for part in parts for call in part.message.tool_calls or ()]
    assert [(call.name, call.arguments) for call in calls] == ([("add", {"a": 2, "b": 3})] if server.calls else [])
    assert parts[-1].done and parts[-1].done_reason == "stop" and parts[-1].prompt_eval_count == len(server.asked[-1])
    assert [part.done for part in parts[:-1]] == [False] * (len(parts) - 1)


def test_ollama_generate_and_lists(server):
    options = {"temperature": 0}
    found = server.ollama.generate("tiny:latest", "2 and 3?", system="Be brief.", options=options)
    assert found.response.startswith(TEXT) and found.thinking == THOUGHT and "Be brief." in prompt(server)
    raw = server.ollama.generate("tiny", "2 and", raw=True, options={**options, "num_predict": 4})
    assert raw.done_reason == "length" and raw.eval_count == 4 and prompt(server) == "2 and"
    whole = "".join(part.response for part in server.ollama.generate("tiny", "a", stream=True, options=options))
    assert whole.startswith(TEXT)
    by_schema = server.ollama.chat("tiny", messages=ASK, format=SCHEMA, options={"num_predict": 300})
    assert set(json.loads(by_schema.message.content)) == {"a", "b"}
    assert server.ollama.list().models[0].model == server.ollama.ps().models[0].model == "tiny:latest"
    shown = server.ollama.show("tiny")
    assert shown.capabilities == ["completion", "tools", "thinking"] and "im_start" in shown.template
    with pytest.raises(ollama.ResponseError, match="owl"):
        server.ollama.chat("owl", messages=ASK)


def test_thinking_is_switched_and_bounded(server):
    ask = {"model": "tiny", "messages": ASK, "temperature": 0}

    def message(**more):
        return server.client.chat.completions.create(**ask, **more).choices[0].message

    plain = prompt_of(server, lambda: message())
    for more in ({"reasoning_effort": "none"}, {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}):
        assert prompt_of(server, lambda more=more: message(**more)) == plain + "<think>\n\n</think>\n\n"
    assert prompt_of(server, lambda: message(reasoning_effort="high")) == plain
    for budget in (0, 4, 9):
        cut = message(extra_body={"thinking_budget": budget})
        assert getattr(cut, "reasoning_content", "") == "\n".join(["", THOUGHT]).encode()[:budget].decode().strip()
    ask = {"model": "tiny", "max_tokens": 9, "messages": ASK}
    off = prompt_of(server, lambda: server.anthropic.messages.create(**ask, thinking={"type": "disabled"}))
    assert off == plain + "<think>\n\n</think>\n\n"
    thinking = {"type": "enabled", "budget_tokens": 4}
    cut = server.anthropic.messages.create(**ask | {"max_tokens": 50}, thinking=thinking, extra_body={"temperature": 0})
    assert cut.content[0].thinking == "\n".join(["", THOUGHT])[:4].strip()


def prompt_of(server, call):
    server.asked.clear()  # a prompt that goes on from the one before is not taken for a new one
    call()
    return prompt(server)


def test_a_message_is_gone_on_with(server):
    ask = {"model": "tiny", "messages": [*ASK, {"role": "assistant", "content": "It is  "}], "temperature": 0}

    def seen(**body):
        return prompt_of(server, lambda: server.client.chat.completions.create(**ask, max_tokens=1, extra_body=body))

    assert seen(continue_final_message=True, add_generation_prompt=False).endswith("<|im_start|>assistant\nIt is  ")
    assert seen(add_generation_prompt=False).endswith("It is  <|im_end|>\n")


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/messages", {}, 400, "model"),
        ("/v1/messages", {"model": "tiny", "messages": ASK}, 400, "max_tokens"),
        ("/v1/messages", {"model": "owl", "messages": ASK, "max_tokens": 1}, 404, "owl"),
        ("/v1/messages", {"model": "tiny", "messages": [], "max_tokens": 1}, 400, "messages"),
        ("/v1/messages", {"model": "tiny", "messages": ASK, "max_tokens": 1, "temperature": 2}, 400, "temperature"),
        (
            "/v1/messages",
            {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "tool_use"}]}]},
            400,
            "messages.0.content.0",
        ),
        ("/v1/responses", {"model": "tiny"}, 400, "input"),
        ("/v1/responses", {"model": "tiny", "input": [{"type": "function_call"}]}, 400, "input.0"),
        ("/v1/responses", {"model": "tiny", "input": "a", "background": True}, 400, "background"),
        (
            "/v1/responses",
            {"model": "tiny", "input": "a", "previous_response_id": "resp_1"},
            404,
            "previous_response_id",
        ),
        ("/api/chat", {"model": "tiny"}, 400, "messages"),
        ("/api/generate", {"model": "tiny", "prompt": "a", "suffix": "b"}, 400, "suffix"),
        ("/api/generate", {"model": "tiny", "prompt": "a", "options": {"temperature": -1}}, 400, "temperature"),
        ("/api/embed", {"model": "tiny", "input": "a"}, 404, "embedding"),
        (
            "/v1/messages",
            {"model": "tiny", "max_tokens": 1, "messages": ASK, "system": [{"type": "image"}]},
            400,
            "system: only text",
        ),
        (
            "/v1/messages",
            {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "document"}]}]},
            400,
            "messages.0.content.0.type: input should be 'text'",
        ),
        (
            "/v1/responses",
            {"model": "tiny", "input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            400,
            "input.0.content.0.type: input should be 'input_text'",
        ),
        ("/api/generate", {"model": "tiny", "prompt": "a", "raw": True, "system": "Be brief."}, 400, "system"),
        ("/api/generate", {"model": "tiny", "prompt": "a", "raw": True, "images": ["AA=="]}, 400, "images"),
    ],
)
def test_errors_are_in_each_apis_form(server, path, body, status, said):
    answer = httpx.post(server.url + path, json=body)
    error = answer.json()["error"]
    assert answer.status_code == status, answer.text
    assert said in (error if path.startswith("/api") else error["message"])
    assert path != "/v1/messages" or answer.json()["type"] == "error"


def test_an_error_names_its_field_once():
    assert ApiError(400, "n: is too large").param == "n" and ApiError(404, "no such page").param is None
    with pytest.raises(ApiError) as caught:  # of /api/generate, which has no list of messages
        _ollama._message(_ollama.OllamaMessage(role="user", images=["****"]), "", 0)
    assert caught.value.param == "images.0"


def test_messages_by_a_schema_and_what_is_not_read_of_a_result(server):
    failed = {"type": "tool_result", "tool_use_id": "t", "content": "no", "is_error": True}
    used = {"type": "tool_use", "id": "t", "name": "add", "input": {}}
    turns = [*ASK, {"role": "assistant", "content": [used]}, {"role": "user", "content": [failed]}]
    form = {"type": "json_schema", "schema": SCHEMA}
    ask = {"model": "tiny", "max_tokens": 80, "messages": turns, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/messages", json={**ask, "output_config": {"format": form, "effort": "low"}})
    assert answer.headers["x-llmanac-ignored"] == "messages.content.is_error, output_config.effort"
    assert json.loads(answer.json()["content"][-1]["text"]).keys() == SCHEMA["properties"].keys()


def test_a_stream_that_fails_says_so_in_each_apis_form():
    def broken(ids):
        raise RuntimeError("no")

    with running(Engine(HistoryModel(script=broken), ByteTokenizer())) as server:
        asked = {"model": "tiny", "messages": ASK, "stream": True}
        lines = httpx.post(f"{server.url}/v1/messages", json={**asked, "max_tokens": 4}).text
        assert "event: error" in lines and '"api_error"' in lines
        assert "its log says why" in json.loads(httpx.post(f"{server.url}/api/chat", json=asked).text)["error"]
        asked = {"model": "tiny", "input": "a", "stream": True}
        assert "event: response.failed" in httpx.post(f"{server.url}/v1/responses", json=asked).text


def test_keys_and_origins():
    from llmanac.web.hosts import Hosts

    hosts = Hosts(origins=["https://app.example"])
    with running(Engine(HistoryModel(), ByteTokenizer()), hosts=hosts, api_keys=["secret"]) as server:
        url, body = f"{server.url}/v1/chat/completions", {"model": "tiny", "messages": ASK, "max_tokens": 1}
        key = {"x-api-key": "secret"}
        page = {"origin": "https://app.example"}
        asks = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, content-type",
        }
        told = httpx.options(url, headers={**page, **asks})
        assert told.status_code == 204 and told.headers["access-control-allow-origin"] == page["origin"]
        assert told.headers["access-control-allow-headers"] == asks["access-control-request-headers"]
        answer = httpx.post(url, json=body, headers={**page, **key})
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == page["origin"]
        assert httpx.post(url, json=body, headers=page).status_code == 401
        assert (
            httpx.post(url, json=body, headers={**page, **asks}).status_code == 401
        )  # asking is no way around the key
        other = {"origin": "https://other.example"}
        assert httpx.options(url, headers={**other, **asks}).status_code == 403
        refused = httpx.post(url, json=body, headers={**other, **key})
        assert refused.status_code == 403 and "access-control-allow-origin" not in refused.headers
        assert "access-control-allow-origin" not in httpx.post(url, json=body, headers=key).headers
