"""Replies that must be JSON, match a regular expression or follow a grammar, with the official client."""

from __future__ import annotations

import concurrent.futures
import json
import re
import time
from typing import Literal

import httpx
import jsonschema
import pydantic
import pytest
from _engine_models import ByteTokenizer, HistoryModel
from _servers import ASK, running

from llmanac.core.errors import RequestError
from llmanac.generate.constrain import compile_kernels
from llmanac.generate.constrain.matcher import MaskFollower
from llmanac.generate.engine import Engine


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=8)
    kind: Literal["cat", "dog"]
    ages: list[int] = pydantic.Field(max_length=3)


SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "age": {"type": "integer", "minimum": 0, "maximum": 40}},
    "required": ["kind", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server():
    with running(Engine(HistoryModel(max_length=2048), ByteTokenizer(), rows=16)) as found:
        engine = found.service.engine
        # it may compile for longer than a request may take
        compile_kernels(engine.tokenizer, engine.eos_ids, engine.model.vocab_size)
        yield found


def said(server, stream, **fields):
    ask = {"model": "tiny", "messages": ASK, "max_tokens": 1500, **fields}
    if not stream:
        choice = server.client.chat.completions.create(**ask).choices[0]
        return choice.message.content, choice.finish_reason
    chunks = list(server.client.chat.completions.create(**ask, stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    return text, chunks[-1].choices[0].finish_reason


def by_schema(schema):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "pet", "schema": schema}}}


@pytest.mark.parametrize("stream", [False, True])
def test_json_by_a_schema(server, stream):
    for seed in range(4):
        text, reason = said(server, stream, **by_schema(SCHEMA), seed=seed)
        jsonschema.validate(json.loads(text), SCHEMA)
        assert reason == "stop"
    for given in (SCHEMA, json.dumps(SCHEMA)):
        text, _ = said(server, stream, extra_body={"structured_outputs": {"json": given}}, seed=9)
        jsonschema.validate(json.loads(text), SCHEMA)


def test_the_clients_own_parsing(server):
    reply = server.client.chat.completions.parse(
        model="tiny", messages=ASK, response_format=Person, max_tokens=1500, seed=2, temperature=0.3
    )
    person = reply.choices[0].message.parsed
    assert isinstance(person, Person) and person.kind in ("cat", "dog")


def test_any_object(server):
    bias = {str(ord("}")): 12, str(ord(chr(34))): 4}  # a short one
    text, reason = said(server, False, response_format={"type": "json_object"}, logit_bias=bias, seed=1)
    assert reason == "stop" and isinstance(json.loads(text), dict)


@pytest.mark.parametrize("chat", [False, True])
def test_the_other_structures(server, chat):
    structures = {
        "regex": (r"[a-c]{3}-(\d\d|x)", lambda text: re.fullmatch(r"[a-c]{3}-(\d\d|x)", text)),
        "choice": (["yes", "no", "per(haps"], lambda text: text in ("yes", "no", "per(haps")),
        "grammar": ('start: "a" start "b" | "c"', lambda text: re.fullmatch("(a*)c(b*)", text)),
    }
    for name, (given, right) in structures.items():
        fields = {"n": 8, "seed": 4, "temperature": 3, "max_tokens": 200}
        fields["extra_body"] = {"structured_outputs": {name: given}}
        if chat:
            choices = server.client.chat.completions.create(model="tiny", messages=ASK, **fields).choices
            texts = [choice.message.content for choice in choices]
        else:
            texts = [c.text for c in server.client.completions.create(model="tiny", prompt="a", **fields).choices]
        assert all(right(text) for text in texts), texts
        assert len(set(texts)) > 1


def test_a_text_that_is_complete_ends(server):
    """Whatever else is asked: without an end-of-text token nothing could follow."""
    body = {"ignore_eos": True, "structured_outputs": {"choice": ["done"]}}
    text, reason = said(server, False, extra_body=body)
    assert (text, reason) == ("done", "stop")
    text, reason = said(server, False, max_tokens=2, extra_body={"structured_outputs": {"choice": ["done"]}})
    assert (text, reason) == ("do", "length")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (by_schema({"type": "pear"}), "response_format.json_schema.schema"),
        (by_schema(False), "response_format.json_schema.schema"),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": r"(a)\1"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"grammar": "start: missing"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"json": {"not": {}}}}, "structured_outputs.json"),
        ({"structured_outputs": {"regex": "a" * 70_000}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "((a{1000}){1000}){1000}"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ],
)
def test_what_cannot_be_followed_is_refused(server, fields, param):
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", json={"model": "tiny", "messages": ASK, **fields}, timeout=60
    )
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text
    assert param in answer.json()["error"]["message"]


def test_a_constraint_that_fails_ends_its_own_request_only(server, monkeypatch, caplog):
    advance = MaskFollower.advance

    def failing(follower, token):
        if follower.text.startswith(b"xx"):
            raise RequestError("the constraint is too ambiguous for a text of this length; simplify it")
        advance(follower, token)

    monkeypatch.setattr(MaskFollower, "advance", failing)
    url = f"{server.url}/v1/completions"
    body = {"model": "tiny", "prompt": "a", "max_tokens": 60, "ignore_eos": True}
    broken = {**body, "structured_outputs": {"regex": "x{50}|x{60}y"}}
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        others = [pool.submit(httpx.post, url, json={**body, "seed": i}, timeout=60) for i in range(2)]
        for stream in (False, True):
            answer = httpx.post(url, json={**broken, "stream": stream}, timeout=60)
            assert "too ambiguous" in answer.text and answer.status_code == (200 if stream else 400)
            assert '"param":"structured_outputs.regex"' in answer.text
        assert all(other.result().json()["usage"]["completion_tokens"] == 60 for other in others)
    end = time.monotonic() + 30  # a reply is sent before its row is free
    while server.service.worker.counts != (0, 0) and time.monotonic() < end:
        time.sleep(0.05)
    assert server.service.worker.counts == (0, 0)
    logged = [record for record in caplog.records if record.name.startswith("llmanac")]
    assert len(logged) == 2 and not any(record.exc_info for record in logged)


@pytest.mark.parametrize("temperature", [0, 1])
def test_forced_tokens_have_log_probabilities(server, temperature):
    url = f"{server.url}/v1"
    ask = {"max_tokens": 60, "temperature": temperature, "seed": 3, "structured_outputs": {"regex": "[xy]{3} abc|zz"}}
    scored = httpx.post(
        f"{url}/completions", json={"model": "tiny", "prompt": "a", "logprobs": 2, **ask}, timeout=60
    ).json()
    logs = scored["choices"][0]["logprobs"]
    assert all(-100 < value < 0 for value in logs["token_logprobs"]) and all(len(t) >= 2 for t in logs["top_logprobs"])
    plain = httpx.post(f"{url}/completions", json={"model": "tiny", "prompt": "a", **ask}, timeout=60).json()
    assert plain["choices"][0]["text"] == scored["choices"][0]["text"]  # the same draws
    chat = {"model": "tiny", "messages": ASK, "logprobs": True, "top_logprobs": 2, **ask}
    found = httpx.post(f"{url}/chat/completions", json=chat, timeout=60).json()["choices"][0]["logprobs"]["content"]
    assert all(token["logprob"] > -100 and len(token["top_logprobs"]) == 2 for token in found)
