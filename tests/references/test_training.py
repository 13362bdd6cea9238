"""The training loop: what it computes beside a loop written out by hand, and what it does when things go wrong."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from _training import FIXED, VOCAB, losses, model_of, run, same, stream
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from llmanac.core import registry
from llmanac.core.errors import SpecError, TrainingError
from llmanac.core.types import IGNORE, Batch, Capabilities
from llmanac.data.pack import ListStream
from llmanac.objectives import BaseObjective
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.train import TrainSpec, loop
from llmanac.train import plan as planning
from llmanac.train.loop import train
from llmanac.train.metrics import read_metrics
from llmanac.train.plan import TrainingPlan, plan
from llmanac.train.step import Stepper

pytestmark = pytest.mark.usefixtures("one_thread")


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
        sums = stepper_of(model, tmp_path, micro).gradients(rows).fetch()
        total, units = sums.loss, sums.units
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


class Linear(BaseObjective):
    """Squares of a linear map, on tensors as they are; `as_tensors` says what units and metrics are."""

    def __init__(self, as_tensors=True):
        super().__init__()
        self.as_tensors = as_tensors

    def collate(self, rows):
        return Batch(embeddings=rows[0])

    def loss(self, model, batch):
        y = model(batch.embeddings)
        units, size = torch.tensor(y.numel()), y.detach().abs().sum()
        loss = y.square().sum()
        return (loss, units, {"size": size}) if self.as_tensors else (loss, int(units), {"size": float(size)})


def linear_stepper(tmp_path, objective, clip=1.0):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2).double()
    optimizer = registry.build("optimizer", "adamw", lr=1e-2, model=model)
    return Stepper(model, objective, optimizer, micro_batch=1, clip=clip, dtype=torch.float64, folder=tmp_path)


class Waits(TorchDispatchMode):
    """Counts how often the host asks for the value of a tensor."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_no_micro_batch_waits_for_the_device(tmp_path):
    rows = [torch.randn(2, 3, 3, dtype=torch.float64) for _ in range(5)]
    stepper, other = (linear_stepper(tmp_path, Linear(as_tensors)) for as_tensors in (True, False))
    with Waits() as waits:
        sums = stepper.gradients(rows)
    assert waits.count == 0 and len(sums.losses) == 5
    with Waits() as waits:
        other.gradients(rows)
    assert waits.count == 10  # the check can fail
    for one in (stepper, other):
        one.optimizer.zero_grad()
    assert stepper(rows, 1.0, 0) == other(rows, 1.0, 0)  # numbers and tensors mean the same
    assert same(stepper.model, other.model)


@pytest.mark.parametrize(("broken", "why"), [(float("nan"), "loss is nan"), (1e200, "norm is inf though the loss")])
def test_the_micro_batch_that_is_not_finite_is_named_and_saved(broken, why, tmp_path):
    rows = [torch.randn(1, 3, 3, dtype=torch.float64) for _ in range(5)]
    rows[2] = rows[2].abs() * broken
    objective = Linear()
    objective.loss = lambda model, batch: (model(batch.embeddings).sum() * batch.embeddings.max(), 3, {})
    stepper = linear_stepper(tmp_path, objective)
    with torch.no_grad():
        stepper.model.weight.mul_(0.0)  # finite values with a gradient of 1e200 squared
    before = copy.deepcopy(stepper.model)
    with pytest.raises(TrainingError, match=rf"step 7: the .*{why}.*\(micro-batch 3 of 5\)"):
        stepper(rows, 1.0, 7)
    saved = load_file(tmp_path / "stopped-at-00000007" / "batch.safetensors")
    torch.testing.assert_close(saved["embeddings"], rows[2], rtol=0, atol=0, equal_nan=True)
    report = json.loads((tmp_path / "stopped-at-00000007" / "report.json").read_text())
    assert (report["micro_batch"], report["micro_batches"]) == (3, 5)
    assert same(before, stepper.model) and all(p.grad is None for p in stepper.model.parameters())


