"""The server when things go wrong: bad requests, errors of HTTP, a full queue, clients that go away, failures."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import time

import httpx
import openai
import pytest
from _engine_models import ByteTokenizer, HistoryModel
from _servers import ASK, running, wait_until

from llmanac.generate.engine import Engine

# ---------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "ten"}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"logprobs": 21}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"model": "tiny", "prompt": []}, "prompt"),
        ({"model": "tiny", "prompt": {"a": 1}}, "prompt"),
        ({"model": "tiny", "prompt": [[1, 999]]}, "prompt"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"260": 1}}, "logit_bias"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
    ],
)
def test_bad_requests_name_the_field(server, body, param):
    answer = httpx.post(f"{server.url}/v1/completions", json={"model": "tiny", "prompt": "abc", **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and param in error["message"] and error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body",
    [
        {"model": "tiny", "messages": []},
        {},
        {"model": "tiny", "messages": "hi"},
        {"model": "tiny", "messages": [{"content": "hi"}]},
    ],
)
def test_bad_messages(server, body):
    answer = httpx.post(f"{server.url}/v1/chat/completions", json={"model": "tiny", **body})
    assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("messages")


def test_errors_of_http(server):
    with pytest.raises(openai.NotFoundError, match="'tiny'") as caught:
        server.client.chat.completions.create(model="other", messages=ASK)
    assert caught.value.code == "model_not_found"
    assert server.client.models.retrieve("tiny.gguf").id == "tiny"  # the name that the file would have is taken too
    url, as_json = f"{server.url}/v1/completions", {"content-type": "application/json"}
    cases = [
        (httpx.get(f"{server.url}/v1/nothing"), 404),
        (httpx.get(url), 405),
        (httpx.post(url, content="{", headers=as_json), 400),
        (httpx.post(url, content="[]", headers=as_json), 400),
        (httpx.post(url, content="{}", headers={"content-type": "text/plain"}), 415),
        (httpx.post(url, content=b'{"prompt":"\xff"}', headers=as_json), 400),
    ]
    for answer, status in cases:
        assert answer.status_code == status, answer.text
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_large_bodies_are_refused_with_and_without_a_length():
    with running(Engine(HistoryModel(), ByteTokenizer()), max_body=1000) as small:
        headers = {"content-type": "application/json"}
        long = json.dumps({"model": "tiny", "prompt": "a" * 2000}).encode()
        answer = httpx.post(f"{small.url}/v1/completions", content=long, headers=headers)
        assert answer.status_code == 413 and "1000 bytes" in answer.json()["error"]["message"]
        pieces = (long[i : i + 500] for i in range(0, len(long), 500))
        answer = httpx.post(f"{small.url}/v1/completions", content=pieces, headers=headers)
        assert answer.status_code == 413
        assert httpx.post(f"{small.url}/v1/completions", json={"model": "tiny", "prompt": "ab"}).status_code == 200


def test_a_model_without_a_template_says_what_to_use():
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = None
    with running(Engine(HistoryModel(), tokenizer)) as plain:
        with pytest.raises(openai.BadRequestError, match="use /v1/completions"):
            plain.client.chat.completions.create(model="tiny", messages=ASK)
        assert plain.client.models.list().data[0].llmanac == {"chat": False, "assistant": False}


# ---------------------------------------------------------------- a full queue, disconnects, failures


def test_a_full_queue_answers_429_at_once_and_the_client_may_retry():
    model = HistoryModel(seconds=0.03, max_length=None)
    with running(Engine(model, ByteTokenizer(), rows=1), max_queue=1) as busy:
        endless = {"model": "tiny", "prompt": "abc", "max_tokens": 60, "extra_body": {"ignore_eos": True}}
        first = busy.client.completions.create(**endless, stream=True)
        next(iter(first))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            second = pool.submit(busy.client.completions.create, **{**endless, "max_tokens": 3})
            wait_until(lambda: busy.service.worker.counts == (1, 1))
            with pytest.raises(openai.RateLimitError) as caught:
                busy.client.completions.create(**endless)
            assert caught.value.response.headers["retry-after"] == "1" and caught.value.code == "server_busy"
            assert busy.client.models.list().data[0].id == "tiny"  # the rest still answers
            patient = pool.submit(
                busy.client.with_options(max_retries=4).completions.create, **{**endless, "max_tokens": 2}
            )
            first.close()
            assert second.result().usage.completion_tokens == 3
            assert patient.result().usage.completion_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_takes_its_work_with_it(stream):
    model = HistoryModel(seconds=0.005, max_length=None)
    with running(Engine(model, ByteTokenizer(), rows=2)) as slow:
        body = {"model": "tiny", "prompt": ["abc", "defg"], "max_tokens": 100_000, "ignore_eos": True, "stream": stream}
        with socket.create_connection(("127.0.0.1", int(slow.url.rpartition(":")[2]))) as raw:
            data = json.dumps(body).encode()
            head = ["POST /v1/completions HTTP/1.1", "host: localhost", "content-type: application/json"]
            raw.sendall("\r\n".join([*head, f"content-length: {len(data)}", "", ""]).encode() + data)
            wait_until(lambda: model.calls > 5)
        wait_until(lambda: slow.service.worker.counts == (0, 0))
        wait_until(lambda: not slow.service.worker.scheduler.busy)
        calls = model.calls
        time.sleep(0.1)
        assert model.calls == calls
        assert slow.client.completions.create(model="tiny", prompt="x", max_tokens=2).usage.completion_tokens >= 1


def test_a_waiting_client_that_goes_away_leaves_the_queue():
    model = HistoryModel(seconds=0.01, max_length=None)
    with running(Engine(model, ByteTokenizer(), rows=1)) as slow:
        endless = {"model": "tiny", "prompt": "abc", "max_tokens": 100_000, "extra_body": {"ignore_eos": True}}
        first = slow.client.completions.create(**endless, stream=True)
        next(iter(first))
        second = slow.client.completions.create(**endless, stream=True)
        assert slow.service.worker.counts == (1, 1)
        second.close()
        wait_until(lambda: slow.service.worker.counts == (1, 0))
        with pytest.raises(openai.APITimeoutError):
            slow.client.with_options(timeout=0.5).completions.create(**endless)
        wait_until(lambda: slow.service.worker.counts == (1, 0))
        first.close()
        wait_until(lambda: slow.service.worker.counts == (0, 0))


def test_a_failure_is_an_error_before_and_after_the_headers():
    model = HistoryModel(fail_at=9, max_length=None)
    with running(Engine(model, ByteTokenizer())) as broken:
        with pytest.raises(openai.InternalServerError) as caught:
            broken.client.completions.create(model="tiny", prompt="abc", max_tokens=50, extra_body={"ignore_eos": True})
        assert "the model broke" not in caught.value.message  # that is in the log
        got = []
        with pytest.raises(openai.APIError, match="server failed"):
            for chunk in broken.client.completions.create(
                model="tiny", prompt="abc", max_tokens=50, stream=True, extra_body={"ignore_eos": True}
            ):
                got.append(chunk)
        assert got and all(c.choices[0].finish_reason is None for c in got)
        reply = broken.client.completions.create(model="tiny", prompt="abc", max_tokens=3, temperature=0)
        assert reply.usage.completion_tokens >= 1  # and the server lives on


def test_a_client_that_goes_away_while_it_sends_is_no_failure(server, capsys):
    host, port = server.url.removeprefix("http://").split(":")
    for _ in range(5):
        with socket.create_connection((host, int(port))) as sent:
            head = "POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 999"
            sent.sendall(f"{head}\r\n\r\n{{".encode())
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    wait_until(lambda: not server.service.worker.counts[0])
    time.sleep(0.2)  # what would be written is written by another thread
    said = capsys.readouterr()
    assert "failed" not in said.err and "Traceback" not in said.err
