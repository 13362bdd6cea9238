"""`generate`, `evaluate` and `embed` with `--engine ray`: the bytes of one process, also after kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from _engine_models import ByteTokenizer, HistoryModel
from _machines import machines, said_by
from _small_models import randomise, transformer
from test_chat_endpoints import OWN as BENCHMARK

from llmanac.core.cluster import here
from llmanac.core.errors import LlmanacError
from llmanac.core.parts import parts_for, parts_of
from llmanac.evaluate import embed, vectors
from llmanac.generate import prompts
from llmanac.generate.engine import Engine
from llmanac.tokenizers.load import train_tokenizer

RAY = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(2400)]


def backwards(thing):
    """Processes that are done with the last call first, and die after so many."""

    def each(function, calls, most=None):
        for number, (_, found) in list(enumerate(here(thing)(function, calls)))[::-1][:most]:
            yield number, found
        if most is not None:
            raise LlmanacError("a process died")

    return each


def test_blocks_that_are_done_in_another_order_are_the_same_file(tmp_path, monkeypatch):
    """Also after processes died: what they had done is not done again."""
    monkeypatch.setattr(prompts, "BLOCK", 2)
    engine, texts = Engine(HistoryModel(), ByteTokenizer()), [f"prompt {n}" for n in range(9)]
    options = {"max_new_tokens": 5, "temperature": 0.8, "seed": 3}
    plain, other = tmp_path / "plain.jsonl", tmp_path / "other.jsonl"
    prompts.write_completions(here(engine), texts, plain, options, "model")
    with pytest.raises(LlmanacError, match="a process died"):
        prompts.write_completions(lambda f, calls: backwards(engine)(f, calls, 3), texts, other, options, "model")
    asked = []

    def each(function, calls):
        asked.extend(calls)
        return backwards(engine)(function, calls)

    assert not other.exists()
    prompts.write_completions(each, texts, other, options, "model")
    assert [call[1] for call in asked] == [0, 2] and other.read_bytes() == plain.read_bytes()
    assert len({json.loads(line)["text"] for line in plain.read_text().splitlines()}) > 5


@pytest.fixture
def place(tmp_path):
    """A model with a tokenizer, prompts, and a benchmark."""
    lines = [f"a {word} zebra sees {n} grass and eats the sky" for n in range(300) for word in ("small", "big")]
    tokenizer = train_tokenizer("bpe", lines, vocab_size=300)
    model = randomise(transformer(dim=32, layers=2, vocab_size=tokenizer.vocab_size, max_length=96))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("\n".join(lines) + "\n")
    rows = [{"question": line, "options": ["grass", "the sky", "no"], "answer": n % 3} for n, line in enumerate(lines)]
    (tmp_path / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "colours.toml").write_text(BENCHMARK)
    return tmp_path


COMMANDS = {
    "generate": ["generate", "model", "--prompts", "prompts.txt", "--max-new-tokens", "8", "--threads", "1", "-o"],
    "evaluate": ["evaluate", "model", "--benchmarks", "colours.toml", "-o"],
    "embed": ["embed", "model", "prompts.txt", "-o"],
}
NAMES = {"generate": "{}.jsonl", "evaluate": "{}", "embed": "{}.npy"}


def command(name: str, out: str, *more: str) -> tuple[str, ...]:
    return "-m", "llmanac", *COMMANDS[name], NAMES[name].format(out), *more


def same(folder: Path, other: Path) -> bool:
    """Whether two outputs are the same, file by file, but for the page."""
    kept = [
        {path.relative_to(place): path.read_bytes() for path in place.rglob("*") if path.suffix not in ("", ".html")}
        if place.is_dir() else {Path(): place.read_bytes()}
        for place in (folder, other)
    ]  # fmt: skip
    return kept[0] == kept[1]


class TestRay:
    pytestmark = RAY

    def test_a_killed_run_goes_on_to_the_bytes_of_one_process(self, place):
        pytest.importorskip("ray", reason="needs `pip install llmanac[ray]`")
        own = {**os.environ, "OMP_NUM_THREADS": "1"}

        def start(*arguments: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, *arguments], cwd=place, env=own, text=True, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

        for name in COMMANDS:
            (said,) = said_by(plain := start(*command(name, "plain")), seconds=300)
            assert not plain.returncode, said
        begun = start(*command("generate", "ray", "--engine", "ray", "--workers", "2"))
        parts, stop = place / "ray.jsonl.parts", time.monotonic() + 400
        while len(list(parts.glob("*.part"))) < 2:
            assert begun.poll() is None and time.monotonic() < stop, begun.communicate()[0]
            time.sleep(0.01)
        os.killpg(begun.pid, signal.SIGKILL)  # with Ray itself
        begun.communicate()
        assert parts.is_dir() and not (place / "ray.jsonl").exists()
        for name in COMMANDS:
            (said,) = said_by(done := start(*command(name, "ray", "--engine", "ray", "--workers", "2")), seconds=500)
            assert not done.returncode, said
            one, two = (place / NAMES[name].format(out) for out in ("plain", "ray"))
            assert same(one, two), name
        assert not parts.exists()

    def test_machines_need_the_model_and_nothing_else(self, place):
        from _ray_cluster import cluster

        with machines(3, place) as made, cluster(made.each) as variables:
            first, *others = made.each
            for name in ("model", "prompts.txt", "colours.jsonl", "colours.toml"):
                copy = shutil.copytree if (place / name).is_dir() else shutil.copy
                copy(place / name, first.folder / name)
            for name in COMMANDS:
                (said,) = said_by(plain := first.python(*command(name, "plain")), seconds=300)
                assert not plain.returncode, said
            asked = command("embed", "far", "--engine", "ray")
            (said,) = said_by(lost := first.python(*asked, **variables), seconds=500)
            assert lost.returncode == 2 and "model: on node" in said and "no such model, or another one" in said
            for machine in others:
                shutil.copytree(place / "model", machine.folder / "model")
            for name in COMMANDS:
                asked = command(name, "far", "--engine", "ray")
                (said,) = said_by(done := first.python(*asked, **variables), seconds=500)
                assert not done.returncode, said
                one, two = (first.folder / NAMES[name].format(out) for out in ("plain", "far"))
                assert same(one, two), name
            for machine in others:
                assert sorted(path.name for path in machine.folder.iterdir()) == ["model", "ray"]


def test_vectors_in_parts_are_those_of_one_call(place, monkeypatch):
    """In the order of the texts, whatever their lengths and which part was done first."""
    monkeypatch.setattr(embed, "BATCH_TOKENS", 64)
    monkeypatch.setattr(vectors, "TOGETHER", 2)
    texts = [*(place / "prompts.txt").read_text().splitlines()[:40], "a", "the sky " * 20, "small"]
    embedder, asked = embed.Embedder.load(place / "model"), {"texts": "those"}
    rows, cut = embedder.rows(texts, "cut", None)
    with parts_for(place / "out.npy", asked, force=False) as parts:
        found = vectors.vectors_in_parts(backwards(embedder), rows, parts)
    assert np.array_equal(found, embedder.texts(texts).vectors) and not cut
    assert not np.array_equal(found[-1], found[-2]) and not parts_of(place / "out.npy").exists()