def test_training_leaves_the_caller_s_random_numbers_alone(dataset, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    run(dataset, tmp_path, steps=2)
    assert torch.equal(torch.rand(4), expected)


def test_a_budget_is_planned_into_steps_once(dataset, tmp_path):
    result, _ = run(dataset, tmp_path, steps=None, budget=3.0, dtype="auto", attention="auto", compile="auto")
    made = TrainingPlan.read(tmp_path)
    assert result.spec == made.spec and result.steps == made.spec.steps > 1
    assert made.spec.dtype in ("float32", "bfloat16") and made.spec.attention == "blocks"
    assert made.step_seconds > 0 and made.gemm > 1e9 and result.mfu > 0
    again, _ = run(dataset, tmp_path, steps=None, budget=50.0, dtype="auto", attention="auto", compile="auto")
    assert again.plan == made and again.steps == result.steps  # resumed, not planned anew
    short, _ = run(dataset, tmp_path / "short", steps=None, budget=0.001)
    assert short.steps == 2 and short.checkpoint.is_dir()  # what can be done in no time at all
    with pytest.raises(SpecError, match=r"train\.steps: set it, or give a time budget"):
        run(dataset, tmp_path / "open", steps=None)


def test_planning_leaves_everything_as_it_was(dataset, tmp_path):
    model, source = model_of(), stream(dataset)
    next(source)
    before, state = copy.deepcopy(model), source.state()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    plan(model, source, Autoregressive(), TrainSpec(length=16, batch_tokens=64), budget=30.0)
    assert same(before, model) and source.state() == state and torch.equal(torch.rand(3), expected)
    assert all(p.grad is None for p in model.parameters())


def test_without_a_compiler_it_runs_uncompiled_and_says_so(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "has_compiler", lambda device: False)
    said = []
    result, _ = run(dataset, tmp_path, steps=2, compile="always", report=said.append)
    assert result.steps == 2 and "no C++ compiler was found, so this run is not compiled" in said[0]


def test_where_compiling_would_pay_off_the_missing_compiler_is_named_once(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "has_compiler", lambda device: False)
    said = []
    run(dataset, tmp_path / "short", steps=2, compile="auto", report=said.append)
    assert not said  # it would not have been compiled anyway
    monkeypatch.setattr(planning, "COMPILE_SECONDS", 0.0)
    result, _ = run(dataset, tmp_path / "long", steps=2, compile="auto", report=said.append)
    assert result.steps == 2 and result.spec.compile == "never"
    assert sum("no C++ compiler was found, so this run is not compiled" in text for text in said) == 1
    said.clear()
    monkeypatch.setattr(planning, "has_compiler", lambda device: True)
    model, source = model_of(), stream(dataset)
    asked = TrainSpec(**{**FIXED, "steps": 2, "compile": "auto"})
    assert plan(model, source, Autoregressive(), asked).spec.compile == "always"


def test_a_step_in_which_nothing_carries_loss_changes_nothing(tmp_path):
    source = ListStream([(np.arange(9), np.zeros(9, bool))], rows=2)
    model = model_of()
    train(model, source, Autoregressive(), TrainSpec(steps=2, **FIXED), tmp_path, seed=0)
    assert same(model, model_of()) and [line["units"] for line in read_metrics(tmp_path)] == [0, 0]


def test_bad_settings_name_their_field():
    for field, value in (("steps", 0), ("keep", 0), ("clip", -1.0), ("batch_tokens", 0)):
        with pytest.raises(SpecError, match=field):
            TrainSpec(**{"length": 256, field: value})
    with pytest.raises(SpecError, match=r"batch_tokens: 100 is less than one row of length 256"):
        _ = TrainSpec(length=256, batch_tokens=100).rows


@pytest.mark.slow
def test_compiled_training_loses_what_eager_training_loses(dataset, tmp_path):
    if not loop.has_compiler(torch.device("cpu")):
        pytest.skip("no C++ compiler on this machine")
    run(dataset, tmp_path / "eager", steps=6)
    said = []
    run(dataset, tmp_path / "compiled", steps=6, compile="always", report=said.append)
    assert not said
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), rel=1e-4)


@pytest.mark.parametrize(
    ("dtype", "work", "rows"),  # FLOPs of a token; rows of 256 tokens
    [("float32", 4e7, 4), ("float32", 3e5, 32), ("float32", 1e10, 4), ("bfloat16", 4e7, 32)],
)
def test_float32_computes_no_more_rows_at_a_time_than_its_products_need(dtype, work, rows):
    class Model:
        capabilities = Capabilities(counts_flops=True)

        def flops_per_token(self, length):
            return work

    spec = TrainSpec(steps=1, batch_tokens=1 << 14, length=256, dtype=dtype)
    tokens = planning.micro_tokens(Model(), spec, torch.device("cpu"))
    assert planning.default_micro_batch(64, 256, tokens) == rows
