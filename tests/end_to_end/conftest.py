"""Fixtures that several files of end-to-end tests share: servers, what studies start from, and a finished run."""

from __future__ import annotations

import ast
import copy
import difflib
import inspect
import json
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from _browser import Chromium
from _engine_models import ByteTokenizer, HistoryModel, script_of
from _runs import recipe as small_recipe
from _servers import ASK, UTF8, hello, running
from _studies import STEPS

import llmanac
from llmanac.generate.engine import Engine

# ---------------------------------------------------------------- servers


@pytest.fixture(scope="module")
def server():
    with running(Engine(HistoryModel(), ByteTokenizer())) as found:
        yield found


@pytest.fixture(scope="module")
def engine(server):
    """An engine of its own with the same model: what the server must agree with."""
    return Engine(HistoryModel(), ByteTokenizer())


@pytest.fixture(scope="module")
def scripted():
    """A server whose model says UTF8 after ASK and after the prompt 'abc'."""
    model = HistoryModel(script=script_of(UTF8, len(hello(ASK))) | script_of(UTF8, 203), max_length=400)
    with running(Engine(model, ByteTokenizer())) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Chromium(tmp_path_factory.mktemp("chromium"))
    yield made
    made.process.terminate()
    made.process.wait()


# ---------------------------------------------------------------- studies


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A base of 40 thousand parameters on the sources of a few modules."""
    texts = tmp_path_factory.mktemp("texts")
    for module in (ast, copy, difflib, inspect, json, random, textwrap, subprocess):
        (texts / f"{module.__name__}.txt").write_text(inspect.getsource(module)[:12_000])
    return {
        "name": "tiny",
        "data": {"held_out": 0.3, "source": {"name": "files", "paths": [str(texts)]}},
        "tokenizer": {"name": "bpe", "vocab_size": 320},
        "model": {
            "name": "transformer", "dim": 32, "layers": 2, "max_length": 32,
            "blocks": [{"name": "pre-norm", "mixer": {"name": "multi-head", "heads": 2}, "ffn": "swiglu"}],
        },
        "train": {
            "steps": STEPS, "batch_tokens": 128, "length": 32, "optimizer": {"name": "adamw", "lr": 3e-3},
            "attention": "sdpa", "dtype": "float32",
        },
        "evaluate": {"held_out_bytes": 4000},
    }  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for every study of a file: what two studies share is trained once."""
    return tmp_path_factory.mktemp("store")


# ---------------------------------------------------------------- the wheel


@pytest.fixture(scope="session")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make wheel` does, from a copy: nothing is written into the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("src", "docs/evidence"):
        shutil.copytree(
            root / name,
            folder / "copy" / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, folder / "copy" / name)
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([sys.executable, *words, str(folder / "copy")], check=True, timeout=300)
    (made,) = folder.glob("*.whl")
    return made


# ---------------------------------------------------------------- runs


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "Text für uns"
    folder.mkdir()
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "while",
        "seven",
        "small",
        "dogs",
        "ran",
        "past",
        "it",
        "and",
        "nobody",
        "said",
        "a",
        "word",
        "about",
        "rain",
    ]
    for i in range(12):
        lines = [" ".join(words[(i * 7 + j * k) % len(words)] for k in range(1, 14)) + "." for j in range(1, 60)]
        (folder / f"page-{i:02d}.txt").write_text("\n".join(lines), "utf-8")
    return folder


@pytest.fixture(scope="session")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> llmanac.recipes.run.Run:  # type: ignore[name-defined]
    return llmanac.run(small_recipe(text), folder=tmp_path_factory.mktemp("runs") / "mit Läufen" / "small")
