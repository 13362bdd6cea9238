"""Preference objectives and reward models on several ranks: as on one process; what is refused."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from _ranks import on_ranks
from test_parallel import CPU, ROWS, built, check, spec_of
from test_parallel_adapters import adapted

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.models.scalar import ScalarModel
from llmanac.objectives._base import AnswerRows
from llmanac.parallel import ParallelSpec
from llmanac.train.ranks import team
from llmanac.train.team import check as refuse
from llmanac.train.team import micro_batches

pytestmark = pytest.mark.usefixtures("one_thread")


def made(name, **choices):
    spec = make_method("objective", {"name": name, **choices})
    return spec.build(reader=AnswerRows(None, spec.columns))


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


@pytest.mark.parametrize("weights", ["sharded", pytest.param("replicated", marks=pytest.mark.slow)])
def test_a_reward_model_equals_one_process(weights):
    mesh = {"data": 2, "weights": weights}
    check(mesh, model=scalar, rows=pairs, objective=functools.partial(made, "bradley-terry"))


@pytest.mark.parametrize(
    ("name", "mesh", "says"),
    [
        ("kto", {"data": 2}, "KTO is neither a next-token loss nor one of single rows"),
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


def test_a_reference_of_its_own_is_refused():
    spec = make_method("objective", {"name": "dpo"})
    objective = spec.build(reader=AnswerRows(None, spec.columns), models={"reference": built()})
    with pytest.raises(SpecError, match=r"the reference of DPO is a further model.*train an adapter"):
        refuse(built(), objective, spec_of(torch.float64), ParallelSpec(data=2))


def test_margins_of_pairs_are_refused():
    rows = [(*row, 0.5) for row in pairs(0)]

    def rank_0():
        with pytest.raises(SpecError, match="no RewardPairs"), team(ParallelSpec(data=2), CPU) as ranks:
            objective = made("bradley-terry", margin="margin")
            ranks.stepper(scalar(torch.float64), objective, spec_of(torch.float64), folder=None)(rows, 1.0, 0)

    on_ranks(2, rank_0)
