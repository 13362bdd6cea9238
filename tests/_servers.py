"""A server over a real socket on the loopback, and what its tests ask it."""

from __future__ import annotations

import contextlib
import threading
import time
from types import SimpleNamespace

import openai
import uvicorn
from _engine_models import ByteTokenizer, HistoryModel

from llmanac.generate.constrain import compile_kernels
from llmanac.generate.engine import Engine
from llmanac.tokenizers.load import train_tokenizer
from llmanac.web.hosts import claim_port
from llmanac.web.serve import config
from llmanac.web.server import create_app

ASK = [{"role": "user", "content": "hi"}]
UTF8 = "naïve 日本 🙂!"


@contextlib.contextmanager
def running(engine: Engine, **options):
    """A server in a thread; yields its address, an openai client, and the app's service."""
    app = create_app(engine, **{"model_name": "tiny", **options})
    claimed = claim_port("127.0.0.1", 0)
    server = uvicorn.Server(config(app, log_level="error", timeout_graceful_shutdown=2))
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


def hello(messages):
    return ByteTokenizer().encode_chat(messages, add_generation_prompt=True)[0]


def tokenizer_with(template, special=()):
    tokenizer = train_tokenizer("utf8", [], special_tokens=["<|im_start|>", "<|im_end|>", *special])
    tokenizer.chat_template = template
    return tokenizer


def saying(text, template, special=()):
    """An engine that says the text after any prompt, and what it was asked."""
    tokenizer = tokenizer_with(template, special)
    asked = []
    said = [*tokenizer.encode(text, special="all"), tokenizer.eos_id]

    def script(ids):
        if not asked or ids[: len(asked[-1])] != asked[-1]:
            asked.append(list(ids))
        return said[min(len(ids) - len(asked[-1]), len(said) - 1)]

    model = HistoryModel(script=script, max_length=4096, vocab_size=tokenizer.vocab_size)
    engine = Engine(model, tokenizer)
    compile_kernels(tokenizer, engine.eos_ids, model.vocab_size)  # it may take longer than a request may
    return engine, asked
