"""The commands from Python: the same names, the same recipes, and results that show themselves as tables."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from _commands import commands

import llmanac
from llmanac import api
from llmanac.core.errors import LlmanacError
from llmanac.core.spec import make_method

NAMES = ("align", "ask", "compare", "distill", "evaluate", "generate", "index", "merge", "quantize", "run", "tune")
USER = """
from pathlib import Path

import llmanac

tuned = llmanac.tune("model", "rows.jsonl", output="tuned", changes={"train.steps": 2})
place: Path = tuned.folder / "model"
scores = llmanac.evaluate("model", place, benchmarks="km.toml", limit=4)
print(scores, tuned, scores.data["evaluations"], len(scores.tables()))
print(llmanac.quantize("model", "small", "int8").bits, llmanac.merge("adapter", "merged").error)
print(llmanac.ask("docs", "What?").text, llmanac.index("docs"))
texts: list[str] = [one.text for one in llmanac.generate("model", "Once", max_new_tokens=4)]
study = llmanac.compare("position", "rope,none", budget="1m")
print(study.verdicts, study)
engine = llmanac.Engine(llmanac.load_model("model"), llmanac.load_tokenizer("model"))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a tokenizer, rows, a benchmark of them, and documents."""
    folder = tmp_path_factory.mktemp("python")
    rows = [{"prompt": f"{a} km in m?", "completion": f" {1000 * a} m"} for a in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "km.toml").write_text(
        'title = "Kilometres"\nabout = "Metres."\nprompt = "{{prompt}}"\ndata.files = ["rows.jsonl"]\n'
        "choices = {texts = \"[completion, ' 12 m', ' 1 m']\", gold = \"0\"}\n",
        "utf-8",
    )
    tokenizer = llmanac.train_tokenizer("bpe", [str(rows)], vocab_size=280, special_tokens=["<|endoftext|>"])
    fields = {"name": "transformer", "dim": 16, "layers": 1, "max_length": 128}
    llmanac.save_model(make_method("lm", fields).build(vocab_size=tokenizer.vocab_size).initialise(0), folder / "model")
    tokenizer.save(folder / "model")
    (folder / "docs").mkdir()
    (folder / "docs" / "port.md").write_text("# Server\n\nThe server listens on port 8017 of the loopback.\n", "utf-8")
    return folder


def test_the_functions_have_the_names_and_options_of_the_commands() -> None:
    known = {name: set(inspect.signature(command).parameters) for name, command in commands()}
    for name in NAMES:
        assert callable(getattr(llmanac, name)) and name in known and name in llmanac.__all__
    renamed = {"data", "model", "method", "changes", "texts", "options", "place", "other", "folder"}
    for name in ("align", "distill", "merge", "tune"):
        assert inspect.signature(getattr(api, name)).parameters.keys() - renamed <= known[name], name


def shown(result: Any, *texts: str) -> None:
    page = result._repr_html_()
    for text in texts:
        assert text in repr(result) and text in page, (text, repr(result))
    assert "<table>" in page and "<script" not in page


def test_tuning_then_evaluating(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {"train.steps": 2, "train.batch_tokens": 512}
    tuned = llmanac.tune(
        place / "model", place / "rows.jsonl", adapter="full", changes=changes, output=tmp_path / "out"
    )
    shown(tuned, "parameters trained", "before: ", "change, with its 95% interval")
    found = llmanac.evaluate(place / "model", tuned.folder / "model", benchmarks=str(place / "km.toml"), limit=8)
    shown(found, "Kilometres", "acc_norm", "standard error")
    assert len(found.tables()) == 2 and (tmp_path / "results" / "report.html").is_file()
    texts = llmanac.generate(tuned.folder / "model", "3 km in m?", max_new_tokens=3, seed=0)
    assert len(texts) == 1 and len(texts[0].ids) <= 3


def test_quantizing_and_asking(place: Path, tmp_path: Path) -> None:
    texts = [(place / "rows.jsonl").read_text("utf-8")]
    small = llmanac.quantize(place / "model", tmp_path / "small", "int8", texts=texts)
    shown(small, "int8", "perplexity", "KL, nats a token")
    assert llmanac.index(place / "docs").place.is_dir()
    answer = llmanac.ask(place / "docs", "What does the server listen on?")
    assert "8017" in answer.text and not answer.refused


def test_errors_name_what_was_given(place: Path, tmp_path: Path) -> None:
    for wrong, call in (
        ("nowhere", lambda: llmanac.tune("nowhere", place / "rows.jsonl", output=tmp_path / "a")),
        ("train.stepz", lambda: llmanac.tune(place / "model", place / "rows.jsonl", changes={"train.stepz": 1})),
        ("levels", lambda: llmanac.distill("a", "b", "c", level="levels")),
        ("km.toml|bench", lambda: llmanac.evaluate(place / "model", benchmarks="bench")),
    ):
        with pytest.raises(LlmanacError, match=wrong):
            call()


@pytest.mark.slow
def test_a_users_file_passes_strict_types(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER, "utf-8")
    words = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "user.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout
