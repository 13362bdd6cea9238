"""64 clients of one server for minutes: random requests, cancels, stops and malformed bodies.

    python benchmarks/soak.py                     # 5 minutes, 64 clients
    python benchmarks/soak.py --minutes 0.2 --clients 16

The server is a process of its own with a small model. What must hold: no reply has status 500; every reply's token
counts equal a recount of its tokens; at the end no request runs and no block of the KV cache is held; the memory of the
server's process grows by less than 2% after the first minute. Exit status 1 where something does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from llmanac.web.serve import claim_port

CONTEXT, ROWS, QUEUE, CACHE = 512, 16, 32, 2**21
ALLOWED = {200, 400, 404, 413, 415, 429}
GROWTH = 0.02
WARM = 60.0  # seconds
REGEXES = ("[ab]{3,9}", "(yes|no)", '\\{"n": [0-9]{1,3}\\}')
WORDS = ["the", "keeper", "of", "light", "went", "down", "to", "shore", "and", "counted", "boats", "日本", "🙂"]


def serve(port: int) -> None:
    """The server's process."""
    import torch

    import llmanac
    from llmanac.generate.engine import Engine
    from llmanac.tokenizers.load import train_tokenizer
    from llmanac.web.serve import serve as run

    torch.set_num_threads(1)
    tokenizer = train_tokenizer("utf8", [], special_tokens=["<|im_start|>", "<|im_end|>"])
    model = llmanac.build("lm", "transformer", dim=16, layers=1, max_length=CONTEXT, vocab_size=tokenizer.vocab_size)
    model.initialise(0)
    engine = Engine(model.eval(), tokenizer, rows=ROWS, max_num_batched_tokens=CONTEXT * 4)
    run(engine, port=port, model_name="soak", max_queue=QUEUE, prefix_cache_bytes=CACHE)


class Client:
    """One client: asks for something at random, and counts again what comes."""

    def __init__(self, http: httpx.AsyncClient, seed: int, seen: Counter[str], wrong: list[str]) -> None:
        self.http, self.pick, self.seen, self.wrong = http, random.Random(seed), seen, wrong

    def text(self, most: int = 40) -> str:
        return " ".join(self.pick.choices(WORDS, k=self.pick.randint(1, most)))

    def body(self) -> tuple[str, dict[str, Any]]:
        pick = self.pick
        body: dict[str, Any] = {"model": "soak", "seed": pick.randrange(1000), "max_tokens": pick.randint(1, 60)}
        body |= pick.choice([{}, {"temperature": 0}, {"top_p": 0.9}, {"presence_penalty": 1, "min_p": 0.02}])
        body |= pick.choice([{}, {"stop": pick.sample(["a", "e", " t", "本", "\x00"], 2)}, {"ignore_eos": True}])
        if pick.random() < 0.2:
            body["structured_outputs"] = {"regex": pick.choice(REGEXES)}
        body["n"] = pick.choice([1, 1, 1, 2, 4])
        if pick.random() < 0.4:
            turns = [{"role": "user", "content": self.text()}]
            return "/v1/chat/completions", {**body, "messages": turns, "logprobs": True}
        prompt = pick.choice([self.text(), [self.text(8), self.text(8)], [1, 2, 3] * pick.randint(1, 40)])
        return "/v1/completions", {**body, "prompt": prompt, "logprobs": 1, "echo": pick.random() < 0.3}

    async def once(self) -> None:
        pick = self.pick
        path, body = self.body()
        kind = pick.choices(["whole", "stream", "cancel", "leave", "malformed", "other"], [6, 6, 3, 2, 3, 2])[0]
        self.seen[kind] += 1
        if kind == "whole":
            answer = await self.http.post(path, json=body)
            if self.status(answer, body) == 200:
                self.recount(path, body, answer.json()["choices"], answer.json()["usage"])
        elif kind in ("stream", "cancel"):
            await self.stream(path, body, pick.randint(0, 12) if kind == "cancel" else None)
        elif kind == "leave":
            with contextlib.suppress(httpx.TimeoutException):
                self.status(await self.http.post(path, json=body, timeout=pick.uniform(0.01, 0.5)), body)
        elif kind == "malformed":
            await self.malformed(path, body)
        else:
            page = pick.choice(["/health", "/metrics", "/v1/models", "/tokenizer_info", "/nowhere"])
            self.status(await self.http.get(page), page)

    async def stream(self, path: str, body: dict[str, Any], leave_after: int | None) -> None:
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        choices: dict[int, dict[str, Any]] = {}
        async with self.http.stream("POST", path, json=body) as answer:
            if self.status(answer, body) != 200:
                return
            count, ended = 0, False
            async for line in answer.aiter_lines():
                if leave_after is not None and count >= leave_after:
                    return
                if not line.startswith("data: "):
                    continue
                count += 1
                if line == "data: [DONE]":
                    ended = True
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    self.wrong.append(f"an error in a stream: {line[:300]}")
                    return
                for part in chunk["choices"]:
                    whole = choices.setdefault(part["index"], {"logprobs": {"tokens": [], "content": []}})
                    for name in ("tokens", "content"):
                        whole["logprobs"][name] += (part["logprobs"] or {}).get(name, [])
                if chunk.get("usage"):
                    self.recount(path, body, list(choices.values()), chunk["usage"])
        if not ended:
            self.wrong.append("a stream ended without [DONE]")

    async def malformed(self, path: str, body: dict[str, Any]) -> None:
        pick = self.pick
        data = bytearray(json.dumps(body).encode())
        for _ in range(pick.randint(1, 8)):
            at = pick.randrange(len(data))
            data[at : at + pick.randint(0, 3)] = bytes(pick.randrange(256) for _ in range(pick.randint(0, 3)))
        kinds = ["application/json", "application/json", "text/plain"]
        self.status(await self.http.post(path, content=bytes(data), headers={"content-type": pick.choice(kinds)}), "")

    def status(self, answer: httpx.Response, asked: Any) -> int:
        self.seen[str(answer.status_code)] += 1
        if answer.status_code not in ALLOWED:
            self.wrong.append(f"status {answer.status_code} for {str(asked)[:300]}")
        return answer.status_code

    def recount(self, path: str, body: dict[str, Any], choices: list[dict[str, Any]], usage: dict[str, Any]) -> None:
        """The usage against the tokens that came, and those of the prompt (a byte each here)."""
        self.seen["recounted"] += 1
        logs = [choice["logprobs"] for choice in choices]
        if path.endswith("chat/completions"):
            found = {"completion_tokens": sum(len(log["content"]) for log in logs)}
        else:
            prompt = body["prompt"]
            prompts = prompt if isinstance(prompt[0], str) and isinstance(prompt, list) else [prompt]
            read = sum(len(p.encode()) if isinstance(p, str) else len(p) for p in prompts)
            echoed = read * body["n"] if body["echo"] else 0
            found = {"prompt_tokens": read, "completion_tokens": sum(len(log["tokens"]) for log in logs) - echoed}
        if any(usage[name] != count for name, count in found.items()):
            self.wrong.append(f"usage {usage} but counted {found} for {str(body)[:300]}")


