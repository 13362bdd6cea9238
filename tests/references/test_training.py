"""The training loop: what it computes beside a loop written out by hand, and what it does when things go wrong."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llmanac.core import registry, spec
from llmanac.core.errors import CheckpointError, LlmanacError, SpecError, TrainingError
from llmanac.core.types import IGNORE
from llmanac.data.pack import ListStream, PackedStream
from llmanac.data.tokens import TokenDataset
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.train import TrainSpec, checkpoint, loop
from llmanac.train._step import Stepper
from llmanac.train.loop import train
from llmanac.train.metrics import read_metrics
from llmanac.train.plan import Plan, plan

VOCAB = 61
FIXED = {"length": 16, "batch_tokens": 64, "dtype": "float32", "attention": "plain", "compile": "never"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small models gain nothing from two, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model_of(seed=0, dtype=torch.float32):
    model = registry.build("lm", "transformer", dim=32, layers=1, max_length=64, vocab_size=VOCAB)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2 + (1.0 if p.ndim == 1 else 0.0))
    return model.to(dtype)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    generator = np.random.default_rng(0)
    rows = [(np.arange(n) * int(k) % VOCAB, None) for n, k in generator.integers(2, 40, (80, 2))]
    return TokenDataset.write_examples(tmp_path_factory.mktemp("data") / "d", rows, vocab_size=VOCAB)


def stream(dataset):
    return PackedStream(dataset, length=16, rows=4, seed=0)


def run(dataset, folder, *, steps=12, objective=None, model=None, **options):
    settings = {k: options.pop(k) for k in list(options) if k in {f.name for f in dataclasses.fields(TrainSpec)}}
    model = model or model_of()
    options.setdefault("report", lambda text: None)
    spec_ = TrainSpec(**{"steps": steps, "checkpoint_every": 3, **FIXED, **settings})
    result = train(model, stream(dataset), objective or Autoregressive(), spec_, folder, seed=0, **options)
    return result, model


def losses(folder):
    return [line["loss"] for line in read_metrics(folder) if "loss" in line]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def stepper_of(model, tmp_path, micro, clip=0.0):
    optimizer = registry.build("optimizer", "adamw", lr=1e-2, decay="all", model=model)
    dtype = next(model.parameters()).dtype
    return Stepper(model, Autoregressive(), optimizer, micro_batch=micro, clip=clip, dtype=dtype, folder=tmp_path)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_the_gradient_of_8_rows_is_that_of_8_times_1(dtype, tolerance, tmp_path):
    """Ragged rows, so that a mean of means would be another gradient."""
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, VOCAB, n) for n in (3, 40, 7, 60, 2, 15, 33, 5)]
    found = {}
    for micro in (8, 3, 1):
        model = model_of(dtype=dtype)
        total, units, _, _ = stepper_of(model, tmp_path, micro).gradients(rows, 0)
        found[micro] = (float(total) / units, [p.grad / units for p in model.parameters()])
        assert units == sum(len(row) - 1 for row in rows)
    for micro in (3, 1):
        assert found[micro][0] == pytest.approx(found[8][0], rel=tolerance)
        for a, b in zip(found[8][1], found[micro][1], strict=True):
            assert (a - b).abs().max() <= tolerance * max(1.0, float(a.abs().max()))
    one = model_of(dtype=dtype)
    of_means = sum(one.nll(Autoregressive().collate([row])) / (len(row) - 1) for row in rows) / len(rows)
    assert abs(float(of_means) - found[8][0]) > 1e-2


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e9])
def test_equals_a_loop_written_out(clip, dataset, tmp_path):
    """Mean cross-entropy of full logits, torch's clipping and AdamW, in float64."""
    ours, theirs = model_of(dtype=torch.float64), model_of(dtype=torch.float64)
    stepper = stepper_of(ours, tmp_path, 3, clip)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    source, objective = stream(dataset), Autoregressive()
    for step in range(8):
        rows = next(source)
        result = stepper(rows, 1.0, step)
        batch = objective.collate(rows)
        logits = theirs(batch).logits.flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORE)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip or float("inf"))
        reference.step()
        reference.zero_grad()
        assert result.loss == pytest.approx(float(loss), rel=1e-9)
        assert result.grad_norm == pytest.approx(float(norm), rel=1e-9)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_rows_that_belong_together_are_not_cut(dataset, tmp_path):
    class Coupled(Autoregressive):
        couples_batch = True

    with pytest.raises(SpecError, match=r"micro_batch: 2 cuts 4 rows"):
        run(dataset, tmp_path, objective=Coupled(), micro_batch=2)
    assert run(dataset, tmp_path / "whole", objective=Coupled(), steps=1)[0].spec.micro_batch == 4


