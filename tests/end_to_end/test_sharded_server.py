"""`llmanac serve --tensor 2`: a rank that dies ends a stream with an error in it, and later requests at once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from llmanac.core.spec import make_method
from llmanac.tokenizers.load import train_tokenizer

BODY = {"model": "tiny", "prompt": "abc", "max_tokens": 4000, "ignore_eos": True}


@pytest.fixture
def folder(tmp_path):
    tokenizer = train_tokenizer("bpe", ["abc abd abe " * 50], vocab_size=280, special_tokens=["<|endoftext|>"])
    fields = {"name": "transformer", "dim": 32, "layers": 2, "max_length": 5000}
    make_method("lm", fields).build(vocab_size=280).initialise(0).save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    return tmp_path


def further_ranks(process):
    """The process ids of a command's further ranks."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(c) for c in children if b"llmanac.parallel.serving" in Path(f"/proc/{c}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ranks are found in /proc")
@pytest.mark.parametrize("mesh", ["--tensor", "--pipeline"])
def test_a_rank_that_dies_ends_requests_with_an_error(folder, mesh):
    command = [sys.executable, "-m", "llmanac", "serve", str(folder), mesh, "2", "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    try:
        line = next(line for line in process.stdout if line.startswith("Serving"))
        url = re.search(r"http://127\.0\.0\.1:\d+", line).group()
        (rank,) = further_ranks(process.pid)
        with httpx.stream("POST", f"{url}/v1/completions", json={**BODY, "stream": True}, timeout=60) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            assert "error" not in json.loads(next(lines).removeprefix("data: "))
            os.kill(rank, signal.SIGKILL)
            begin = time.monotonic()
            last = [line for line in lines if line][-1]
        assert time.monotonic() - begin < 15  # 3 s where nothing else computes
        error = json.loads(last.removeprefix("data: "))["error"]
        assert "rank 1 stopped or hangs in a forward pass" in error["message"]
        assert "start the server again" in error["message"]
        later = httpx.post(f"{url}/v1/completions", json=BODY, timeout=60)
        assert later.status_code == 500 and "rank 1 stopped" in later.json()["error"]["message"]
        assert httpx.get(f"{url}/v1/models").status_code == 200
        health = httpx.get(f"{url}/health")
        assert health.status_code == 503 and health.json()["status"] == "lost"
        process.send_signal(signal.SIGINT)
        process.wait(30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
