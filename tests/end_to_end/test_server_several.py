"""Several models and adapters behind one address, and the time that a request has."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import threading
import time
import weakref

import httpx
import openai
import pytest
import torch
from _engine_models import VOCABULARY, ByteTokenizer, HistoryModel
from _servers import ASK, running
from _small_models import transformer

from llmanac.core.errors import DataError, RequestError
from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.web._service import Service
from llmanac.web.asgi import Guard
from llmanac.web.hosts import Hosts
from llmanac.web.serve import first_answers
from llmanac.web.several import Several, Slot


class Says:
    """Services of models that say one letter; counts how often each was loaded, and keeps what is alive."""

    def __init__(self, **sizes):
        self.loaded, self.engines, self.slow = [], {}, {}
        self.slots = [Slot(name, lambda name=name: self.load(name), size) for name, size in sizes.items()]

    def load(self, name):
        self.loaded.append(name)
        model = HistoryModel(script=lambda ids: ord(name[0]), seconds=self.slow.get(name, 0.0))
        engine = Engine(model, ByteTokenizer())
        self.engines[name] = weakref.ref(engine)
        return Service(engine, model_name=name)

    @property
    def alive(self):
        gc.collect()
        return sorted(name for name, engine in self.engines.items() if engine() is not None)


async def ask(app, path="/v1/completions", method="POST", **body):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await (client.get(path) if method == "GET" else client.post(path, json=body, timeout=60))


def text(reply):
    assert reply.status_code == 200, reply.text
    return reply.json()["model"], reply.json()["choices"][0]["text"]


def guarded(app):
    return Guard(app, hosts=Hosts(), max_body=2000, body_seconds=5)


ASKED = {"prompt": "x", "max_tokens": 3, "temperature": 0}


def test_a_request_goes_to_the_model_that_it_names_and_idle_models_make_room():
    says = Says(alpha=60, beta=30, gamma=50)
    several = Several(says.slots, memory=100)

    async def run():
        assert text(await ask(several, model="alpha", **ASKED)) == ("alpha", "aaa")
        assert text(await ask(several, model="beta:latest", **ASKED)) == ("beta", "bbb")
        assert text(await ask(several, model="alpha.gguf", **ASKED)) == ("alpha", "aaa")
        assert says.loaded == ["alpha", "beta"] and says.alive == ["alpha", "beta"]
        assert text(await ask(several, model="gamma", **ASKED)) == ("gamma", "ggg")  # beta alone is not enough
        assert says.alive == ["gamma"] or says.alive == ["beta", "gamma"]
        assert sum({"alpha": 60, "beta": 30, "gamma": 50}[name] for name in says.alive) <= 100
        assert text(await ask(several, model="beta", **ASKED)) == ("beta", "bbb")
        listed = (await ask(several, "/v1/models", "GET")).json()["data"]
        assert [card["id"] for card in listed] == ["alpha", "beta", "gamma"]
        assert (await ask(several, "/v1/models/gamma", "GET")).json()["id"] == "gamma"
        states = (await ask(several, "/health", "GET")).json()["models"]
        assert states == {"alpha": "idle", "beta": "loaded", "gamma": "loaded"}
        running = (await ask(several, "/api/ps", "GET")).json()["models"]
        assert sorted(one["name"] for one in running) == ["beta:latest", "gamma:latest"]
        wrong = await ask(several, model="delta", **ASKED)
        assert wrong.status_code == 404 and all(name in wrong.text for name in ("alpha", "beta", "gamma"))
        page = (await ask(several, "/metrics", "GET")).text
        assert page.count("# TYPE vllm:prompt_tokens_total") == 1
        assert 'vllm:prompt_tokens_total{model_name="beta"}' in page
        assert 'vllm:prompt_tokens_total{model_name="gamma"}' in page

    asyncio.run(run())
    several.close()


def test_many_at_once_load_a_model_once_and_a_model_in_use_is_not_unloaded():
    says = Says(alpha=60, beta=60)
    says.slow["alpha"] = 0.02
    several = Several(says.slots, memory=100)

    async def run():
        first = asyncio.gather(*(ask(several, model="alpha", **{**ASKED, "max_tokens": 20}) for _ in range(5)))
        await asyncio.sleep(0.1)
        assert text(await ask(several, model="beta", **ASKED)) == ("beta", "bbb")  # once alpha is free
        assert [text(reply) for reply in await first] == [("alpha", "a" * 20)] * 5

    asyncio.run(run())
    assert says.loaded == ["alpha", "beta"] and says.alive == ["beta"]
    several.close()


def test_a_body_in_pieces_and_one_that_is_no_json():
    several = Several(Says(alpha=1, beta=1).slots)

    async def pieces(*parts):
        for part in parts:
            yield part

    async def run():
        transport = httpx.ASGITransport(guarded(several))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            data, kind = json.dumps({"model": "beta", **ASKED}).encode(), {"content-type": "application/json"}
            asked = await client.post("/v1/completions", content=pieces(data[:9], data[9:]), headers=kind)
            assert text(asked) == ("beta", "bbb")
            assert (await client.post("/v1/completions", content=b"{[", headers=kind)).status_code == 400
            assert (await client.post("/v1/completions", content=b"[]", headers=kind)).status_code == 400
            long = await client.post("/v1/completions", content=pieces(b" " * 1500, b" " * 1500), headers=kind)
            assert long.status_code == 413

    asyncio.run(run())
    several.close()


def test_names_and_sizes_are_checked_before_anything_is_loaded():
    with pytest.raises(RequestError, match="two models are called 'a'"):
        Several([Slot("a", pytest.fail), Slot("b", pytest.fail, further=("a",))])
    with pytest.raises(RequestError, match=r"b: .*--memory"):
        Several([Slot("a", pytest.fail, 1), Slot("b", pytest.fail, 2 << 20)], memory=1 << 20)


@pytest.mark.parametrize("runner", ["torch", "native"])
def test_an_adapter_answers_under_its_name(runner):
    model = transformer(vocab_size=VOCABULARY).float()
    change = make_method("adapter", {"name": "lora", "rank": 4}).build(seed=1).apply(copy.deepcopy(model))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in change.parameters().values():
            parameter.add_(torch.empty(parameter.shape).normal_(0, 0.5, generator=generator))
    engine = Engine(model.eval(), ByteTokenizer(), adapters={"tuned": change}, runner=runner)
    prompt = [5, 6, 7]
    own, tuned = (
        engine.generate(prompt, max_new_tokens=8)[0],
        engine.generate(prompt, max_new_tokens=8, adapter="tuned")[0],
    )
    assert own.ids != tuned.ids
    with running(engine) as server:
        assert [card.id for card in server.client.models.list()] == ["tiny", "tuned"]
        for name, expected in (("tiny", own), ("tuned", tuned)):
            reply = server.client.completions.create(model=name, prompt=prompt, max_tokens=8, temperature=0)
            assert reply.model == name and reply.choices[0].text == expected.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_given_up_and_leaves_its_row(stream):
    slow = Engine(HistoryModel(seconds=0.02, max_length=None), ByteTokenizer(), rows=1)
    body = {"model": "tiny", "messages": ASK, "max_tokens": 5000, "stream": stream}
    with running(slow, seconds=0.6) as server:
        with pytest.raises(openai.APIError, match=r"after 0\.2 s") as caught:
            list(server.client.chat.completions.create(**body, extra_body={"ignore_eos": True, "timeout": 0.2}))
        if not stream:
            assert caught.value.status_code == 504 and caught.value.code == "timeout"
        with pytest.raises(openai.APIError, match=r"after 0\.6 s"):  # the server's own limit is less
            list(server.client.chat.completions.create(**body, extra_body={"ignore_eos": True, "timeout": 60}))
        stop = time.monotonic() + 5
        while server.service.worker.scheduler.busy and time.monotonic() < stop:
            time.sleep(0.01)
        assert not server.service.worker.scheduler.busy and server.service.worker.counts == (0, 0)


def test_who_waits_for_a_row_is_given_up_too():
    slow = Engine(HistoryModel(seconds=0.02, max_length=None), ByteTokenizer(), rows=1)
    with running(slow) as server:
        long = {"model": "tiny", "prompt": "a", "max_tokens": 150, "ignore_eos": True}
        url = f"{server.url}/v1/completions"
        first = threading.Thread(target=httpx.post, args=(url,), kwargs={"json": long, "timeout": 60})
        first.start()
        time.sleep(0.2)
        late = httpx.post(url, json={**long, "timeout": 0.3}, timeout=60)
        assert late.status_code == 504
        first.join()


def test_a_model_that_cannot_be_loaded_fails_its_own_requests_alone(caplog):
    says = Says(alpha=60, beta=60)
    load = says.slots[1].load
    says.slots[1].load = lambda: (_ for _ in ()).throw(DataError("beta: the file is cut short"))
    several = Several(says.slots, memory=100)
    app = guarded(several)

    async def run():
        assert text(await ask(app, model="alpha", **ASKED)) == ("alpha", "aaa")
        for reply in await asyncio.gather(*(ask(app, model="beta", **ASKED) for _ in range(3))):
            assert reply.status_code == 503 and reply.json()["error"]["code"] == "model_not_loaded"
            assert "cut short" not in reply.text and reply.headers["retry-after"]
        assert caplog.text.count("the file is cut short") == 1
        assert text(await ask(app, model="alpha", **ASKED)) == ("alpha", "aaa")
        says.slots[1].load = load
        assert text(await ask(app, model="beta", **ASKED)) == ("beta", "bbb")

    asyncio.run(run())
    several.close()


class Held(Says):
    """Loads wait until they are let go on."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.go = threading.Event()

    def load(self, name):
        assert self.go.wait(30)
        return super().load(name)


