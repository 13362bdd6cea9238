"""`llmanac serve` as a process: the port, Ctrl-C; and the terminal's chat and generate."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import httpx
import pytest
from _engine_models import ByteTokenizer, HistoryModel, script_of

from llmanac.cli import chat as console
from llmanac.cli.generate import print_completions
from llmanac.core.errors import CheckpointError, LlmanacError, RequestError
from llmanac.generate.answers import fitting
from llmanac.generate.engine import Engine
from llmanac.models.locate import locate
from llmanac.web.hosts import claim_port
from llmanac.web.serve import Model, serve


def test_a_taken_port_is_told_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            LlmanacError, match=rf"--port {port}: .*something else listens there.*choose another --port"
        ):
            serve([Model("tiny", lambda: pytest.fail("it loaded the model first"))], port=port)


def test_a_host_that_is_not_here():
    with pytest.raises(LlmanacError, match=r"--host nowhere\.invalid"):
        claim_port("nowhere.invalid", 0)
    with pytest.raises(LlmanacError, match=r"cannot listen on 203\.0\.113\.7"):
        claim_port("203.0.113.7", 0)


SERVER = """
import sys
sys.path.insert(0, sys.argv[1])
from _engine_models import ByteTokenizer, HistoryModel
from llmanac.generate.engine import Engine
from llmanac.web.serve import Model, serve
serve(Engine(HistoryModel(seconds=0.01, max_length=None), ByteTokenizer()), port=0, model_name="tiny")
print("closed")
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to a single process there")
@pytest.mark.parametrize("streaming", [False, True])
def test_ctrl_c_ends_cleanly(root, streaming):
    command = [sys.executable, "-c", SERVER, str(root / "tests")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stdout if line.startswith("Serving"))  # it may compile before
        url = re.search(r"http://127\.0\.0\.1:\d+", line).group()
        assert "tiny" in line and "/v1" in line
        assert httpx.get(f"{url}/health").status_code == 200
        if streaming:
            body = {"model": "tiny", "prompt": "abc", "max_tokens": 100_000, "ignore_eos": True, "stream": True}
            with httpx.stream("POST", f"{url}/v1/completions", json=body) as answer:
                lines = answer.iter_lines()
                assert next(lines).startswith("data: ")
                process.send_signal(signal.SIGINT)
                assert "shutting down" in [line for line in lines if line][-1]  # told, not cut off
            out, err = process.communicate(timeout=20)
        else:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert out.strip() == "closed" and "Traceback" not in err


