"""Preference objectives and reward models on several ranks: as on one process; what is refused."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from test_parallel import ROWS, built, check, spec_of
from test_parallel_adapters import adapted

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.models.scalar import ScalarModel
from llmanac.objectives._base import AnswerRows
from llmanac.parallel import ParallelSpec
from llmanac.train.team import check as refuse
from llmanac.train.team import micro_batches

pytestmark = pytest.mark.usefixtures("one_thread")


def made(name, reference=None, **choices):
    spec = make_method("objective", {"name": name, **choices})
    models = None if reference is None else {"reference": reference(torch.float64)}
    return spec.build(reader=AnswerRows(None, spec.columns), models=models)


def another(dtype):
    """A reference with other weights than the model's."""
    model = built(dtype, layers=2)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.9)
    return model


def pairs(step):
    """Pairs of answers of other lengths after a prompt that they share."""
    random = np.random.default_rng(step)
    rows = []
    for _ in range(ROWS):
        prompt = random.integers(0, 64, random.integers(1, 5))
        answers = [random.integers(0, 64, size) for size in random.integers(1, 7, 2)]
        masks = [np.arange(len(prompt) + len(answer)) >= len(prompt) for answer in answers]
        rows.append(tuple((np.concatenate([prompt, a]), m) for a, m in zip(answers, masks, strict=True)))
    return rows


def scalar(dtype):
    """A reward model with an adapter on its trunk and its map trained."""
    model = ScalarModel(adapted(dtype, layers=2)).to(dtype)
    model.score.requires_grad_(True)
    return model


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2},
        pytest.param({"data": 2, "weights": "replicated"}, marks=pytest.mark.slow),
        {"tensor": 2},
        pytest.param({"data": 2, "tensor": 2}, marks=pytest.mark.slow),
    ],
)
def test_dpo_of_an_adapter_equals_one_process(mesh):
    """The reference is the same divided model, with the adapter disabled."""
    model = functools.partial(adapted, layers=2)
    check(mesh, model=model, rows=pairs, objective=functools.partial(made, "dpo"))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"data": 2}, {"tensor": 2, "activations": "replicated"}])
@pytest.mark.parametrize("name", ["ipo", "simpo", "orpo"])
def test_the_other_losses_of_pairs(mesh, name):
    check(mesh, model=functools.partial(adapted, layers=2), rows=pairs, objective=functools.partial(made, name))


@pytest.mark.slow
def test_all_weights_by_a_loss_without_reference():
    check({"data": 2}, rows=pairs, objective=functools.partial(made, "simpo"))


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2},
        pytest.param({"data": 2, "tensor": 2}, marks=pytest.mark.slow),
        pytest.param({"data": 2, "weights": "replicated"}, marks=pytest.mark.slow),
        pytest.param({"tensor": 2, "activations": "replicated"}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", ["dpo", pytest.param("ipo", marks=pytest.mark.slow)])
def test_all_weights_against_a_reference_that_is_divided_too(mesh, name):
    check(mesh, model=functools.partial(built, layers=2), rows=pairs, objective=lambda: made(name, another))


def labelled(step):
    """An answer a row, good or bad."""
    return [(one, bool(number % 3)) for number, (one, _) in enumerate(pairs(step))]


@pytest.mark.parametrize("mesh", [{"data": 2}, pytest.param({"data": 2, "tensor": 2}, marks=pytest.mark.slow)])
@pytest.mark.parametrize("adapter", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_kto_compares_with_answers_of_other_ranks(mesh, adapter):
    """One process computes all rows at once: the estimate of the divergence is over all of them."""
    model = functools.partial(adapted if adapter else built, layers=2)
    objective = functools.partial(made, "kto", None if adapter else another, beta=0.5)
    check(mesh, model=model, rows=labelled, objective=objective, micro=ROWS, micro_batch=ROWS)


@pytest.mark.parametrize("weights", ["sharded", pytest.param("replicated", marks=pytest.mark.slow)])
def test_a_reward_model_equals_one_process(weights):
    mesh = {"data": 2, "weights": weights}
    objective = functools.partial(made, "bradley-terry", margin="margin")
    check(mesh, model=scalar, rows=lambda step: [(*row, 0.3 * n) for n, row in enumerate(pairs(step))],
          objective=objective)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "mesh", "says"),
    [
        ("kto", {"data": 2}, "micro_batch: 2 cuts rows whose losses depend on each other"),
        ("dpo", {"pipeline": 2}, "the loss of DPO is of complete rows; use parallel.data and parallel.tensor"),
        ("dpo", {"context": 2}, "the loss of DPO is of complete rows"),
        ("bradley-terry", {"tensor": 2}, "ScalarModel is not divided; use parallel.data"),
    ],
)
def test_what_is_refused(name, mesh, says):
    model = scalar(torch.float64) if name == "bradley-terry" else adapted(torch.float64)
    parallel = ParallelSpec(**mesh)
    with pytest.raises(SpecError, match=says):
        refuse(model, made(name), micro_batches(spec_of(torch.float64), parallel), parallel)