def test_pages_are_read_while_a_model_is_loaded_and_load_none():
    says = Held(alpha=1, beta=1)
    several = Several(says.slots)

    async def run():
        first = asyncio.create_task(ask(several, model="beta", **ASKED))
        await asyncio.sleep(0.05)
        for path in ("/", "/version", "/api/version", "/health", "/metrics", "/v1/models", "/v1/models/alpha"):
            assert (await ask(several, path, "GET")).status_code == 200, path
        says.go.set()
        assert text(await first) == ("beta", "bbb")
        assert says.loaded == ["beta"]
        for path, sent in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [97]})):
            assert (await ask(several, path, model="beta", **sent)).status_code == 200
            assert (await ask(several, path, model="gamma", **sent)).status_code == 404
        assert says.loaded == ["beta"]

    asyncio.run(run())
    several.close()


def test_who_waits_for_a_model_is_bounded_answered_by_one_load_and_may_leave():
    says = Held(alpha=60, beta=60, gamma=60)
    several = Several(says.slots, memory=100, waiting=3)
    app, gone = guarded(several), []

    async def leaving(name):
        body = [{"type": "http.request", "body": json.dumps({"model": name, **ASKED}).encode(), "more_body": False}]
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}

        async def receive():
            return body.pop() if body else {"type": "http.disconnect"}

        async def send(message):
            gone.append(message)

        await app(scope, receive, send)

    async def run():
        turns = [asyncio.create_task(ask(app, model=name, **ASKED)) for name in ("alpha", "beta") * 3]
        await asyncio.sleep(0.05)
        await asyncio.wait_for(leaving("gamma"), 5)
        late = await asyncio.wait_for(ask(app, model="alpha", **ASKED), 5)
        assert late.status_code == 429 and late.json()["error"]["code"] == "server_busy"
        says.go.set()
        assert [text(reply)[0] for reply in await asyncio.gather(*turns)] == ["alpha", "beta"] * 3
        assert text(await ask(app, model="beta", **ASKED)) == ("beta", "bbb")

    asyncio.run(run())
    assert says.loaded == ["alpha", "beta"] and not gone
    assert all(slot.running == 0 for slot in says.slots)
    several.close()


def test_a_stop_does_not_wait_for_a_model_that_is_loaded():
    says = Held(alpha=1, beta=1)
    several = Several(says.slots)
    app = guarded(several)

    async def run():
        waits = [asyncio.create_task(ask(app, model=name, **ASKED)) for name in ("beta", "beta", "alpha")]
        await asyncio.sleep(0.05)
        several.drain()
        waits.append(asyncio.create_task(ask(app, model="alpha", **ASKED)))
        for reply in await asyncio.wait_for(asyncio.gather(*waits), 5):
            assert reply.status_code == 503 and reply.json()["error"]["code"] == "shutting_down"

    asyncio.run(run())
    says.go.set()
    several.close()


def test_the_first_answers_leave_nothing_behind() -> None:
    engine = Engine(HistoryModel(), ByteTokenizer(), drafter="prompt-lookup")
    first_answers(engine)
    assert engine.prefix_cache is None and not engine.speculation.costs and not engine.speculation.calls
    first_answers(Engine(HistoryModel(max_length=4), ByteTokenizer()))  # a context that is shorter than the prompt
