"""Every field of a request is read, refused by its name, or named in a header."""

from __future__ import annotations

import httpx
import pytest
from _servers import ASK

from llmanac.web import _wire
from llmanac.web._wire import UNSUPPORTED, WITHOUT_EFFECT

CHAT = {"model": "tiny", "messages": ASK, "max_tokens": 2}
TEXT = {"model": "tiny", "prompt": "abc", "max_tokens": 2}
CALL = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
ODD = {"asks": "for something"}  # a value that no field is neutral at


def post(server, path, body):
    return httpx.post(f"{server.url}{path}", json=body, timeout=60)


@pytest.mark.parametrize(
    ("path", "body", "table"),
    [
        ("/v1/chat/completions", CHAT, {**UNSUPPORTED["both"], **UNSUPPORTED["chat"]}),
        ("/v1/completions", TEXT, {**UNSUPPORTED["both"], **UNSUPPORTED["completion"]}),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name_unless_it_asks_for_nothing(server, path, body, table):
    for name in table:
        answer = post(server, path, {**body, name: ODD})
        assert answer.status_code == 400, name
        assert answer.json()["error"]["param"] == name and answer.json()["error"]["code"] == "unsupported"
    nothing = {name: neutral[0] if neutral else None for name, neutral in table.items()}
    answer = post(server, path, {**body, **nothing})
    assert answer.status_code == 200 and "x-llmanac-ignored" not in answer.headers


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"frequency_penalty": False}, "frequency_penalty"),  # JSON's false is not 0
        ({"min_tokens": False}, "min_tokens"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"n": 129}, "n"),
        ({"max_completion_tokens": 1}, "max_completion_tokens"),  # beside max_tokens
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"thinking_budget": 5}, "thinking_budget"),  # a template without thoughts
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"model": "tiny", "messages": [{"role": "owl", "content": "4"}]}, "messages.0.role"),
        ({"model": "tiny", "messages": [*ASK, {"role": "user", "tool_calls": [CALL]}]}, "messages.1.tool_calls"),
        ({"model": "tiny", "messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content"),
    ],
)
def test_the_error_names_the_field(server, extra, param):
    answer = post(server, "/v1/chat/completions", {**CHAT, **extra})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_key_twice_is_refused(server, path):
    sent = (
        b'{"model": "tiny", "prompt": "a", "messages": [{"role": "user", "content": "a", "content": "b"}], "seed": 1}'
    )
    if path == "/v1/completions":
        sent = b'{"model": "tiny", "prompt": "a", "prompt": "b"}'
    answer = httpx.post(f"{server.url}{path}", content=sent, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "twice" in answer.json()["error"]["message"], answer.text


def test_what_is_not_read_is_named(server):
    harmless = dict.fromkeys(WITHOUT_EFFECT, "x")
    answer = post(server, "/v1/chat/completions", {**CHAT, **harmless, "made_up": 0})
    assert answer.status_code == 200
    assert answer.headers["x-llmanac-ignored"].split(", ") == sorted([*WITHOUT_EFFECT, "made_up"])
    nested = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "cache": 1}], "name": "Ann"}],
        "stream_options": {"include_usage": True},
    }
    named = post(server, "/v1/chat/completions", {**CHAT, **nested}).headers["x-llmanac-ignored"].split(", ")
    assert named == ["messages.content.cache", "messages.name", "stream_options"]
    named = post(server, "/tokenize", {"prompt": "a", "made_up": "other"}).headers["x-llmanac-ignored"]
    assert named == "made_up"
    assert post(server, "/tokenize", {"prompt": "a", "model": "other"}).status_code == 404


def test_names_cannot_break_the_header(server):
    odd = {"": 1, " ": 2, "a\r\nx-evil: yes": 3, "日本": 4, "x" * 500: 5, "a,b": 6}
    answer = post(server, "/v1/completions", {**TEXT, **odd})
    assert answer.status_code == 200 and "x-evil" not in answer.headers
    assert len(answer.headers["x-llmanac-ignored"].split(", ")) == len(odd)
    many = {f"field{i:03}": 1 for i in range(100)}
    assert "and 80 more" in post(server, "/v1/completions", {**TEXT, **many}).headers["x-llmanac-ignored"]


def test_bodies_are_what_the_schema_says(server):
    for wrong in (
        {"model": "tiny", "prompt": 5},
        {"model": "tiny", "prompt": "a", "add_special_tokens": "yes"},
        {"model": "tiny", "prompt": "a", "add_special_tokens": 1},
    ):
        answer = post(server, "/tokenize", wrong)
        assert answer.status_code == 400 and answer.json()["error"]["param"] in wrong, answer.text
    assert post(server, "/v1/completions", {**TEXT, "max_tokens": 2.0, "prompt": [97.0, 98]}).status_code == 200
    assert post(server, "/v1/completions", {**TEXT, "max_tokens": 2.5}).status_code == 400


def test_more_text_than_one_request_may_hold(server, monkeypatch):
    long = "a" * (_wire.MAX_TEXT + 1)
    for path, body, param in (
        ("/tokenize", {"prompt": long}, "prompt"),
        ("/v1/completions", {"model": "tiny", "prompt": long}, "prompt"),
        ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": long}]}, "messages"),
    ):
        answer = post(server, path, body)
        assert answer.status_code == 400 and answer.json()["error"]["param"].startswith(param), answer.text[:300]
    monkeypatch.setattr(_wire, "MAX_TEXT", 100)  # all texts of a request together
    for path, body in (
        ("/v1/completions", {"model": "tiny", "prompt": ["a" * 60, "b" * 60]}),
        ("/v1/completions", {"model": "tiny", "prompt": [[97] * 60, [98] * 60]}),
        ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "a" * 60}] * 2}),
    ):
        error = post(server, path, body).json()["error"]
        assert error["code"] == "text_too_long" and error["param"] in body
