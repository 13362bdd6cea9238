"""Training on several ranks equals training on one process: losses, gradients, weights, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from _ranks import on_ranks
from _small_models import VOCABULARY, block, randomise

from llmanac.core.spec import make, make_method
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.parallel import ParallelSpec
from llmanac.train import TrainSpec
from llmanac.train._step import Stepper
from llmanac.train.team import micro_batches, team

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
LENGTH, ROWS, STEPS = 12, 8, 3
LLAMA = {"mixer": {"name": "softmax", "heads": 4, "kv_heads": 2, "head_dim": 8}, "ffn": {"name": "gated", "width": 32}}


def built(dtype=torch.float64, vocab_size=64, layers=4, **choices):
    fields = {"name": "transformer", "dim": 16, "layers": layers, "max_length": 32, "tied": True}
    fields["blocks"] = [{"name": "pre-norm", **LLAMA}]
    model = make_method("lm", {**fields, **choices}).build(vocab_size=vocab_size)
    return randomise(model).to(dtype)


def rows_of(step, below=64):
    """Rows of one step, ragged, so that ranks have different numbers of units."""
    random = np.random.default_rng(step)
    return [random.integers(0, below, size).tolist() for size in random.integers(4, LENGTH + 2, ROWS)]


def spec_of(dtype, optimizer="sgd", **choices):
    name = str(dtype).removeprefix("torch.")
    fields = {"steps": STEPS, "batch_tokens": ROWS * LENGTH, "length": LENGTH, "micro_batch": 2, "clip": 0.9}
    made = {"name": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0} if optimizer == "sgd" else optimizer
    return make(TrainSpec, {**fields, "dtype": name, "attention": "sdpa", "optimizer": made, **choices}, "train")


def alone(model, spec):
    """Losses and norms of the steps on one process; the model is trained in place."""
    optimizer = spec.optimizer.build(model=model)
    stepper = Stepper(
        model, Autoregressive(), optimizer, micro_batch=spec.micro_batch, clip=spec.clip, dtype=model.dtype, folder=None
    )
    return [stepper(rows_of(step), 1.0, step) for step in range(STEPS)]


def check(parallel, *, dtype=torch.float64, within=1e-9, optimizer="sgd", model=built, **choices):
    """The same steps on the ranks of `parallel`: each loss and norm, and the weights after the last step."""
    parallel = ParallelSpec(timeout=30, **parallel)
    one, several, before = model(dtype), model(dtype), model(dtype)
    spec = spec_of(dtype, optimizer, **choices)
    expected = alone(one, spec if parallel.pipeline == 1 else micro_batches(spec, parallel))

    def rank_0():
        with team(parallel, CPU) as made:
            stepper = made.stepper(several, Autoregressive(), spec, folder=None)
            found = [stepper(rows_of(step), 1.0, step) for step in range(STEPS)]
            stepper.collect()
        for a, b in zip(found, expected, strict=True):
            assert (a.units, a.tokens >= b.units) == (b.units, True)
            assert a.loss == pytest.approx(b.loss, rel=within)
            assert a.grad_norm == pytest.approx(b.grad_norm, rel=within)
        for (name, p), q, start in zip(several.named_parameters(), one.parameters(), before.parameters(), strict=True):
            moved = (q - start).abs().max()
            assert moved > 0, name
            assert (p - q).abs().max() <= within * max(1.0, float(moved)), (name, float((p - q).abs().max()))

    on_ranks(parallel.ranks, rank_0)


@pytest.mark.parametrize("weights", ["sharded", "replicated"])
def test_data_parallel_equals_one_process(weights):
    check({"data": 2, "weights": weights})


@pytest.mark.parametrize("activations", ["split", "replicated"])
def test_tensor_parallel_equals_one_process(activations):
    check({"tensor": 2, "activations": activations})


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "zero-bubble"])
def test_pipeline_equals_one_process(schedule):
    check({"pipeline": 2, "schedule": schedule})


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "zero-bubble"])
def test_three_axes_equal_one_process(schedule):
    check({"data": 2, "tensor": 2, "pipeline": 2, "schedule": schedule})
    check({"data": 2, "tensor": 2, "pipeline": 2, "schedule": schedule}, dtype=torch.float32, within=1e-5)