LOADING = """
import time
from llmanac.core import interrupts
from llmanac.web.serve import Model, serve
def load():
    print("loading", flush=True)
    time.sleep(60)
with interrupts.noted(program=True):
    serve([Model("tiny", load)], port=0)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to a single process there")
def test_ctrl_c_while_the_model_loads():
    process = subprocess.Popen(
        [sys.executable, "-c", LOADING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130 and not out


# ---------------------------------------------------------------- the terminal


def engine_saying(text, prompt_length, **options):
    return Engine(HistoryModel(script=script_of(text, prompt_length), **options), ByteTokenizer())


def test_generate_prints_the_prompt_and_its_continuation(capsys):
    print_completions(engine_saying(" naïve 日本", 4), "once")
    assert capsys.readouterr().out == "once naïve 日本\n"
    print_completions(Engine(HistoryModel(), ByteTokenizer()), "once", n=2, temperature=1.0, max_new_tokens=3)
    out = capsys.readouterr().out
    assert "--- sample 1 of 2\nonce" in out and "--- sample 2 of 2\nonce" in out


def test_chat_reads_lines_where_there_is_no_terminal(capsys):
    tokenizer = ByteTokenizer()
    first = len(tokenizer.encode_chat([{"role": "user", "content": "hello"}], add_generation_prompt=True)[0])
    seen = []

    def script(ids):
        """Says `yes`, whatever was asked."""
        at = len(ids) - 1 - max(i for i, t in enumerate(ids) if t == 258)
        if at == 0:
            seen.append(tokenizer.decode(ids))
        return [*b"yes", 256][at]

    engine = Engine(HistoryModel(script=script), tokenizer)
    console.chat(engine, lines=io.StringIO("hello\n\nagain\n/new\nthird\n/exit\nnever\n"))
    assert capsys.readouterr().out == "yes\nyes\nyes\n"
    assert len(seen) == 3 and len(seen[0].encode()) >= first
    assert "hello" in seen[1] and "yes" in seen[1] and "again" in seen[1]  # the conversation goes on
    assert "hello" not in seen[2] and "third" in seen[2]  # until /new


def test_chat_forgets_its_oldest_turns_once_the_context_is_full():
    engine = Engine(HistoryModel(max_length=60), ByteTokenizer())
    turn = [{"role": "user", "content": "question x"}, {"role": "assistant", "content": "answer y"}]
    kept, ids = fitting(engine, [*turn, *turn, *turn, {"role": "user", "content": "now"}])
    assert kept == [*turn, {"role": "user", "content": "now"}] and len(ids) <= 45
    with pytest.raises(RequestError, match="do not fit the model's context of 60"):
        fitting(engine, [{"role": "user", "content": "x" * 70}])


def test_chat_survives_an_error_and_shows_sources(capsys):
    class Librarian:
        def answer(self, question):
            if question == "bad":
                raise LlmanacError("question: too odd")
            return SimpleNamespace(
                text="It joins.", citations=({"title": "os.path.join", "text": "Join\n paths."},), refused=False
            )

    console.chat(engine_saying("x", 1), Librarian(), lines=io.StringIO("bad\njoin?\n"))
    out, err = capsys.readouterr()
    assert out == "It joins.\n  source: os.path.join\n    Join paths.\n"
    assert err == "error: question: too odd\n"
    small = Engine(HistoryModel(max_length=30), ByteTokenizer())
    console.chat(small, lines=io.StringIO("x" * 50 + "\nok\n"))
    out, err = capsys.readouterr()
    assert "do not fit" in err and out.endswith("\n")


def test_chat_keeps_the_earlier_questions_and_shows_the_nearest_entries(capsys):
    seen = []

    class Librarian:
        def answer(self, question, history=()):
            seen.append((question, list(history)))
            near = {"name": "time.sleep", "signature": "time.sleep(seconds)", "summary": "Wait."}
            return SimpleNamespace(text="It is not said.", citations=(), refused=True, nearest=(near,))

    console.chat(engine_saying("x", 1), Librarian(), lines=io.StringIO("one\ntwo\n/new\nthree\n"))
    assert seen == [("one", []), ("two", ["one"]), ("three", [])]
    assert capsys.readouterr().out == "It is not said.\n  nearest: time.sleep(seconds)\n    Wait.\n" * 3


def test_paths_of_runs_and_models(tmp_path):
    with pytest.raises(CheckpointError, match="neither a finished run"):
        locate(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        locate(tmp_path / "absent")
    assert locate("owner/name") == ("owner/name", "owner/name")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    assert locate(tmp_path) == (str(tmp_path / "base"), str(tmp_path / "tokenizer"))
    (tmp_path / "model").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "model" / name).write_text("{}")
    assert locate(tmp_path) == (str(tmp_path / "model"), str(tmp_path / "model"))
    assert locate(tmp_path / "model") == (str(tmp_path / "model"), str(tmp_path / "model"))


def test_adapters_have_a_name_each_and_may_be_what_tune_wrote(monkeypatch, tmp_path):
    given = {}

    def load_writer(path, **options):
        given.update(options["adapters"])
        raise LlmanacError("it was asked to load")

    monkeypatch.setattr("llmanac.generate.load.load_writer", load_writer)
    tuned = tmp_path / "tuned" / "model"
    tuned.mkdir(parents=True)
    (tuned / "adapter_config.json").write_text("{}")
    with pytest.raises(LlmanacError, match="asked to load"):
        console.serve_command("m.gguf", port=0, adapter=[f"a={tmp_path / 'tuned'}", f"b={tuned}", "c=elsewhere"])
    assert given == {"a": str(tuned), "b": str(tuned), "c": "elsewhere"}
    for wrong in (["a=b", "a=c"], ["a"], ["a="], ["=b"]):
        with pytest.raises(RequestError, match="--adapter"):
            console.serve_command("m.gguf", port=0, adapter=wrong)
