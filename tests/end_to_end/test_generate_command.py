"""`llmanac generate`: one text, and a file of prompts that a stopped command goes on with."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from _engine_models import ByteTokenizer, HistoryModel

from llmanac.cli import main
from llmanac.core.parts import parts_of
from llmanac.core.spec import make_method
from llmanac.generate import load, prompts
from llmanac.generate.engine import Engine

TEXTS = [f"prompt {i}" for i in range(5)]
OPTIONS: dict[str, Any] = {"beams": 3, "n": 2, "no_repeat_ngram": 2, "max_new_tokens": 4, "length_penalty": 0.5}
FLAGS = ["--beams", "3", "-n", "2", "--no-repeat-ngram", "2", "--max-new-tokens", "4", "--length-penalty", "0.5"]


@pytest.fixture
def engine(monkeypatch) -> Engine:
    found = Engine(HistoryModel(), ByteTokenizer())
    monkeypatch.setattr(load, "load_writer", lambda *args, **options: found)
    return found


def run(*words: object) -> int:
    try:
        main([str(word) for word in ("generate", "model", *words)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]


def test_a_text_is_printed_with_every_option(engine, capsys) -> None:
    assert run("once", *FLAGS, "--seed", "3") == 0
    done = engine.generate("once", **OPTIONS)
    shown = [f"--- sample {i + 1} of 2, score {one.score:.4f}\nonce{one.text}\n" for i, one in enumerate(done)]
    assert capsys.readouterr().out == "".join(shown)
    drawn = {"temperature": 0.7, "top_k": 9, "min_p": 0.01, "typical_p": 0.9, "repetition_penalty": 1.2}
    drawn |= {"presence_penalty": 0.1, "frequency_penalty": 0.2, "top_p": 0.9}
    flags = [word for name, value in drawn.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert run("--prompt", "once", *flags, "--max-new-tokens", 5, "--seed", 3, "--stop", "e") == 0
    text = engine.generate("once", **drawn, max_new_tokens=5, seed=3, stop="e")[0].text
    assert capsys.readouterr().out == f"once{text}\n"
    assert run("once", "--decoding", "top-k{k=5}", "--decoding", "temperature{temperature=2.0}", "--seed", 5) == 0
    given = ({"name": "top-k", "k": 5}, {"name": "temperature", "temperature": 2.0})
    methods = [make_method("decoding", one) for one in given]
    assert capsys.readouterr().out == f"once{engine.generate('once', decoding=methods, seed=5)[0].text}\n"
    assert run("once", "--decoding", "beam", "--beams", 3, "--early-stopping", "never", "--max-new-tokens", 4) == 0
    best = engine.generate("once", beams=3, early_stopping="never", max_new_tokens=4)[0]
    assert capsys.readouterr().out == f"once{best.text}\n"


def test_the_mean_is_of_the_tokens_that_have_a_log_probability(engine, tmp_path, capsys) -> None:
    asked, out = tmp_path / "asked.txt", tmp_path / "out.jsonl"
    asked.write_text("p\n", "utf-8")
    assert run("--prompts", asked, "-o", out, "--regex", "abc") == 0
    (row,) = rows(out)
    logs = [p for p in engine.generate("p", regex="abc")[0].logprobs if p is not None]
    assert row["text"] == "abc" and row["scored"] == len(logs) < row["tokens"]
    assert f"{sum(logs) / len(logs):.3f}" in capsys.readouterr().out
    every = engine.generate("p", regex="abc", logprobs=0)[0]
    assert every.text == "abc" and None not in every.logprobs


def test_a_file_is_continued_and_a_stopped_command_goes_on(engine, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(prompts, "BLOCK", 2)
    asked = tmp_path / "prompts.txt"
    asked.write_text("\n\n".join(TEXTS) + "\n", "utf-8")
    out = tmp_path / "out.jsonl"
    generate, calls = engine.generate, []

    def stopping(*args, **options):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(*args, **options)

    monkeypatch.setattr(engine, "generate", stopping)
    assert run("--prompts", asked, "-o", out, *FLAGS) == 130
    assert "Continue with: the same command" in capsys.readouterr().out and not out.exists() and parts_of(out).is_dir()
    assert run("--prompts", asked, "-o", out, *FLAGS, "--seed", "1") == 2
    assert "other options" in capsys.readouterr().err
    assert run("--prompts", asked, "-o", out, *FLAGS) == 0
    assert len(calls) == 4 and not parts_of(out).exists()
    printed = capsys.readouterr().out
    assert "Next: llmanac score model" in printed and "10" in printed
    found = rows(out)
    expected = generate(TEXTS, **OPTIONS)
    assert [(row["number"], row["prompt"], row["index"]) for row in found] == [
        (i + 1, text, k) for i, text in enumerate(TEXTS) for k in range(2)
    ]
    for row, one in zip(found, expected, strict=True):
        assert (row["text"], row["score"], row["finish_reason"]) == (one.text, one.score, one.finish_reason)
        assert row["tokens"] == len(one.ids) and row["logprob"] == pytest.approx(sum(one.arrays.logprobs))
    assert run("--prompts", out, *FLAGS) == 0  # its rows are prompts again
    assert [json.loads(line)["prompt"] for line in capsys.readouterr().out.splitlines()[::4]] == TEXTS
    assert run("--prompts", asked, "-o", out) == 2 and "there already" in capsys.readouterr().err
    assert run("--prompts", asked, "-o", out, "--force", "--max-new-tokens", "1") == 0
    assert [row["tokens"] for row in rows(out)] == [1] * 5


def test_line_separators_in_a_text_are_no_ends_of_rows(engine, tmp_path, capsys) -> None:
    asked, out = tmp_path / "asked.jsonl", tmp_path / "out.jsonl"
    asked.write_text('{"prompt": "a\\u2028b"}\n{"prompt": "c\u2029\u0085d"}\n', "utf-8")
    assert run("--prompts", asked, "-o", out, "--max-new-tokens", "2") == 0
    assert [row["prompt"] for row in rows(out)] == ["a\u2028b", "c\u2029\u0085d"]


def test_one_command_writes_an_output_and_edited_parts_are_made_anew(engine, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(prompts, "BLOCK", 2)
    asked, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    asked.write_text("\n\n".join(TEXTS) + "\n", "utf-8")
    assert run("--prompts", asked, "-o", out) == 0
    expected = out.read_bytes()
    generate = engine.generate

    def stopping(block, **options):
        if block[0] == TEXTS[4]:
            assert run("--prompts", asked, "-o", out, "--force") == 2  # the lock is held here
            raise KeyboardInterrupt
        return generate(block, **options)

    monkeypatch.setattr(engine, "generate", stopping)
    assert run("--prompts", asked, "-o", out, "--force") == 130
    assert "another command writes" in capsys.readouterr().err
    part = parts_of(out) / "000001.part"
    part.write_bytes(part.read_bytes().replace(b'"index": 0', b'"index": 7'))
    monkeypatch.setattr(engine, "generate", generate)
    assert run("--prompts", asked, "-o", out, "--force") == 0
    assert out.read_bytes() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "prompts.txt"]


def test_parts_of_another_model_or_engine_are_refused_by_name(engine, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(prompts, "BLOCK", 2)
    monkeypatch.chdir(tmp_path)
    for name in ("model", "draft", "tuned"):
        (tmp_path / name).mkdir()
    for name in ("model", "draft"):
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"1234")
    (tmp_path / "tuned" / "adapter_config.json").write_text('{"base_model_name_or_path": "model"}')
    (tmp_path / "prompts.txt").write_text("\n".join(TEXTS) + "\n", "utf-8")
    generate = engine.generate

    def stopping(block, **options):
        if block[0] == TEXTS[2]:
            raise KeyboardInterrupt
        return generate(block, **options)

    monkeypatch.setattr(engine, "generate", stopping)
    first = ["--prompts", "prompts.txt", "-o", "out.jsonl", "--draft", "draft"]
    assert run(*first) == 130
    for more, said in (
        (["--rope", "yarn:4"], "(--rope)"), (["--sinks", "4+60"], "(--sinks)"), (["--runner", "torch"], "(--runner)"),
        (["--draft", "ngram"], "(--draft, "), (["--draft-tokens", "3"], "(--draft-tokens)"),
        (["--seed", "1"], "(--seed)"),
    ):  # fmt: skip
        assert run(*first, *more) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert said in error and "remove the folder to start over" in error
    for file in ("model/model.safetensors", "draft/model.safetensors", "model/config.json"):
        path = tmp_path / file
        kept = path.stat()
        path.write_bytes(path.read_bytes()[::-1])  # as many bytes
        os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns + 10**9))
        assert run(*first) == 2 and f"({file})" in " ".join(capsys.readouterr().err.split())
        os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert set(prompts.stamps("tuned")) == {
        "tuned/adapter_config.json", "model/config.json", "model/model.safetensors"
    }  # fmt: skip
    monkeypatch.setattr(engine, "generate", generate)
    assert run(*first) == 0 and len(rows(tmp_path / "out.jsonl")) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "--prompt", "b"], "--prompts: give one of"),
        (["a", "-o", "x.jsonl"], "--output: is for the texts of --prompts"),
        (["--prompts", "missing.txt"], "missing.txt"),
        (["--prompts", "empty.txt"], "empty.txt: holds no text"),
        (["--prompts", "long.txt"], "prompt 2: prompt: 300 tokens do not fit"),
        (["--prompts", "long.txt", "-o", "x.txt"], "must end in .jsonl"),
        (["--prompts", "long.txt", "-o", "long.txt"], "must end in .jsonl"),
        (["a", "--decoding", "top-k{k=0}"], "--decoding: .*k: 0 must be at least 1"),
        (["a", "--decoding", "{k=0}"], "--decoding '{k=0}': an arm starts with a method's name"),
        (["a", "--early-stopping", "soon", "--beams", "2"], "early_stopping: .*soon"),
    ],
)
def test_what_cannot_be_done_is_said(engine, words, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n \n", "utf-8")
    Path("long.txt").write_text("a\n" + "b" * 300, "utf-8")
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("llmanac: ") and re.search(message, err), err
    assert out == ""
