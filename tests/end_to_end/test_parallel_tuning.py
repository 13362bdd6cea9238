"""`llmanac tune` on several ranks: one adapter folder, as one process writes it; a killed rank; another mesh."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from _ranks import on_ranks
from safetensors.torch import load_file

from llmanac.core.spec import make, make_method
from llmanac.recipes.align import AlignSpec
from llmanac.recipes.tune import TuneSpec, Tuning, tune
from llmanac.tokenizers.load import train_tokenizer
from llmanac.train import team  # noqa: F401 - before ranks are forked
from llmanac.train.metrics import read_metrics

TRAIN = {"dtype": "float32", "compile": "never", "attention": "sdpa", "batch_tokens": 256, "checkpoint_every": 2}
ADAPTER = {"name": "lora", "rank": 3}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with rows whose answers differ in length, and a model."""
    folder = tmp_path_factory.mktemp("tuned")
    rows = [{"prompt": f"Count to {n}.", "completion": " ".join(map(str, range(n)))} for n in range(1, 41)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = train_tokenizer("bpe", [str(rows)], vocab_size=280, special_tokens=["<|endoftext|>"])
    fields = {"name": "transformer", "dim": 16, "layers": 2, "max_length": 160}
    model = make_method("lm", fields).build(vocab_size=tokenizer.vocab_size)
    model.save_pretrained(folder / "model")
    tokenizer.save(folder / "model")
    return folder


def asked(place, steps=3, **fields):
    rows = {"file": str(place / "rows.jsonl"), "held_out": 0.1, "length": 128}
    given = {"model": str(place / "model"), "rows": rows, "adapter": ADAPTER, "train": {**TRAIN, "steps": steps}}
    return make(TuneSpec, {**given, **fields})


def adapter_of(folder):
    return load_file(folder / "model" / "adapter_model.safetensors")


def assert_equal(found, expected, within=1e-5):
    assert found.keys() == expected.keys() and len(found) == 28
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=0, atol=within), name


@pytest.mark.slow
def test_two_ranks_write_the_adapter_of_one_process(place, tmp_path):
    one = tune(asked(place), tmp_path / "one", device="cpu", report=lambda line: None)

    def rank_0():
        two = tune(asked(place, parallel={"data": 2}), tmp_path / "two", device="cpu", report=lambda line: None)
        assert two.after.mean == pytest.approx(one.after.mean, rel=1e-5) and two.after.mean < two.before.mean

    on_ranks(2, rank_0)
    assert_equal(adapter_of(tmp_path / "two"), adapter_of(tmp_path / "one"))
    losses = [[line["loss"] for line in read_metrics(tmp_path / name / "training")] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and len(losses[0]) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "mesh", "fields"),
    [
        ("dpo", {"tensor": 2}, {}),
        ("dpo", {"data": 2}, {"adapter": None}),
        ("kto", {"data": 2}, {"quantizer": "nf4"}),
        ("bradley-terry", {"data": 2}, {}),
        ("grpo", {"data": 2}, {"sampling": {"prompts": 4, "samples": 4, "tokens": 5}}),
    ],
)
def test_two_ranks_align_as_one_process(place, tmp_path, objective, mesh, fields):
    """An adapter or all weights by pairs, an adapter of packed weights, a reward model, and sampled answers."""
    sides = [{"chosen": f" {n}" * (n % 3 + 1), "rejected": " no"} for n in range(40)]
    pairs = [{"prompt": f"Say {n}.", **side} for n, side in enumerate(sides)]
    if objective == "kto":
        sides = ("chosen", "rejected")
        pairs = [{"prompt": p["prompt"], "completion": p[s], "label": s == "chosen"} for p in pairs for s in sides]
    (place / "few.py").write_text("def few(text, row):\n    return text.count('e') - len(text) / 8\n")
    if objective == "grpo":
        fields = {**fields, "reward": {"name": "function", "file": f"{place / 'few.py'}:few"}}
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))

    def aligned(name, **more):
        rows = {"file": str(place / "pairs.jsonl"), "held_out": 0.2, "length": 128}
        given = {"model": str(place / "model"), "rows": rows, "adapter": ADAPTER, "objective": objective}
        made = make(AlignSpec, {**given, **fields, **more, "train": {**TRAIN, "batch_tokens": 1024, "steps": 3}})
        return tune(made, tmp_path / name, device="cpu", report=lambda line: None)

    one = aligned("one")

    def rank_0():
        assert aligned("two", parallel=mesh).after.mean == pytest.approx(one.after.mean, rel=1e-5)

    on_ranks(2, rank_0)
    for file in (tmp_path / "one" / "model").glob("*.safetensors"):
        found, expected = load_file(tmp_path / "two" / "model" / file.name), load_file(file)
        apart = {name: float((found[name] - value).abs().max()) for name, value in expected.items()}
        assert max(apart.values()) < 1e-5, apart
    losses = [[line["loss"] for line in read_metrics(tmp_path / name / "training")] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5, abs=1e-6) and len(set(losses[0])) == 3


