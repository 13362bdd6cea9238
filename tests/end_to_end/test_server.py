"""The server with the official `openai` client, over a real socket on the loopback."""

from __future__ import annotations

import concurrent.futures
import logging
import math
from types import SimpleNamespace

import httpx
import openai
import pytest
from _engine_models import EOS, ByteTokenizer, HistoryModel
from _servers import ASK, UTF8, hello, running

from llmanac.generate.engine import Engine
from llmanac.web.serve import config
from llmanac.web.server import create_app

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
    for entry, score in zip(content, expected.token_logprobs, strict=True):
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


@pytest.mark.parametrize("stream", [False, True])
def test_text_offsets_index_the_text(stream):
    class Begins(ByteTokenizer):
        adds_bos = True

    ask = {"model": "tiny", "prompt": ["abc", "", "x y"], "echo": True, "logprobs": 0, "max_tokens": 4, "seed": 1}
    with running(Engine(HistoryModel(script=lambda ids: EOS if len(ids) == 6 else 65), Begins())) as server:
        found = {}
        chunks = (
            server.client.completions.create(**ask, stream=True)
            if stream
            else [server.client.completions.create(**ask)]
        )
        for choice in (choice for chunk in chunks for choice in chunk.choices):
            text, tokens, offsets = found.setdefault(choice.index, ("", [], []))
            found[choice.index] = (
                text + choice.text,
                tokens + choice.logprobs.tokens,
                offsets + choice.logprobs.text_offset,
            )
    for text, tokens, offsets in found.values():
        shown = [text[a:b] for a, b in zip(offsets, [*offsets[1:], len(text)], strict=True)]
        assert shown == ["" if token.startswith("<|") else token for token in tokens], (text, tokens, offsets)
    assert [tokens[0] for _, tokens, _ in (found[0], found[1])] == ["<|begin|>"] * 2


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


def test_log_probabilities_of_zero_are_finite_json():
    model = HistoryModel(script={3: 65})
    free = model.logits_of
    model.logits_of = lambda ids: free(ids).index_fill(0, __import__("torch").arange(0, 65), -math.inf)
    with running(Engine(model, ByteTokenizer())) as some:
        reply = some.client.completions.create(model="tiny", prompt=[[97, 1, 98]], echo=True, logprobs=20, max_tokens=1)
    assert reply.choices[0].logprobs.token_logprobs[1] == -9999.0


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


def test_request_ids(server):
    assert server.client.models.list()._request_id.startswith("req-")
    answer = httpx.get(f"{server.url}/health", headers={"x-request-id": "my-id.7"})
    assert answer.headers["x-request-id"] == "my-id.7"
    assert httpx.get(f"{server.url}/health", headers={"x-request-id": "a b"}).headers["x-request-id"].startswith("req-")


def test_the_chat_page_needs_nothing_from_elsewhere(server):
    answer = httpx.get(server.url)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text and "https://" not in answer.text and "innerHTML" not in answer.text
    assert 'aria-label="Your message"' in answer.text


def test_a_server_closes_no_handler_of_its_process():
    """Absl's closes the stream that it writes to, which may be the process's own."""
    closed = []

    class Handler(logging.Handler):
        def close(self):
            closed.append(self)
            super().close()

    kept = Handler()
    config(create_app(Engine(HistoryModel(), ByteTokenizer()), model_name="tiny"), log_level="error")
    assert not closed
    kept.close()
