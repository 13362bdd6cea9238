"""Sampling fields, embeddings, API keys, metrics, a server that is still loading: with the official `openai` client."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import re
import socket
import threading

import httpx
import numpy as np
import openai
import pytest
from _engine_models import ByteTokenizer, HistoryModel
from _servers import ASK, hello, running, wait_until
from _small_models import transformer

from llmanac.core.errors import LlmanacError
from llmanac.evaluate.embed import Embedder
from llmanac.generate.engine import Engine
from llmanac.tokenizers.load import train_tokenizer
from llmanac.web import serve as serving

# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize(
    "fields",
    [
        {"presence_penalty": 2},
        {"frequency_penalty": 1.5},
        {"logit_bias": {"90": 20}},
        {"extra_body": {"repetition_penalty": 1.8}},
        {"extra_body": {"min_p": 0.5}},
        {"extra_body": {"typical_p": 0.3}},
        {"extra_body": {"top_k": 1}},
    ],
    ids=lambda fields: next(iter(fields.get("extra_body", fields))),
)
@pytest.mark.parametrize("chat", [False, True])
def test_each_field_is_the_engines_option(server, engine, fields, chat):
    bias = dict.fromkeys(range(65, 70), 14)  # few likely tokens, so that they repeat
    fields = {"logit_bias": {}, **fields}
    biased = {**bias, **{int(i): b for i, b in fields["logit_bias"].items()}}
    plain = {**{k: v for k, v in fields.items() if k != "extra_body"}, **fields.get("extra_body", {})}
    plain["logit_bias"] = biased
    options = {"max_new_tokens": 24, "seed": 5, "temperature": 1.0, "stop_ids": []}
    prompt = hello(ASK) if chat else "second"
    ask = {"model": "tiny", "seed": 5, "max_tokens": 24, **fields, "logit_bias": {str(i): b for i, b in biased.items()}}
    ask["extra_body"] = {**fields.get("extra_body", {}), "ignore_eos": True}
    if chat:
        got = server.client.chat.completions.create(messages=ASK, **ask).choices[0].message.content
    else:
        got = server.client.completions.create(prompt=prompt, **ask).choices[0].text
    assert got == engine.generate([prompt], **options, **plain)[0].text
    assert got != engine.generate([prompt], **options, logit_bias=bias)[0].text


def test_the_best_of_several_samples(server, engine):
    ask = {"model": "tiny", "prompt": ["second", "x"], "n": 2, "best_of": 5, "seed": 3, "max_tokens": 6}
    reply = server.client.completions.create(**ask, logprobs=0)
    made = engine.generate(["second", "x"], n=5, seed=3, temperature=1.0, max_new_tokens=6)
    for prompt in range(2):
        best = sorted(made[5 * prompt : 5 * prompt + 5], key=lambda c: sum(c.logprobs) / len(c.ids), reverse=True)
        got = reply.choices[2 * prompt : 2 * prompt + 2]
        assert [c.text for c in got] == [c.text for c in best[:2]]
    assert [c.index for c in reply.choices] == [0, 1, 2, 3]
    assert reply.usage.completion_tokens == sum(len(c.ids) for c in made)  # all that were generated are counted


def test_the_best_of_several_chat_replies(server, engine):
    """A field of this server: the SDK sends it in extra_body."""
    ask = {"model": "tiny", "messages": ASK, "n": 2, "seed": 3, "max_tokens": 6}
    reply = server.client.chat.completions.create(**ask, extra_body={"best_of": 5})
    made = engine.generate([hello(ASK)], n=5, seed=3, temperature=1.0, max_new_tokens=6)
    best = sorted(made, key=lambda c: sum(c.logprobs) / len(c.ids), reverse=True)[:2]
    assert [c.message.content for c in reply.choices] == [c.text for c in best]
    assert reply.usage.completion_tokens == sum(len(c.ids) for c in made)


# ---------------------------------------------------------------- embeddings


@pytest.fixture(scope="module")
def embedding():
    tokenizer = train_tokenizer("utf8", [])
    embedder = Embedder(transformer(vocab_size=tokenizer.vocab_size), tokenizer, normalize=True)
    with running(Engine(HistoryModel(), ByteTokenizer()), embedder=embedder, embedding_name="vectors") as found:
        found.embedder = embedder
        yield found


def test_embeddings(embedding):
    texts = ["a cat", "a longer text about cats", "日本"]
    own = embedding.embedder.texts(texts)
    for form in ("float", "base64", openai.NOT_GIVEN):  # the client asks for base64 by itself, and decodes it
        reply = embedding.client.embeddings.create(model="vectors", input=texts, encoding_format=form)
        if form == "base64":
            rows = [np.frombuffer(base64.b64decode(d.embedding), "<f4") for d in reply.data]
        else:
            rows = [d.embedding for d in reply.data]
        np.testing.assert_allclose(rows, own.vectors, rtol=1e-6)
        assert [d.index for d in reply.data] == [0, 1, 2] and reply.model == "vectors"
        assert reply.usage.prompt_tokens == reply.usage.total_tokens == sum(own.tokens)
    ids = [embedding.embedder.tokenizer.encode(text) for text in texts]
    for given, expected in ((texts[0], own.vectors[:1]), (ids, own.vectors), (ids[0], own.vectors[:1])):
        reply = embedding.client.embeddings.create(model="vectors", input=given)
        np.testing.assert_allclose([d.embedding for d in reply.data], expected, rtol=1e-6)
    cut = httpx.post(
        f"{embedding.url}/v1/embeddings", json={"model": "vectors", "input": ["a", "x" * 65, "b", "y" * 70]}
    ).json()
    assert cut["cut"] == [1, 3] and cut["usage"]["prompt_tokens"] == 130 and "cut" not in reply.model_dump()
    np.testing.assert_allclose(cut["data"][1]["embedding"], embedding.embedder.texts(["x" * 64]).vectors[0], rtol=1e-6)
    assert [m.id for m in embedding.client.models.list()] == ["tiny", "vectors"]
    assert embedding.client.models.retrieve("vectors").id == "vectors"


def test_embeddings_that_are_refused(embedding, server):
    with pytest.raises(openai.NotFoundError, match="'vectors'"):
        embedding.client.embeddings.create(model="tiny", input="a")
    with pytest.raises(openai.NotFoundError, match="--embedding-model"):
        server.client.embeddings.create(model="tiny", input="a")
    for wrong, param in (
        ({"model": "vectors", "input": []}, "input"),
        ({"model": "vectors", "input": [[]]}, "input"),
        ({"model": "vectors", "input": ""}, "input"),
        ({"model": "vectors", "input": [[99_999]]}, "input"),
        ({"model": "vectors", "input": "x" * 65, "on_long": "refuse"}, "input"),
        ({"model": "vectors", "input": "x", "on_long": "drop"}, "on_long"),
        ({"model": "vectors", "input": "a", "dimensions": 8}, "dimensions"),
        ({"model": "vectors", "input": "a", "encoding_format": "int8"}, "encoding_format"),
    ):
        answer = httpx.post(f"{embedding.url}/v1/embeddings", json=wrong)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


# ---------------------------------------------------------------- keys


def test_api_keys():
    with running(Engine(HistoryModel(), ByteTokenizer()), api_keys=["first", "sécond"]) as guarded:
        for key in ("first", "sécond"):
            sent = {"authorization": f"Bearer {key}".encode()}
            assert httpx.get(f"{guarded.url}/v1/models", headers=sent).status_code == 200
        assert guarded.client.with_options(api_key="first").models.list().data[0].id == "tiny"
        for wrong in (
            {},
            {"authorization": "Bearer firs"},
            {"authorization": "Basic first"},
            {"authorization": "first"},
        ):
            for path in ("/v1/models", "/metrics", "/tokenizer_info", "/openapi.json", "/nowhere"):
                answer = httpx.get(guarded.url + path, headers=wrong)
                assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"] == "Bearer"
        with pytest.raises(openai.AuthenticationError):
            guarded.client.completions.create(model="tiny", prompt="a")
        assert httpx.get(f"{guarded.url}/health").status_code == 200
        assert httpx.get(guarded.url).status_code == 200  # the page asks for the key
    with pytest.raises(LlmanacError, match="--api-key"):
        serving.serve(Engine(HistoryModel(), ByteTokenizer()), port=0, api_keys=[" "])


# ---------------------------------------------------------------- metrics

LINE = re.compile(r'vllm:([a-z0-9_]+)\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)*)\} ([0-9.e+-]+)')


def metrics_of(found):
    """{(name, labels without the model's): value}; every line must be one that Prometheus reads."""
    answer = httpx.get(f"{found.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4") and answer.text.endswith("\n")
    values, kinds = {}, {}
    for line in answer.text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            match = LINE.fullmatch(line)
            assert match, line
            base = re.sub(r"_(bucket|sum|count)$", "", match[1])
            assert "vllm:" + match[1] in kinds or kinds["vllm:" + base] == "histogram"
            labels = tuple(label for label in match[2].split(",") if not label.startswith("model_name="))
            values[match[1], labels] = float(match[3])
    return values


def test_metrics_have_vllms_names_and_count():
    model = transformer(vocab_size=260)
    with running(Engine(model, ByteTokenizer())) as found:
        for sent, n in (("abcdef" * 4, 1), ("abcdef" * 4, 2)):
            body = {"model": "tiny", "prompt": sent, "max_tokens": 5, "n": n, "ignore_eos": True, "seed": 1}
            assert httpx.post(f"{found.url}/v1/completions", json=body).status_code == 200
        wait_until(lambda: found.service.worker.counts == (0, 0))  # a job is over a moment after its answer
        values = metrics_of(found)
    plain = {name: value for (name, labels), value in values.items() if not labels}
    assert (plain["prompt_tokens_total"], plain["generation_tokens_total"]) == (48, 15)
    assert (plain["num_requests_running"], plain["num_requests_waiting"], plain["num_preemptions_total"]) == (0, 0, 0)
    assert plain["prefix_cache_queries_total"] == 48 and 0 < plain["prefix_cache_hits_total"] < 24
    assert plain["kv_cache_usage_perc"] == 0
    assert values["request_success_total", ('finished_reason="length"',)] == 2
    assert values["request_success_total", ('finished_reason="abort"',)] == 0
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert plain[f"{name}_count"] == values[f"{name}_bucket", ('le="+Inf"',)] == 2
        assert 0 < plain[f"{name}_sum"] < 60
    assert plain["inter_token_latency_seconds_count"] == 12  # 5 tokens of 3 samples
    assert plain["request_generation_tokens_sum"] == 15 and plain["request_prompt_tokens_sum"] == 48
    names = {name for name, _ in values}
    assert {"cache_config_info", "request_prefill_time_seconds_count", "request_decode_time_seconds_count"} <= names


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_blocks(stream):
    """The rows of a client that is gone hold no block of the cache; what it read is kept for others."""
    model = transformer(vocab_size=260, max_length=100_000, position="rope")
    with running(Engine(model, ByteTokenizer(), rows=4)) as slow:
        pool = slow.service.engine.prefix_cache.pool
        body = {
            "model": "tiny",
            "prompt": ["abc" * 40, "defg" * 40],
            "max_tokens": 90_000,
            "ignore_eos": True,
            "stream": stream,
        }
        data = json.dumps(body).encode()
        head = ["POST /v1/completions HTTP/1.1", "host: localhost", "content-type: application/json"]
        with socket.create_connection(("127.0.0.1", int(slow.url.rpartition(":")[2]))) as raw:
            raw.sendall("\r\n".join([*head, f"content-length: {len(data)}", "", ""]).encode() + data)
            wait_until(lambda: pool.held > 16)
        wait_until(lambda: pool.held == 0)
        assert slow.service.worker.counts == (0, 0) and not slow.service.worker.scheduler.table
        assert metrics_of(slow)["request_success_total", ('finished_reason="abort"',)] == 2
        assert metrics_of(slow)["kv_cache_usage_perc", ()] == 0


# ---------------------------------------------------------------- loading


def test_a_server_that_loads_says_so_and_then_answers():
    go, lines = threading.Event(), []
    claimed = serving.claim_port("127.0.0.1", 0)
    port = claimed.getsockname()[1]
    claimed.close()

    def load():
        assert go.wait(30)
        return Engine(HistoryModel(), ByteTokenizer()), None

    server = None

    class Kept(serving.Server):
        def __init__(self, app):
            nonlocal server
            super().__init__(app)
            server = self

    with pytest.MonkeyPatch.context() as patch, concurrent.futures.ThreadPoolExecutor(1) as pool:
        patch.setattr(serving, "Server", Kept)
        patch.setattr(serving, "NOTED_SECONDS", 0)
        compile_, compiled = serving.compile_kernels, threading.Event()
        patch.setattr(serving, "compile_kernels", lambda *given: (compiled.wait(30), compile_(*given)))
        models = [serving.Model("tiny", load)]
        done = pool.submit(serving.serve, models, port=port, api_keys=["k"], report=lines.append)
        wait_until(lambda: server is not None and server.started)
        url, key = f"http://127.0.0.1:{port}", {"authorization": "Bearer k"}
        answer = httpx.get(f"{url}/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "loading"})
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers=key).json()["data"][0]["id"] == "tiny"
        answer = httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "a"}, headers=key)
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "loading"
        assert answer.headers["retry-after"] == "1" and not lines
        go.set()
        wait_until(lambda: lines)
        assert "compiling" in lines[0] and len(lines) == 1
        answer = httpx.get(f"{url}/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "compiling"})
        answer = httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "a"}, headers=key)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        assert "compiling its kernels; this happens once" in answer.json()["error"]["message"]
        compiled.set()
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=5)
        assert client.completions.create(model="tiny", prompt="a", max_tokens=2).usage.completion_tokens >= 1
        assert httpx.get(f"{url}/health").json()["status"] == "ok" and "Serving tiny" in lines[1]
        server.should_exit = True
        done.result(timeout=20)


def test_what_fails_to_load_ends_the_server():
    def load():
        raise LlmanacError("the weights are damaged")

    with pytest.raises(LlmanacError, match="the weights are damaged"):
        serving.serve([serving.Model("tiny", load)], port=0, report=lambda line: None)