def test_a_batch_that_is_left_open_has_equally_many_rows_for_each_rank(place, tmp_path):
    for mesh, each in (({}, 1), ({"data": 3}, 3), ({"data": 2, "pipeline": 2, "schedule": "interleaved"}, 8)):
        left_open = {name: value for name, value in TRAIN.items() if name != "batch_tokens"}
        tuning = Tuning(asked(place, train=left_open, parallel=mesh), tmp_path / str(each), "cpu", print)
        settled = tuning._settled(tuning.read(), None)
        assert settled.rows % each == 0 and settled.rows < 2 * each + 2


def command(place, folder, *options):
    patches = [f"-strain.{name}={value}" for name, value in TRAIN.items()]
    given = ["--length", "128", "--held-out", "0", "-sadapter.rank=3", "-strain.steps=60", *patches, *options]
    rows, program = str(place / "rows.jsonl"), [sys.executable, "-m", "llmanac", "tune"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*program, str(place / "model"), rows, "-o", str(folder), *given], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def children_of(process):
    with open(f"/proc/{process}/task/{process}/children") as file:
        return [int(one) for one in file.read().split()]


def followers(process):
    """The further ranks among the children of a command."""
    found = []
    for child in children_of(process):
        with open(f"/proc/{child}/cmdline", "rb") as file:
            found += [child] if b"llmanac.train.team" in file.read() else []
    return found


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_tuning_whose_rank_is_killed_goes_on_on_another_mesh(place, tmp_path):
    """Exit status 2 and a sentence that names the rank; no process is left; the adapter is that of one process."""
    started = command(place, tmp_path / "many", "--processes", "2")
    checkpoints = tmp_path / "many" / "training" / "checkpoints"
    stop = time.monotonic() + 120
    while not list(checkpoints.glob("step-*")) and time.monotonic() < stop:
        time.sleep(0.01)
    (follower,) = followers(started.pid)
    os.kill(follower, signal.SIGSTOP)  # rank 0 waits for it, for two minutes at most
    second = command(place, tmp_path / "many", "--processes", "2", "--resume")
    refused, _ = second.communicate(timeout=100)
    assert second.returncode == 2 and "another process is running in this folder" in refused, refused
    os.kill(follower, signal.SIGKILL)
    said, _ = started.communicate(timeout=120)
    assert started.returncode == 2 and "parallel: rank 1 stopped or hangs in step" in said, said
    for options in (("--processes", "2", "-sparallel.tensor=2"), ()):
        done = command(place, tmp_path / ("many" if options else "one"), *options, *(["--resume"] if options else []))
        said, _ = done.communicate(timeout=200)
        assert done.returncode == 0, said
        assert ("resuming" in said) == bool(options)
    assert_equal(adapter_of(tmp_path / "many"), adapter_of(tmp_path / "one"), 1e-4)
    assert [line["step"] for line in read_metrics(tmp_path / "many" / "training") if "loss" in line][-1] == 60
