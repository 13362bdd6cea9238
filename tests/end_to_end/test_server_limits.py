"""What a slow tokenizer, a slow client or another site's page can do to the server: nothing to anybody else."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from _engine_models import ByteTokenizer, HistoryModel
from _servers import ASK, running, wait_until
from starlette.responses import JSONResponse

from llmanac.core.errors import LlmanacError, TokenizerError
from llmanac.generate.engine import Engine
from llmanac.tokenizers.chat import child as _sandbox_child
from llmanac.tokenizers.chat import process as _sandbox
from llmanac.tokenizers.load import train_tokenizer
from llmanac.web import serve
from llmanac.web.asgi import Guard
from llmanac.web.hosts import Hosts

ROUTES = [
    ("/tokenize", {"prompt": "slow"}, "prompt"),
    ("/v1/completions", {"model": "tiny", "prompt": "slow"}, "prompt"),
    ("/v1/completions", {"model": "tiny", "prompt": ["slow", "slow"], "stream": True}, "prompt"),
    ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "slow"}]}, "messages"),
]


class Slow(ByteTokenizer):
    """Takes until `go` is set over the text "slow"."""

    def __init__(self):
        self.go = threading.Event()
        self.inside = 0

    def encode(self, text, **options):
        self._wait(text)
        return super().encode(text)

    def encode_chat(self, messages, **options):
        self._wait(messages[-1]["content"])
        return super().encode_chat(messages, **options)

    def _wait(self, text):
        if text == "slow":
            self.inside += 1
            assert self.go.wait(60)


@contextlib.contextmanager
def slow_server(**options):
    tokenizer = Slow()
    with running(Engine(HistoryModel(), tokenizer), **options) as found:
        try:
            yield found, tokenizer
        finally:
            tokenizer.go.set()


@pytest.mark.parametrize(("path", "body", "param"), ROUTES)
def test_the_server_answers_while_a_text_is_tokenized(path, body, param):
    with slow_server() as (server, tokenizer), concurrent.futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(httpx.post, f"{server.url}{path}", json=body, timeout=60)
        wait_until(lambda: tokenizer.inside)
        assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
        quick = httpx.post(f"{server.url}/v1/completions", json={"model": "tiny", "prompt": "abc", "max_tokens": 2})
        assert quick.status_code == 200 and not slow.done()
        tokenizer.go.set()
        assert slow.result().status_code == 200


def test_what_never_ends_is_answered_and_the_queue_is_bounded():
    with slow_server(max_queue=2) as (server, tokenizer), concurrent.futures.ThreadPoolExecutor(8) as pool:
        reading = server.service.pool
        reading.seconds = 2.0
        asked = [
            pool.submit(httpx.post, f"{server.url}{ROUTES[0][0]}", json=ROUTES[0][1], timeout=60) for _ in range(8)
        ]
        answers = [a.result() for a in asked]
        codes = sorted((a.status_code, a.json()["error"]["code"]) for a in answers)
        # 4 threads, 2 that wait, 2 too many
        assert codes == [(400, "reading_timeout")] * reading.threads + [(429, "server_busy")] * 4
        assert all("retry-after" in a.headers for a in answers if a.status_code == 429)
        assert httpx.get(f"{server.url}/health").status_code == 200
        tokenizer.go.set()
        wait_until(lambda: reading._inside == 0)
        assert httpx.post(f"{server.url}/tokenize", json={"prompt": "ab"}).json()["tokens"] == [97, 98]


def test_a_client_that_goes_away_leaves_the_queue_of_texts():
    with slow_server(max_queue=8) as (server, tokenizer), concurrent.futures.ThreadPoolExecutor(8) as pool:
        reading = server.service.pool

        def impatient():
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.url}/tokenize", json={"prompt": "slow"}, timeout=1)

        for done in [pool.submit(impatient) for _ in range(6)]:
            done.result()
        wait_until(lambda: reading._inside == reading.threads)  # only what a thread has begun
        assert tokenizer.inside == reading.threads


@pytest.mark.parametrize("error", [TokenizerError("pattern: takes too long"), TimeoutError(), RecursionError()])
@pytest.mark.parametrize(("path", "body", "param"), ROUTES)
def test_errors_of_tokenizers_and_templates_are_the_requests(error, path, body, param):
    class Failing(Slow):
        def _wait(self, text):
            raise error

    with running(Engine(HistoryModel(), Failing())) as server:
        answer = httpx.post(f"{server.url}{path}", json=body)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


# ---------------------------------------------------------------- chat templates

CHATML = (
    "{% for m in messages %}{% if m.content == 'endless' %}{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% endfor %}{% endfor %}{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@contextlib.contextmanager
def chatting(**options):
    tokenizer = train_tokenizer("utf8", [])
    tokenizer.chat_template = CHATML
    with running(Engine(HistoryModel(max_length=None), tokenizer), **options) as found:
        yield found


def said(content, turns=0):
    earlier = [{"role": role, "content": "a"} for role in ("user", "assistant")] * turns
    return {"model": "tiny", "messages": [*earlier, {"role": "user", "content": content}], "max_tokens": 2}


@pytest.mark.slow
def test_templates_that_never_end_hold_up_chats_only(monkeypatch):
    monkeypatch.setattr(_sandbox, "SECONDS", 600.0)  # what ends them is the deadline that the pool hands down
    monkeypatch.setattr(_sandbox, "MOST_SECONDS", 600.0)
    with chatting(max_queue=2) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        chats = server.service.chats
        chats.seconds = 4.0
        url = f"{server.url}/v1/chat/completions"
        asked = [pool.submit(httpx.post, url, json=said("endless"), timeout=60) for _ in range(6)]
        wait_until(lambda: chats._inside == 3)
        quick = httpx.post(f"{server.url}/v1/completions", json={"model": "tiny", "prompt": "abc", "max_tokens": 2})
        assert quick.status_code == 200 and not all(a.done() for a in asked)
        codes = sorted(a.result().status_code for a in asked)
        assert set(codes) == {400, 429} and codes.count(429) >= 3  # beyond the one that runs and the two that wait
        wait_until(lambda: chats._inside == 0)
        assert httpx.post(url, json=said("hello")).status_code == 200


def test_ids_without_spans_take_one_rendering(monkeypatch):
    runs = []
    run = _sandbox_child.CompiledTemplate._run
    monkeypatch.setattr(_sandbox_child.CompiledTemplate, "_run", lambda *given: (runs.append(1), run(*given))[1])
    template = _sandbox_child.CompiledTemplate(CHATML, 1 << 24)
    messages = said("hello", 50)["messages"]
    text = template.rendered(messages, True, {}, ["<|im_end|>"], [], False)["text"]
    assert len(runs) == 1
    assert template.rendered(messages, True, {}, ["<|im_end|>"], [], True)["text"] == text and len(runs) > 50


def test_a_long_chat_is_rendered_in_one_pass(monkeypatch):
    asked = []
    ask = _sandbox.HELPER.ask
    monkeypatch.setattr(_sandbox.HELPER, "ask", lambda data, seconds: (asked.append(data), ask(data, seconds))[1])
    with chatting() as server:
        url = f"{server.url}/v1/chat/completions"
        answer = httpx.post(url, json=said("hello", 2000), timeout=60)
        assert answer.status_code == 200, answer.text
        assert len(asked) == 1 and b'"spans": false' in asked[0]
        answer = httpx.post(url, json=said("hello", 2048))
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages"
        assert len(asked) == 1


# ---------------------------------------------------------------- clients that send slowly, or never


@contextlib.contextmanager
def connected(server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as sent:
        yield sent


def everything(sent):
    data = b""
    while part := sent.recv(65536):
        data += part
    return data


HEAD = b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def test_headers_that_never_end(monkeypatch):
    monkeypatch.setattr(serve.Protocol, "head_seconds", 0.5)
    with running(Engine(HistoryModel(), ByteTokenizer())) as server:
        with connected(server) as half, connected(server) as silent, connected(server) as trickling:
            half.sendall(HEAD)
            trickling.sendall(HEAD)
            with contextlib.suppress(OSError):  # each byte comes in time, the whole does not
                for _ in range(40):
                    trickling.sendall(b"x")
                    time.sleep(0.05)
            answer = everything(half)
            assert answer.startswith(b"HTTP/1.1 408 ") and b"connection: close" in answer
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
            assert everything(silent) == b""
        with connected(server) as kept:  # the second request of a connection too
            kept.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert b"200 OK" in kept.recv(65536)
            kept.sendall(HEAD)
            assert b"408" in everything(kept)


@pytest.mark.parametrize("length", [b"content-length: 900\r\n\r\n{", b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"])
def test_a_body_that_never_ends(length):
    with running(Engine(HistoryModel(), ByteTokenizer()), body_seconds=0.5) as server, connected(server) as half:
        half.sendall(HEAD + length)
        answer = everything(half)
        assert answer.startswith(b"HTTP/1.1 408 ") and b'"code":"timeout"' in answer
        assert httpx.get(f"{server.url}/health").status_code == 200
        body = {
            "model": "tiny",
            "prompt": "abc",
            "max_tokens": 3,
            "stream": True,
        }  # an answer may take longer than its question
        assert "[DONE]" in httpx.post(f"{server.url}/v1/completions", json=body).text


def test_bodies_that_arrive_together_are_bounded():
    """Half-sent ones count until they are whole, or their client has gone."""

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await JSONResponse({})(scope, receive, send)

    guard = Guard(app, hosts=Hosts(), max_body=100, body_seconds=60, max_bodies=250)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"localhost")]}

    async def request(pieces, end=True):
        """Status of a request whose body comes in pieces of that many bytes; the client waits before the end."""
        sent, messages = [], [{"type": "http.request", "body": b"x" * n, "more_body": True} for n in pieces]

        async def receive():
            if messages:
                return messages.pop(0)
            await (asyncio.sleep(0) if end else asyncio.Event().wait())
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        await guard(scope, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"]).get(b"retry-after")

    async def run():
        half = [asyncio.create_task(request([50, 40], end=False)) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert await request([60]) == (200, None)
        assert await request([60, 20]) == (503, b"1")
        assert await request([]) == (200, None)
        half[0].cancel()
        await asyncio.gather(half[0], return_exceptions=True)
        assert [await request([90]) for _ in range(5)] == [(200, None)] * 5
        assert await request([90, 20]) == (413, None)
        half[1].cancel()
        await asyncio.gather(half[1], return_exceptions=True)
        assert guard._arriving == 0

    asyncio.run(run())


def test_who_was_answered_early_cannot_go_on_sending(monkeypatch):
    monkeypatch.setattr(serve.Protocol, "linger_seconds", 0.5)
    with running(Engine(HistoryModel(), ByteTokenizer())) as server, connected(server) as sent:
        sent.sendall(b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000000\r\n\r\n")
        assert b"413" in sent.recv(65536)
        with pytest.raises(OSError):
            for _ in range(400):
                sent.sendall(b"x" * 100)
                time.sleep(0.05)


def test_what_is_no_http_gets_an_error_of_the_same_shape(server):
    with connected(server) as sent:
        sent.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = everything(sent)
    assert answer.startswith(b"HTTP/1.1 400 ") and b'"invalid_request_error"' in answer


# ---------------------------------------------------------------- whose server it is


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST.:1", 200),
        ("app.localhost:8000", 200),
        ("127.0.0.1:80", 200),
        ("127.9.9.9", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.0.2.1", 403),
        ("a@localhost", 403),
        ("localhost:x", 403),
        ("", 403),
    ],
)
def test_hosts(server, host, status):
    answer = httpx.get(f"{server.url}/health", headers={"host": host})
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "host_not_allowed"
        sent = httpx.post(
            f"{server.url}/v1/chat/completions", json={"model": "tiny", "messages": ASK}, headers={"host": host}
        )
        assert sent.status_code == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403), ("null", 403), ("http://localhost:3000", 200), ("http://127.0.0.1:8000", 200),
        ("chrome-extension://abcdef", 200), ("HTTPS://evil.example", 403),
    ],
)  # fmt: skip
def test_pages_of_other_sites(server, origin, status):
    body = {"model": "tiny", "prompt": "a", "max_tokens": 1}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, headers={"origin": origin})
    assert answer.status_code == status, answer.text
    twice = [("origin", origin), ("origin", "http://localhost:3000")]  # neither of two is believed alone
    answer = httpx.post(f"{server.url}/v1/completions", json=body, headers=twice)
    assert answer.status_code == 403, answer.text


def test_further_hosts():
    every_address = Hosts("0.0.0.0")
    assert every_address.allows("192.0.2.1:80") and every_address.allows("[2001:db8::1]")
    assert not every_address.allows("evil.example")
    named = Hosts("llm.example", ["Other.Example"])
    assert named.allows("llm.example:8000") and named.allows("other.example") and not named.allows("192.0.2.1")
    assert Hosts("192.0.2.7").allows("192.0.2.7:1") and not Hosts("192.0.2.7").allows("192.0.2.8")
    assert Hosts("::1").allows("[0:0::1]:8000") and Hosts(allowed=["*"]).allows("evil.example")
    with pytest.raises(LlmanacError, match="--allow-host http://a/"):
        Hosts(allowed=["http://a/"])


def test_a_soak_of_seconds(root):
    """`benchmarks/soak.py` for a few seconds: nothing is left, every count is right, no reply has status 500."""
    command = [sys.executable, str(root / "benchmarks" / "soak.py"), "--minutes", "0.1", "--clients", "12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert re.search(r"^0 wrong, [1-9]\d* replies recounted", done.stdout, re.MULTILINE)


# ---------------------------------------------------------------- many prompts in one request


def test_a_list_of_prompts_holds_up_nobody_else():
    with running(Engine(HistoryModel(seconds=0.002), ByteTokenizer(), rows=8), max_queue=2) as server:
        url = f"{server.url}/v1/completions"
        many = {"model": "tiny", "prompt": ["a"] * 400, "max_tokens": 100, "ignore_eos": True}
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            lists = [pool.submit(httpx.post, url, json=many, timeout=6) for _ in range(1)]
            wait_until(lambda: server.service.worker.counts[0] == 1)
            start = time.monotonic()
            assert httpx.post(url, json={"model": "tiny", "prompt": "b", "max_tokens": 4}).status_code == 200
            took = time.monotonic() - start
            assert not lists[0].done() and took < 2, took
            server.service.worker.cancel(server.service.worker._jobs[0])
            wait_until(lambda: not server.service.worker._turns and not any(server.service.worker.counts))


def test_every_prompt_of_a_list_is_answered():
    with (
        running(Engine(HistoryModel(), ByteTokenizer(), rows=4)) as server,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        url = f"{server.url}/v1/completions"
        ask = [{"model": "tiny", "prompt": ["a", "bc", "d"] * 5, "n": n, "max_tokens": 3, "seed": 1} for n in (2, 6)]
        for n, answer in zip((2, 6), pool.map(lambda body: httpx.post(url, json=body, timeout=60), ask), strict=True):
            texts = [choice["text"] for choice in answer.json()["choices"]]
            assert len(texts) == 15 * n and texts[: 3 * n] == texts[-3 * n :]