def test_a_loss_that_is_not_finite_stops_with_the_batch_saved(dataset, tmp_path):
    class Breaks(Autoregressive):
        def loss(self, model, batch):
            loss, units, metrics = super().loss(model, batch)
            self.calls = getattr(self, "calls", 0) + 1
            return loss * (float("nan") if self.calls == 11 else 1.0), units, metrics

    model = model_of()
    with pytest.raises(TrainingError, match=r"step 5: the loss is nan; the batch is in .*stopped-at-00000005"):
        run(dataset, tmp_path, objective=Breaks(), model=model, micro_batch=2)
    saved = load_file(tmp_path / "stopped-at-00000005" / "batch.safetensors")
    source = stream(dataset)
    rows = [next(source) for _ in range(6)][5][:2]
    assert torch.equal(saved["ids"], Autoregressive().collate(rows).ids)
    assert json.loads((tmp_path / "stopped-at-00000005" / "report.json").read_text())["step"] == 5
    assert all(p.isfinite().all() for p in model.parameters())


class Stops(Autoregressive):
    """Sends this process a Ctrl-C in the given step."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def loss(self, model, batch):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().loss(model, batch)


def test_ctrl_c_saves_and_says_how_to_go_on(dataset, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    whole, first = run(dataset, tmp_path / "whole")
    said = []
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "cut", objective=Stops(5), report=said.append)
    assert "step 5 of 12 is saved" in said[-1] and "run it again" in said[-1]
    result, second = run(dataset, tmp_path / "cut", report=said.append)
    assert "resuming" in said[-1] and result.steps == whole.steps == 12
    assert same(first, second) and losses(tmp_path / "whole") == losses(tmp_path / "cut")
    assert signal.getsignal(signal.SIGINT) is before


def evaluate(model):
    torch.rand(3)  # an evaluation may draw numbers as it likes
    evaluate.calls += 1
    return {"loss": abs(evaluate.calls - 2) + 1.0, "other": 3}


evaluate.calls = 0


def test_newest_and_best_are_kept_and_evaluation_disturbs_nothing(dataset, tmp_path):
    class Noisy(Autoregressive):
        def collate(self, rows):
            batch = super().collate(rows)
            batch.ids[torch.rand(batch.ids.shape) < 0.1] = 0
            return batch

    evaluate.calls = 0
    result, one = run(dataset, tmp_path / "a", objective=Noisy(), evaluate=evaluate, keep=2, steps=15)
    steps = sorted(p.name for p in (tmp_path / "a" / "checkpoints").iterdir())
    assert steps == ["step-00000006", "step-00000012", "step-00000015"]
    assert result.best == {"step": 6, "value": 1.0}
    _, other = run(dataset, tmp_path / "b", objective=Noisy(), steps=15)
    assert same(one, other)
    assert [line["evaluate_other"] for line in read_metrics(tmp_path / "a") if "evaluate_other" in line] == [3.0] * 5
    assert list((tmp_path / "a" / "tensorboard").iterdir())
    with pytest.raises(SpecError, match="watch: evaluate gave"):
        run(dataset, tmp_path / "c", evaluate=evaluate, watch="bits")


def test_training_leaves_the_caller_s_random_numbers_alone(dataset, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    run(dataset, tmp_path, steps=2)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_named_and_passed_over(file, damage, dataset, tmp_path):
    _, whole = run(dataset, tmp_path)
    target = tmp_path / "checkpoints" / "step-00000012" / file
    data = target.read_bytes()
    if damage == "gone":
        target.unlink()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
        target.write_bytes(data[:middle] if damage == "cut" else flipped)
    said = []
    result, again = run(dataset, tmp_path, report=said.append)
    assert said[0].startswith("warning:") and str(target) in said[0]
    assert "at step 9 of 12" in said[1]
    assert result.steps == 12 and same(whole, again)


def test_no_whole_checkpoint_is_an_error_not_a_fresh_start(dataset, tmp_path):
    run(dataset, tmp_path)
    for file in tmp_path.glob("checkpoints/*/state.json"):
        file.write_text("{")
    with pytest.raises(CheckpointError, match="none of 2 checkpoints is whole; start over with resume=False"):
        run(dataset, tmp_path)
    assert run(dataset, tmp_path, resume=False)[0].steps == 12


def test_a_full_disk_is_an_error_and_older_checkpoints_stay(dataset, tmp_path, monkeypatch):
    _, whole = run(dataset, tmp_path / "whole")
    real, calls = checkpoint.save_file, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 8:  # the third checkpoint's second file
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(LlmanacError, match=r"step-00000009: cannot write \(No space left on device\)"):
        run(dataset, tmp_path / "full")
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "full" / "checkpoints").iterdir()) == ["step-00000003", "step-00000006"]
    _, again = run(dataset, tmp_path / "full")
    assert same(whole, again)


FILE_LIMIT = """
import resource, sys
sys.path.insert(0, {tests!r})
import test_training as t
from pathlib import Path
from llmanac.core.errors import LlmanacError
from llmanac.data.tokens import TokenDataset
folder = Path(sys.argv[1])
dataset = TokenDataset(folder / "d")
t.run(dataset, folder / "run", steps=6, objective=t.Stops(99))
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
store = t.checkpoint.Checkpoints(folder / "run" / "checkpoints")
try:
    store.save(9, {{"model": t.checkpoint.model_tensors(t.model_of())}}, {{}})
