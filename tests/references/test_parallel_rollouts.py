"""A policy gradient on several ranks, each of which samples for its share of the prompts: as on one process."""

from __future__ import annotations

import json

import pytest
import torch
from _ranks import on_ranks
from safetensors.torch import load_file
from test_parallel import CPU, extended_to
from test_parallel_adapters import randomised
from test_rollouts import SETTINGS, objective, small, source

from llmanac.core.errors import SpecError
from llmanac.core.spec import make
from llmanac.models.scalar import ScalarModel
from llmanac.parallel import ParallelSpec
from llmanac.train import TrainSpec
from llmanac.train.loop import train
from llmanac.train.ranks import team
from llmanac.train.team import check, check_objective, follow

pytestmark = pytest.mark.usefixtures("one_thread")


def model(adapter):
    return randomised(small(torch.float64)) if adapter else small(torch.float64)


def trained(folder, mesh, *, adapter=False, steps=3, sampling=None, **choices):
    """The trained values and the log of what was sampled; how many prompts this process answered."""
    policy, made, answered = model(adapter), objective(**{"advantage": "grpo", **choices}), []
    lr = {"name": "sgd", "lr": 0.5, "momentum": 0.0}
    fields = {**SETTINGS, "dtype": "float64", "steps": steps, "micro_batch": 4, "length": 10}
    chosen = {"prompts": 4, "minibatches": 1, **(sampling or {})}
    fields["batch_tokens"] = 10 * 4 * chosen["prompts"] // chosen["minibatches"]
    spec = make(TrainSpec, {**fields, "optimizer": lr})
    with team(ParallelSpec(timeout=30, **mesh), CPU) as ranks:
        more = {} if ranks is None else {"sample": ranks.sample}
        found = source(policy, made, log=folder / "rollouts.jsonl", sampling=sampling, **more)
        run = found.engine.run
        found.engine.run = lambda requests, draws: answered.append(len(requests)) or run(requests, draws)
        train(policy, found, made, spec, folder, seed=0, report=lambda line: None, team=ranks)
    return answered


def last(folder):
    (*_, newest) = sorted((folder / "checkpoints").iterdir())
    losses = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in losses if "loss" in line]
    drawn = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    return load_file(newest / "model.safetensors"), losses, [(line["sample"], line["tokens"]) for line in drawn]


@pytest.mark.parametrize(
    ("mesh", "choices"),
    [
        ({"data": 2}, {}),
        pytest.param({"data": 2, "weights": "replicated"}, {"adapter": True}, marks=pytest.mark.slow),
        pytest.param({"data": 3}, {"sampling": {"prompts": 3}, "surrogate": "gspo"}, marks=pytest.mark.slow),
        pytest.param({"data": 2}, {"aggregation": "sequence", "sampling": {"minibatches": 2}}, marks=pytest.mark.slow),
    ],
)
def test_answers_losses_and_weights_equal_one_process(tmp_path, mesh, choices):
    trained(tmp_path / "one", {}, **choices)

    def rank_0():
        answered = trained(tmp_path / "several", mesh, **choices)
        prompts = choices.get("sampling", {}).get("prompts", 4)
        assert answered and set(answered) == {prompts // mesh["data"]}  # the others' are theirs

    on_ranks(mesh["data"], rank_0)
    (weights, losses, drawn), (found, again, sampled) = last(tmp_path / "one"), last(tmp_path / "several")
    assert sampled == drawn and len({sample["text"] for sample, _ in drawn}) > 1
    assert again == pytest.approx(losses, rel=1e-9, abs=1e-9) and len(losses) == 3
    assert all((found[name] - value).abs().max() < 1e-9 for name, value in weights.items())
    before = dict(
        (randomised(small(torch.float64)) if "adapter" in choices else small(torch.float64)).named_parameters()
    )
    assert any((value - before[name]).abs().max() > 1e-4 for name, value in weights.items())


@pytest.mark.slow
def test_a_training_that_goes_on_in_the_middle_of_a_draw_has_the_same_bits(tmp_path):
    sampling = {"minibatches": 2}

    def rank_0():
        trained(tmp_path / "one", {"data": 2}, steps=4, sampling=sampling)
        for steps in (3, 4):
            if steps == 4:
                extended_to(tmp_path / "two", 3, 4)
            trained(tmp_path / "two", {"data": 2}, steps=steps, sampling=sampling)

    def rank_1():
        for _ in range(3):
            follow()

    on_ranks(2, rank_0, others=rank_1)
    (expected, losses, drawn), (found, again, sampled) = last(tmp_path / "one"), last(tmp_path / "two")
    assert sampled == drawn and again == losses and len(losses) == 4
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_what_is_refused():
    made, spec = objective(), make(TrainSpec, {**SETTINGS, "steps": 1, "length": 10, "batch_tokens": 160})
    with pytest.raises(SpecError, match="PolicyGradient is of complete rows; use parallel"):
        check(small(), made, spec, ParallelSpec(tensor=2))
    with pytest.raises(SpecError, match="the value model of PolicyGradient learns too"):
        check_objective(objective(advantage="gae", models={"value": ScalarModel(small())}))