def memory(process: int) -> int:
    """Resident bytes of a process, 0 where the system does not say."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


async def soak(url: str, process: int, clients: int, seconds: float) -> tuple[Counter[str], list[str], list[int]]:
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    sizes: list[int] = []
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=2 * clients)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:

        async def client(seed: int) -> None:
            one = Client(http, seed, seen, wrong)
            while time.monotonic() < end:
                await one.once()

        async def watch() -> None:
            while time.monotonic() < end:
                sizes.append(memory(process))
                await asyncio.sleep(1)

        await asyncio.gather(watch(), *(client(seed) for seed in range(clients)))
        for _ in range(100):  # what was cancelled leaves before the next step
            health = (await http.get("/health")).json()
            if not health["running"] + health["waiting"] + health["prefix_cache"]["blocks_in_use"]:
                break
            await asyncio.sleep(0.1)
        else:
            wrong.append(f"something is still held: {health}")
    return seen, wrong, sizes


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--minutes", type=float, default=5.0)
    options.add_argument("--clients", type=int, default=64)
    options.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.serve:
        serve(given.serve)
        return 0
    with claim_port("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, __file__, "--serve", str(port)])
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            time.sleep(0.2)
        for regex in REGEXES:  # the first constraint of a machine compiles for a while
            body = {"model": "soak", "prompt": "a", "max_tokens": 2, "structured_outputs": {"regex": regex}}
            while httpx.post(f"{url}/v1/completions", json=body, timeout=120).status_code == 429:
                time.sleep(1)
        seen, wrong, sizes = asyncio.run(soak(url, process.pid, given.clients, 60 * given.minutes))
    finally:
        process.terminate()
        process.wait(30)
    print(", ".join(f"{name}: {count}" for name, count in sorted(seen.items())))
    if len(sizes) > 1.5 * WARM:
        early, late = max(sizes[int(WARM) - 10 : int(WARM)]), max(sizes[-10:])
        growth = late / early - 1
        print(f"memory after a minute {early / 2**20:.1f} MiB, at the end {late / 2**20:.1f} MiB ({growth:+.1%})")
        if growth > GROWTH:
            wrong.append(f"memory grew by {growth:.1%}")
    for line in wrong[:20]:
        print(f"wrong: {line}")
    print(f"{len(wrong)} wrong, {seen['recounted']} replies recounted, {seen['200']} replies")
    return 1 if wrong or not seen["recounted"] else 0


if __name__ == "__main__":
    sys.exit(main())