except LlmanacError as error:
    print("refused:", error)
print(store.steps(), store.latest().step, [p.name for p in store.folder.iterdir() if p.name.startswith(".")])
"""


def test_a_file_size_limit_is_an_error_too(dataset, tmp_path):
    """The system itself refuses the write (EFBIG), inside the safetensors library."""
    rows = [(document, None) for document in dataset]
    TokenDataset.write_examples(tmp_path / "d", rows, vocab_size=VOCAB)
    script = FILE_LIMIT.format(tests=os.path.dirname(__file__))
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "refused:" in done.stdout and "step-00000009: cannot write" in done.stdout
    assert "[3, 6] 6 []" in done.stdout
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_another_run_s_folder_is_refused(dataset, tmp_path):
    run(dataset, tmp_path)
    with pytest.raises(SpecError, match=r"train\.optimizer\.lr: 0\.5 was asked for, but the run in .* uses 0\.001"):
        run(dataset, tmp_path, optimizer=spec.make_method("optimizer", {"name": "adamw", "lr": 0.5}))
    with pytest.raises(SpecError, match=r"train\.steps: 20 was asked for"):
        run(dataset, tmp_path, steps=20)
    with pytest.raises(SpecError, match="seed: 1 was asked for"):
        train(model_of(), stream(dataset), Autoregressive(), TrainSpec(steps=12, **FIXED), tmp_path, seed=1)


class WithModels(Autoregressive):
    """A frozen reference, a trained value model, a running number, and a generator of its own."""

    trainable = ("value",)

    def __init__(self, reference, value):
        super().__init__({"reference": reference, "value": value})
        self.mean = torch.zeros(())
        self.generators = {"own": np.random.default_rng(1)}

    def loss(self, model, batch):
        loss, units, _ = super().loss(model, batch)
        with torch.no_grad():
            base = self.models["reference"].nll(batch, "sum")
        value = (self.models["value"](torch.ones(1, 4)) - base / units + self.generators["own"].random()).square().sum()
        self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        return loss + units * value, units, {"value": float(value.detach()) * units}

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


def test_further_models_and_the_objective_s_state_resume(dataset, tmp_path):
    def parts(seed=7):
        torch.manual_seed(0)
        return model_of(seed), torch.nn.Linear(4, 1)

    whole = WithModels(*parts())
    start = copy.deepcopy(whole.models["value"])
    run(dataset, tmp_path / "whole", objective=whole)
    assert not same(start, whole.models["value"])
    assert same(model_of(7), whole.models["reference"])

    class Interrupted(WithModels):
        def loss(self, model, batch):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 8:
                raise RuntimeError("as if killed")
            return super().loss(model, batch)

    with pytest.raises(RuntimeError, match="as if killed"):
        run(dataset, tmp_path / "cut", objective=Interrupted(*parts()))
    again = WithModels(*parts())
    run(dataset, tmp_path / "cut", objective=again)
    assert same(whole.models["value"], again.models["value"]) and torch.equal(whole.mean, again.mean)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    with pytest.raises(CheckpointError, match=r"frozen models \['reference'\] are not those"):
        run(dataset, tmp_path / "cut", objective=WithModels(*parts(seed=8)))


def test_a_budget_is_planned_into_steps_once(dataset, tmp_path):
    result, _ = run(dataset, tmp_path, steps=None, budget=2.0, dtype="auto", attention="auto", compile="auto")
    made = Plan.read(tmp_path)
    assert result.spec == made.spec and result.steps == made.spec.steps > 1
    assert made.spec.dtype in ("float32", "bfloat16") and made.spec.attention in made.measured["attention_seconds"]
    assert made.step_seconds > 0 and made.gemm > 1e9 and result.mfu > 0
    again, _ = run(dataset, tmp_path, steps=None, budget=50.0, dtype="auto", attention="auto", compile="auto")
    assert again.plan == made and again.steps == result.steps  # resumed, not planned anew
    with pytest.raises(SpecError, match="budget: 0 s is too little"):
        run(dataset, tmp_path / "none", steps=None, budget=0.001)
    with pytest.raises(SpecError, match=r"train\.steps: set it, or give a time budget"):
        run(dataset, tmp_path / "open", steps=None)


def test_planning_leaves_everything_as_it_was(dataset, tmp_path):
    model, source = model_of(), stream(dataset)
    next(source)
    before, cursor = copy.deepcopy(model), source.cursor()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    plan(model, source, Autoregressive(), TrainSpec(length=16, batch_tokens=64), budget=30.0, folder=tmp_path)
    assert same(before, model) and source.cursor() == cursor and torch.equal(torch.rand(3), expected)
    assert all(p.grad is None for p in model.parameters())


def test_without_a_compiler_it_runs_uncompiled_and_says_so(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "has_compiler", lambda device: False)
    said = []
    result, _ = run(dataset, tmp_path, steps=2, compile="always", report=said.append)
    assert result.steps == 2 and "no C++ compiler was found, so this run is not compiled" in said[0]


def test_a_step_in_which_nothing_carries_loss_changes_nothing(tmp_path):
    source = ListStream([(np.arange(9), np.zeros(9, bool))], rows=2)
    model = model_of()
    train(model, source, Autoregressive(), TrainSpec(steps=2, **FIXED), tmp_path, seed=0)
    assert same(model, model_of()) and [line["units"] for line in read_metrics(tmp_path)] == [0, 0]


def test_bad_settings_name_their_field():
    for field, value in (("steps", 0), ("keep", 0), ("clip", -1.0), ("batch_tokens", 100)):
        with pytest.raises(SpecError, match=field):
            TrainSpec(**{"length": 256, field: value})


@pytest.mark.slow
def test_compiled_training_loses_what_eager_training_loses(dataset, tmp_path):
    if not loop.has_compiler(torch.device("cpu")):
        pytest.skip("no C++ compiler on this machine")
    run(dataset, tmp_path / "eager", steps=6)
    said = []
    run(dataset, tmp_path / "compiled", steps=6, compile="always", report=said.append)
    assert not said
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), rel=1e-4)
