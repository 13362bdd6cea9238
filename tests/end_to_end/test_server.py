"""The server with the official `openai` client, over a real socket on the loopback."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import math
import socket
import threading
import time
from types import SimpleNamespace

import httpx
import openai
import pytest
import uvicorn
from _engine_models import EOS, ByteTokenizer, HistoryModel, script_of

from llmanac.generate.engine import Engine
from llmanac.web.serve import claim_port
from llmanac.web.server import create_app


@contextlib.contextmanager
def running(engine: Engine, **options):
    """A server in a thread; yields its address, an openai client, and the app's service."""
    app = create_app(engine, **{"model_name": "tiny", **options})
    claimed = claim_port("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [claimed]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{claimed.getsockname()[1]}"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
    try:
        yield SimpleNamespace(url=url, client=client, service=app.state.service)
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        claimed.close()


def wait_until(condition, seconds=10.0):
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def server():
    with running(Engine(HistoryModel(), ByteTokenizer())) as found:
        yield found


@pytest.fixture(scope="module")
def engine(server):
    """An engine of its own with the same model: what the server must agree with."""
    return Engine(HistoryModel(), ByteTokenizer())


def hello(messages):
    return ByteTokenizer().encode_chat(messages, add_generation_prompt=True)[0]


ASK = [{"role": "user", "content": "hi"}]
UTF8 = "naïve 日本 🙂!"


@pytest.fixture(scope="module")
def scripted():
    """A server whose model says UTF8 after ASK and after the prompt 'abc'."""
    model = HistoryModel(script=script_of(UTF8, len(hello(ASK))) | script_of(UTF8, 203), max_length=400)
    with running(Engine(model, ByteTokenizer())) as found:
        yield found


# ---------------------------------------------------------------- chat


def test_chat(scripted):
    reply = scripted.client.chat.completions.create(model="tiny", messages=ASK, temperature=0)
    choice = reply.choices[0]
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (UTF8, "assistant", "stop")
    read, written = len(hello(ASK)), len(UTF8.encode()) + 1
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (read, written)
    assert reply.usage.total_tokens == read + written
    assert reply.object == "chat.completion" and reply.id.startswith("chatcmpl-") and reply.model == "tiny"


def test_chat_stream(scripted):
    chunks = list(scripted.client.chat.completions.create(model="tiny", messages=ASK, temperature=0, stream=True))
    assert all(len(c.choices) == 1 for c in chunks)  # no chunk without choices unless usage was asked for
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == UTF8
    assert all("\ufffd" not in (c.choices[0].delta.content or "") for c in chunks)
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({c.id for c in chunks}) == 1


def test_stream_usage_is_the_last_chunk_and_only_on_request(scripted):
    chunks = list(
        scripted.client.chat.completions.create(
            model="tiny", messages=ASK, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == len(UTF8.encode()) + 1
    assert all(c.choices and not c.usage for c in chunks[:-1])


def test_the_sdks_accumulator_agrees(scripted):
    with scripted.client.chat.completions.stream(model="tiny", messages=ASK, temperature=0) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == UTF8 and final.choices[0].finish_reason == "stop"


def test_chat_content_parts_and_developer_role(scripted):
    parts = [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]
    assert (
        scripted.client.chat.completions.create(model="tiny", messages=parts, temperature=0).choices[0].message.content
        == UTF8
    )
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    with pytest.raises(openai.BadRequestError, match="image_url"):
        scripted.client.chat.completions.create(model="tiny", messages=picture)


@pytest.mark.parametrize("stop", ["本", ["zzz", "e 日"], "🙂"])
def test_stop_strings_across_tokens(scripted, stop):
    first = min(UTF8.find(s) for s in ([stop] if isinstance(stop, str) else stop) if s in UTF8)
    ask = {"model": "tiny", "messages": ASK, "temperature": 0, "stop": stop}
    reply = scripted.client.chat.completions.create(**ask)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (UTF8[:first], "stop")
    chunks = list(scripted.client.chat.completions.create(**ask, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == UTF8[:first]


def test_max_tokens_and_its_alias(scripted):
    for name in ("max_tokens", "max_completion_tokens"):
        reply = scripted.client.chat.completions.create(model="tiny", messages=ASK, temperature=0, **{name: 5})
        assert reply.usage.completion_tokens == 5 and reply.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs(server, engine, stream):
    ask = {"model": "tiny", "messages": ASK, "temperature": 0, "max_tokens": 12, "logprobs": True, "top_logprobs": 3}
    expected = engine.generate([hello(ASK)], max_new_tokens=12, logprobs=3)[0]
    if stream:
        chunks = list(server.client.chat.completions.create(**ask, stream=True))
        content = [e for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    else:
        content = server.client.chat.completions.create(**ask).choices[0].logprobs.content
    assert len(content) == len(expected.ids)
    for entry, score in zip(content, expected.scores, strict=True):
        assert bytes(entry.bytes) == ByteTokenizer().token_bytes(score.id)
        assert entry.logprob == pytest.approx(score.logprob)
        assert [t.logprob for t in entry.top_logprobs] == pytest.approx(list(score.top.values()))
        assert entry.top_logprobs[0].token == entry.token  # greedy


# ---------------------------------------------------------------- completions


@pytest.mark.parametrize("stream", [False, True])
def test_completions_of_every_kind_of_prompt(server, engine, stream):
    texts = ["second", "x y", "日本"]
    expected = [c.text for c in engine.generate(texts, max_new_tokens=9)]
    forms = [texts[0], texts, list(texts[0].encode()), [list(t.encode()) for t in texts]]
    for prompt in forms:
        ask = {"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 9}
        count = len(texts) if isinstance(prompt[0], (list, str)) and not isinstance(prompt, str) else 1
        got = [""] * count
        if stream:
            for chunk in server.client.completions.create(**ask, stream=True):
                got[chunk.choices[0].index] += chunk.choices[0].text
        else:
            reply = server.client.completions.create(**ask)
            assert [c.index for c in reply.choices] == list(range(count))
            got = [c.text for c in reply.choices]
        assert got == expected[:count]


@pytest.mark.parametrize("stream", [False, True])
def test_samples_and_seeds(server, engine, stream):
    ask = {"model": "tiny", "prompt": ["second", "x"], "n": 3, "seed": 11, "top_p": 0.9, "max_tokens": 10}
    expected = [
        c.text for c in engine.generate(["second", "x"], n=3, seed=11, temperature=1.0, top_p=0.9, max_new_tokens=10)
    ]
    if stream:
        got = [""] * 6
        for chunk in server.client.completions.create(**ask, stream=True):
            got[chunk.choices[0].index] += chunk.choices[0].text
    else:
        got = [c.text for c in server.client.completions.create(**ask).choices]
    assert got == expected
    free = [
        server.client.completions.create(**{**ask, "n": 1, "seed": openai.NOT_GIVEN}).choices[0].text for _ in range(2)
    ]
    assert free[0] != free[1]  # without a seed, a fresh one


@pytest.mark.parametrize("stream", [False, True])
def test_echo_and_logprobs_as_an_evaluation_harness_reads_them(server, engine, stream):
    """Token-id prompts in a batch, echo, logprobs, one new token: exact equality decides what was greedy."""
    prompts = [list(b"The cat sat on the mat"), [0xE6, 0x97, 0xA5, 0xE6, 0x97], [65], list(b"0123456789" * 19)]
    ask = {
        "model": "tiny",
        "prompt": prompts,
        "echo": True,
        "logprobs": 1,
        "max_tokens": 1,
        "temperature": 0,
        "seed": 1234,
    }
    if stream:
        parts = [{"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []} for _ in prompts]
        for chunk in server.client.completions.create(**ask, stream=True):
            for key, value in parts[chunk.choices[0].index].items():
                value += getattr(chunk.choices[0].logprobs, key)
        logs = [SimpleNamespace(**p) for p in parts]
    else:
        reply = server.client.completions.create(**ask)
        assert reply.choices[0].text.startswith("The cat sat on the mat")
        logs = [c.logprobs for c in reply.choices]
    for prompt, log in zip(prompts, logs, strict=True):
        assert (
            len(log.tokens) == len(log.token_logprobs) == len(log.top_logprobs) == len(prompt) + 1
        )  # exactly one is new
        assert log.token_logprobs[0] is None and log.top_logprobs[0] is None
        for place in range(1, len(prompt)):
            exact = engine.model.logits_of(prompt[:place]).log_softmax(0)
            value = log.token_logprobs[place]
            assert value == pytest.approx(float(exact[prompt[place]]), abs=1e-9)
            assert (value == max(log.top_logprobs[place].values())) == (int(exact.argmax()) == prompt[place])
    assert logs[1].tokens[0] == "bytes:\\xe6"  # never a U+FFFD that could collide with another token


def test_the_new_token_is_there_even_if_it_ends_the_text(server):
    model = HistoryModel(script={3: EOS})
    with running(Engine(model, ByteTokenizer())) as ending:
        reply = ending.client.completions.create(
            model="tiny", prompt=[[65, 66, 67]], echo=True, logprobs=1, max_tokens=1, temperature=0
        )
    assert reply.choices[0].logprobs.tokens == ["A", "B", "C", "<|end|>"]
    assert reply.choices[0].text == "ABC" and reply.choices[0].finish_reason == "stop"


def test_scoring_alone_and_tokens_as_ids(server, engine):
    reply = server.client.completions.create(
        model="tiny", prompt="abc", echo=True, logprobs=2, max_tokens=0, extra_body={"return_tokens_as_token_ids": True}
    )
    choice = reply.choices[0]
    assert choice.text == "abc" and choice.logprobs.tokens == ["token_id:97", "token_id:98", "token_id:99"]
    assert reply.usage.completion_tokens == 0


def test_text_offsets(scripted):
    reply = scripted.client.completions.create(
        model="tiny", prompt="a" * 203, echo=True, logprobs=0, temperature=0, max_tokens=10
    )
    offsets, text = reply.choices[0].logprobs.text_offset, reply.choices[0].text
    assert offsets[:204] == list(range(204)) and text[203:] == "naïve 日"
    assert offsets[203:] == [203, 204, 205, 205, 206, 207, 208, 209, 209, 209]


def test_a_full_context_ends_with_length_and_too_long_is_refused(server):
    reply = server.client.completions.create(
        model="tiny", prompt="a" * 199, max_tokens=50, extra_body={"ignore_eos": True}
    )
    assert reply.choices[0].finish_reason == "length" and reply.usage.completion_tokens == 2
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.completions.create(model="tiny", prompt="a" * 201)
    assert "201" in caught.value.message and "200" in caught.value.message
    assert caught.value.code == "context_length_exceeded" and caught.value.param == "prompt"


def test_other_servers_extras(server, engine):
    ask = {"model": "tiny", "prompt": "second", "max_tokens": 20, "seed": 3}
    got = server.client.completions.create(**ask, extra_body={"top_k": 2}).choices[0].text
    assert got == engine.generate("second", temperature=1.0, top_k=2, seed=3, max_new_tokens=20)[0].text
    end = engine.generate("second", max_new_tokens=5)[0].ids[3]
    reply = server.client.completions.create(**{**ask, "temperature": 0}, extra_body={"stop_token_ids": [end]})
    assert reply.choices[0].finish_reason == "stop" and reply.usage.completion_tokens <= 4


# ---------------------------------------------------------------- errors


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
        ({"best_of": 4}, "best_of"),
        ({"prompt": []}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [[1, 999]]}, "prompt"),
        ({"logit_bias": {"5": 1.0}}, "logit_bias"),
    ],
)
def test_bad_requests_name_the_field(server, body, param):
    answer = httpx.post(f"{server.url}/v1/completions", json={"model": "tiny", "prompt": "abc", **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and param in error["message"] and error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("body", [{"messages": []}, {}, {"messages": "hi"}, {"messages": [{"content": "hi"}]}])
def test_bad_messages(server, body):
    answer = httpx.post(f"{server.url}/v1/chat/completions", json={"model": "tiny", **body})
    assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("messages")


def test_unsupported_meanings_are_refused_and_unknown_fields_listed(server):
    for extra in ({"response_format": {"type": "json_object"}}, {"tools": [{"type": "function"}]}):
        answer = httpx.post(f"{server.url}/v1/chat/completions", json={"model": "tiny", "messages": ASK, **extra})
        assert answer.status_code == 400 and next(iter(extra)) in answer.json()["error"]["message"]
    body = {
        "model": "tiny",
        "messages": ASK,
        "max_tokens": 2,
        "frequency_penalty": 0.5,
        "made_up": 3,
        "presence_penalty": 0,
    }
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert answer.status_code == 200 and answer.headers["x-llmanac-ignored"] == "frequency_penalty, made_up"
    plain = httpx.post(f"{server.url}/v1/chat/completions", json={"model": "tiny", "messages": ASK, "max_tokens": 2})
    assert "x-llmanac-ignored" not in plain.headers


def test_errors_of_http(server):
    with pytest.raises(openai.NotFoundError, match="'tiny'") as caught:
        server.client.chat.completions.create(model="other", messages=ASK)
    assert caught.value.code == "model_not_found"
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
        long = json.dumps({"prompt": "a" * 2000}).encode()
        answer = httpx.post(f"{small.url}/v1/completions", content=long, headers=headers)
        assert answer.status_code == 413 and "1000 bytes" in answer.json()["error"]["message"]
        pieces = (long[i : i + 500] for i in range(0, len(long), 500))
        answer = httpx.post(f"{small.url}/v1/completions", content=pieces, headers=headers)
        assert answer.status_code == 413
        assert httpx.post(f"{small.url}/v1/completions", json={"prompt": "ab"}).status_code == 200


def test_request_ids(server):
    assert server.client.models.list()._request_id.startswith("req-")
    answer = httpx.get(f"{server.url}/health", headers={"x-request-id": "my-id.7"})
    assert answer.headers["x-request-id"] == "my-id.7"
    assert httpx.get(f"{server.url}/health", headers={"x-request-id": "a b"}).headers["x-request-id"].startswith("req-")


# ---------------------------------------------------------------- load, failure, disconnects


def test_eight_clients_at_once_get_what_each_gets_alone(server, engine):
    prompts = [f"client number {i} says {'x' * i}" for i in range(8)]
    options = [{"temperature": 0}, {"temperature": 0.8, "seed": 5}, {"temperature": 1, "top_p": 0.7, "seed": 6}]
    kinds = [options[i % 3] for i in range(8)]

    def ask(i):
        reply = server.client.completions.create(
            model="tiny", prompt=prompts[i], max_tokens=25, stream=i % 2 == 0, **kinds[i]
        )
        return "".join(c.choices[0].text for c in reply) if i % 2 == 0 else reply.choices[0].text

    calls = server.service.engine.model.calls
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, range(8)))
    shared = server.service.engine.model.calls - calls
    alone = [engine.generate(p, max_new_tokens=25, **k)[0] for p, k in zip(prompts, kinds, strict=True)]
    assert together == [c.text for c in alone]
    assert shared <= sum(len(c.ids) for c in alone)


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
        body = {"prompt": ["abc", "defg"], "max_tokens": 100_000, "ignore_eos": True, "stream": stream}
        with socket.create_connection(("127.0.0.1", int(slow.url.rpartition(":")[2]))) as raw:
            data = json.dumps(body).encode()
            head = ["POST /v1/completions HTTP/1.1", "host: x", "content-type: application/json"]
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


# ---------------------------------------------------------------- the other pages


def test_models_health_version_tokenizer(server):
    assert [m.id for m in server.client.models.list()] == ["tiny"]
    assert server.client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        server.client.models.retrieve("a/b")
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    assert httpx.get(f"{server.url}/version").json()["version"]
    assert httpx.get(f"{server.url}/tokenizer_info").json()["eos_token"] == "<|end|>"
    sent = {"prompt": "ab", "add_special_tokens": False}
    assert httpx.post(f"{server.url}/tokenize", json=sent).json()["tokens"] == [97, 98]
    assert "/v1/completions" in httpx.get(f"{server.url}/openapi.json").json()["paths"]


def test_the_chat_page_needs_nothing_from_elsewhere(server):
    answer = httpx.get(server.url)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text and "https://" not in answer.text and "innerHTML" not in answer.text
    assert 'aria-label="Your message"' in answer.text


def test_a_model_without_a_template_says_what_to_use():
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = None
    with running(Engine(HistoryModel(), tokenizer)) as plain:
        with pytest.raises(openai.BadRequestError, match="use /v1/completions"):
            plain.client.chat.completions.create(model="tiny", messages=ASK)
        assert plain.client.models.list().data[0].llmanac == {"chat": False, "assistant": False}


# ---------------------------------------------------------------- an assistant


class Librarian:
    """Answers from one document."""

    asked: list[str] = []  # noqa: RUF012

    def answer(self, question):
        self.asked.append(question)
        if "fail" in question:
            raise ValueError("the index is broken")
        if "weather" in question:
            return SimpleNamespace(text="I do not know.", citations=[], refused=True)
        passage = SimpleNamespace(title="os.path.join", text="Join path components 日本.")
        return SimpleNamespace(text="It joins paths 日本.", citations=[passage], refused=False)

    def prompt(self, messages):
        return [1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def library():
    with running(Engine(HistoryModel(max_length=8), ByteTokenizer()), assistant=Librarian()) as found:
        yield found


CITED = {"citations": [{"title": "os.path.join", "text": "Join path components 日本."}], "refused": False}


def test_an_assistant_answers_and_cites(library):
    messages = [
        {"role": "user", "content": "old"},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": "join?"},
    ]
    raw = library.client.chat.completions.with_raw_response.create(model="tiny", messages=messages, temperature=0.3)
    reply = raw.parse()
    assert reply.choices[0].message.content == "It joins paths 日本." and reply.choices[0].finish_reason == "stop"
    assert reply.llmanac == CITED and Librarian.asked[-1] == "join?"
    assert reply.usage.prompt_tokens == 5 and reply.usage.completion_tokens == len("It joins paths 日本.".encode())
    assert raw.headers["x-llmanac-ignored"] == "temperature"
    refused = library.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "weather?"}])
    assert refused.llmanac == {"citations": [], "refused": True}


def test_an_assistants_answer_streams_and_cites_once(library):
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "join?"}], "stream": True}
    chunks = list(library.client.chat.completions.create(**ask, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "It joins paths 日本."
    cited = [c.llmanac for c in chunks if getattr(c, "llmanac", None)]
    assert cited == [CITED] and chunks[-2].choices[0].finish_reason == "stop"
    short = list(library.client.chat.completions.create(**ask, stop="paths", max_tokens=50))
    assert "".join(c.choices[0].delta.content or "" for c in short) == "It joins "
    cut = library.client.chat.completions.create(**{**ask, "stream": False}, max_tokens=2)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("It", "length")


def test_an_assistant_that_fails(library):
    with pytest.raises(openai.InternalServerError):
        library.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "fail"}])
    with pytest.raises(openai.APIError):
        list(
            library.client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "fail"}], stream=True
            )
        )
    with pytest.raises(openai.BadRequestError, match="last user message"):
        library.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": " "}])
    assert library.client.completions.create(
        model="tiny", prompt="abc", max_tokens=2
    ).choices  # the bare model is there too


def test_log_probabilities_of_zero_are_finite_json():
    model = HistoryModel(script={3: 65})
    free = model.logits_of
    model.logits_of = lambda ids: free(ids).index_fill(0, __import__("torch").arange(0, 65), -math.inf)
    with running(Engine(model, ByteTokenizer())) as some:
        reply = some.client.completions.create(model="tiny", prompt=[[97, 1, 98]], echo=True, logprobs=20, max_tokens=1)
    assert reply.choices[0].logprobs.token_logprobs[1] == -9999.0
