"""The server under 8 clients at once: tokens a second over HTTP, against vllm's CPU build, and against our own engine.

Prompts of 32 to 512 tokens, answers of 64, greedy, on SmolLM2 in bfloat16 (`serve-c8`; the peer takes the same
weights) and in the file's own blocks (`http-overhead`: the peer is the engine without HTTP). vllm runs in an
environment of its own (LLMANAC_VLLM names its `vllm` command, LLMANAC_VLLM_MODEL the model's folder); without it its
figure is null. `serve-N`: N clients stream from Qwen2.5-Coder-0.5B (Q4_K_M), against llama.cpp's own server on the same
file (LLMANAC_LLAMA_SERVER names `llama-server`, built for this processor), as many slots as clients, two threads each,
no prompt kept; `serve-N-first` is the median time to the first token. Times are elapsed: clients and server take turns.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from _harness import Benchmark, Result, interleave
from decode import absent, joined, smollm2

bench = Benchmark("serve", __doc__ or "")
CLIENTS, NEW, ROUNDS = 8, 64, 3


@functools.cache
def prompts() -> list[list[int]]:
    draws = np.random.default_rng(0)
    return [[int(i) for i in draws.integers(3, 30_000, size)] for size in np.linspace(32, 512, 2 * CLIENTS).astype(int)]


@functools.cache
def engine(dtype: str | None) -> Any:
    from llmanac.generate.load import load_engine

    path = smollm2()
    return None if path is None else load_engine(path, dtype=dtype, runner="native", rows=CLIENTS)


def ask(address: str, model: str) -> None:
    """All prompts, from 8 clients."""

    # one connection pool: to make a client takes longer than to ask
    with httpx.Client(base_url=address, timeout=600) as http, concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:

        def one(prompt: list[int]) -> None:
            body = {"model": model, "prompt": prompt, "max_tokens": NEW, "temperature": 0.0, "stop": []}
            found = http.post("/v1/completions", json=body).raise_for_status().json()
            assert found["usage"]["completion_tokens"] > 0

        list(pool.map(one, prompts()))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(address: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{address}/health", timeout=1).status_code == 200:
                return
        time.sleep(0.2)
    raise SystemExit(f"{address} does not answer")


@contextmanager
def served(made: Any) -> Iterator[Callable[[], None]]:
    """Our server in a thread."""
    import uvicorn

    from llmanac.web.server import create_app

    port = free_port()
    app = create_app(made, model_name="smollm2", prefix_cache_bytes=None)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(f"http://127.0.0.1:{port}", 60)
    try:
        yield functools.partial(ask, f"http://127.0.0.1:{port}", "smollm2")
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def vllm() -> Iterator[Callable[[], None] | None]:
    command, model = os.environ.get("LLMANAC_VLLM"), os.environ.get("LLMANAC_VLLM_MODEL")
    if not command or not model:
        yield None
        return
    port = free_port()
    given = [command, "serve", model, "--port", str(port), "--dtype", "bfloat16", "--served-model-name", "smollm2"]
    process = subprocess.Popen(given)
    try:
        wait_for(f"http://127.0.0.1:{port}", 600)
        yield functools.partial(ask, f"http://127.0.0.1:{port}", "smollm2")
    finally:
        process.terminate()
        process.wait(30)


def tokens() -> int:
    return NEW * len(prompts())


@bench.measure("serve-c8")
def clients() -> Result:
    """8 clients, bfloat16."""
    made = engine("bfloat16")
    if made is None:
        return absent("serve-c8")
    with served(made) as ours, vllm() as theirs:
        runs = {"ours": ours} | ({"theirs": theirs} if theirs else {})
        seconds = interleave(runs, rounds=ROUNDS, clock=time.perf_counter)
    return Result.rate("serve-c8", tokens(), seconds, unit="tokens/s", peer="vllm (CPU)", clients=CLIENTS)


@bench.measure("http-overhead")
def overhead() -> Result:
    """The same requests over HTTP and through the engine alone."""
    made = engine(None)
    if made is None:
        return absent("http-overhead")

    def alone() -> None:
        made.generate(prompts(), max_new_tokens=NEW, temperature=0.0)

    with served(made) as ours:
        seconds = interleave({"ours": ours, "theirs": alone}, rounds=ROUNDS, clock=time.perf_counter)
    return Result.rate("http-overhead", tokens(), seconds, unit="tokens/s", peer="the engine alone", clients=CLIENTS)


@contextmanager
def own_server(path: Path) -> Iterator[str]:
    """Our server as a process of its own, as the peer's is; its address."""
    port = free_port()
    given = [sys.executable, "-m", "llmanac", "serve", str(path), "--port", str(port), "--prefix-cache", "0"]
    process = subprocess.Popen([*given, "--threads", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}", 300)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def llama_server(path: str, clients: int) -> Iterator[str | None]:
    """llama.cpp's own server; its address."""
    command = os.environ.get("LLMANAC_LLAMA_SERVER")
    if not command:
        yield None
        return
    port = free_port()
    room = str(clients * 1024)  # tokens of all slots
    given = [command, "-m", path, "--port", str(port), "-np", str(clients), "-c", room, "-t", "2", "--log-disable"]
    process = subprocess.Popen(given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}", 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def stream(address: str, clients: int, firsts: list[float]) -> None:
    """Two prompts of each client, streamed; notes the times to first tokens."""
    draws = np.random.default_rng(clients)
    asked = [
        [int(i) for i in draws.integers(3, 30_000, size)] for size in np.linspace(32, 512, 2 * clients).astype(int)
    ]
    headers = {"connection": "close"}  # a kept one may be closed just as it is used again
    with (
        httpx.Client(base_url=address, timeout=600, headers=headers) as http,
        concurrent.futures.ThreadPoolExecutor(clients) as pool,
    ):

        def one(prompt: list[int]) -> None:
            body = {"model": "qwen", "prompt": prompt, "max_tokens": NEW, "temperature": 0.0, "stream": True}
            begun, first = time.perf_counter(), None
            with http.stream(
                "POST", "/v1/completions", json={**body, "ignore_eos": True, "cache_prompt": False}
            ) as told:
                for line in told.raise_for_status().iter_lines():
                    if line.startswith("data: {") and first is None:
                        first = time.perf_counter() - begun
            assert first is not None
            firsts.append(first)

        list(pool.map(one, asked))


def against_llama_server(clients: int) -> list[Result]:
    """Throughput and time to first token of N clients."""
    path = joined("qwen")
    names = (f"serve-{clients}", f"serve-{clients}-first")
    if path is None:
        return [absent(name) for name in names]
    firsts: dict[str, list[float]] = {"ours": [], "theirs": []}
    with own_server(path) as own, llama_server(str(path), clients) as peer:
        addresses = {"ours": own} | ({"theirs": peer} if peer else {})
        runs = {name: functools.partial(stream, url, clients, firsts[name]) for name, url in addresses.items()}
        seconds = interleave(runs, rounds=ROUNDS)
    done, waited = 2 * clients * NEW, {name: float(np.median(times)) for name, times in firsts.items() if times}
    told = "llama.cpp's llama-server"
    return [
        Result.rate(names[0], done, seconds, unit="tokens/s", peer=told, clients=clients),
        Result(names[1], "s", waited["ours"], told, waited.get("theirs"), "lower", {"clients": clients}),
    ]


for count in (1, 8, 32):
    bench.measure(f"serve-{count}")(functools.partial(against_llama_server, count))


if __name__ == "__main__":
    bench.main()
