"""The server under fire: clients that send badly in many ways at once, a clock that jumps, SIGTERM."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from _engine_models import ByteTokenizer, HistoryModel
from _servers import running, wait_until
from test_server_command import SERVER

from llmanac.generate.engine import Engine
from llmanac.web import serve

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
BODY = json.dumps({"model": "tiny", "prompt": "abc", "max_tokens": 3, "temperature": 0}).encode()
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


def slow(sent, pick):
    for byte in WHOLE[:40]:
        sent.sendall(bytes([byte]))
        time.sleep(0.05)


def half(sent, pick):
    sent.sendall(WHOLE[: pick.randrange(1, len(WHOLE) - 1)])
    time.sleep(pick.uniform(0, 2))


def oversized(sent, pick):
    sent.sendall(HEAD + b"content-length: 99999999\r\n\r\n")
    for _ in range(200):
        sent.sendall(b"x" * 65536)


def long_head(sent, pick):
    for _ in range(200):
        sent.sendall(b"x-%d: %s\r\n" % (pick.randrange(10**6), b"y" * 1000))


def pipelined(sent, pick):
    sent.sendall(WHOLE * 8)
    sent.recv(65536)


def chunked(sent, pick):
    sent.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    for _ in range(60):
        sent.sendall(b"1\r\n \r\n")
        time.sleep(0.05)


def noise(sent, pick):
    sent.sendall(pick.randbytes(5000))
    sent.recv(65536)


def leaving(sent, pick):
    sent.sendall(WHOLE)
    sent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset in place of an end


KINDS = (slow, half, oversized, long_head, pipelined, chunked, noise, leaving)


def attack(server, seed):
    pick = random.Random(seed)
    place = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    with contextlib.suppress(OSError), socket.create_connection(place, timeout=20) as sent:
        KINDS[seed % len(KINDS)](sent, pick)


@pytest.mark.parametrize("count", [80, pytest.param(500, marks=pytest.mark.slow)])
def test_bad_clients_hold_up_nobody_and_leave_nothing(monkeypatch, count):
    monkeypatch.setattr(serve.Protocol, "head_seconds", 1.0)
    with running(Engine(HistoryModel(), ByteTokenizer()), body_seconds=1.0) as server:
        expected = httpx.post(
            f"{server.url}/v1/completions", content=BODY, headers={"content-type": "application/json"}
        )
        threads = [threading.Thread(target=attack, args=(server, seed)) for seed in range(count)]
        for thread in threads:
            thread.start()
        asked, worst = 0, 0.0
        while any(thread.is_alive() for thread in threads):
            begun = time.monotonic()
            assert httpx.get(f"{server.url}/health", timeout=20).json()["status"] == "ok"
            worst, asked = max(worst, time.monotonic() - begun), asked + 1
            answer = httpx.post(
                f"{server.url}/v1/completions", content=BODY, headers={"content-type": "application/json"}
            )
            if answer.status_code != 429:  # the queue may be full of pipelined requests
                assert answer.json()["choices"] == expected.json()["choices"]
        for thread in threads:
            thread.join()
        print(f"/health was asked {asked} times, {worst:.3f} s at most")
        wait_until(lambda: server.service.worker.counts == (0, 0), 20)
        assert asked > 3 and not server.service.worker.scheduler.busy


def test_a_clock_that_jumps_changes_no_answer(monkeypatch):
    with running(Engine(HistoryModel(seconds=0.005), ByteTokenizer()), seconds=30) as server:
        body = {"model": "tiny", "prompt": "abc", "max_tokens": 40, "temperature": 0, "extra_body": {"timeout": 20}}
        create = functools.partial(server.client.completions.create, **body, stream=True)
        plain = [chunk.choices[0].text for chunk in create()]
        true, days = time.time, [0]
        monkeypatch.setattr(time, "time", lambda: true() + 86_400 * days[0])
        found = []
        for chunk in create():
            days[0] = len(found) % 3 - 1
            found.append(chunk.choices[0].text)
        assert found == plain
        assert httpx.get(f"{server.url}/health").json()["status"] == "ok"


@pytest.mark.skipif(os.name == "nt", reason="no signals of this kind")
def test_sigterm_lets_requests_end_and_refuses_new_ones(root):
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(root / "tests")], stdout=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stdout if line.startswith("Serving"))
        url = line.partition("chat page ")[2].partition("/,")[0]
        body = {"model": "tiny", "prompt": "abc", "max_tokens": 250, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            process.send_signal(signal.SIGTERM)
            late = httpx.Response(200)
            while late.status_code == 200:  # until the signal is seen
                late = httpx.get(f"{url}/health", timeout=20)
                time.sleep(0.05)
            assert late.status_code == 503 and late.json()["status"] == "draining"
            refused = httpx.post(f"{url}/v1/completions", json={**body, "stream": False}, timeout=20)
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "shutting_down"
            told = [line for line in lines if line]
        assert told[-1] == "data: [DONE]" and '"finish_reason":"length"' in told[-2]
        assert process.wait(30) in (0, -signal.SIGTERM)
    finally:
        process.kill()
