"""Measuring before the first step leaves no trace: the training is the one that a settled plan would have made."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from _training import FIXED, losses, model_of, run, same, stream

from llmanac.core.errors import SpecError
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.train import TrainSpec
from llmanac.train.plan import plan

pytestmark = pytest.mark.usefixtures("one_thread")


class Critic(torch.nn.Module):
    """A further model with a running statistic and dropout."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.drop = torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.norm(self.linear(x))).sum(1)


class WithCritic(Autoregressive):
    """Trains a critic along with the model, keeps a running mean, draws from every generator there is."""

    trainable = ("critic",)

    def __init__(self):
        torch.manual_seed(0)
        super().__init__({"critic": Critic(), "reference": model_of(5)})
        self.mean = torch.zeros(2)
        self.generators = {"own": np.random.default_rng(1), "torch": torch.Generator().manual_seed(2)}

    def loss(self, model, batch):
        loss, units, _ = super().loss(model, batch)
        drawn = torch.rand(6, 4, generator=self.generators["torch"]) + self.generators["own"].random()
        drawn = drawn + random.random() + np.random.random()
        value = self.models["critic"](drawn).square().sum()
        self.mean.mul_(0.9).add_(0.1 * loss.detach())
        return loss + units * value, units, {"value": value * units, "mean": self.mean[0].clone() * units}

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"].clone()


OPEN = {"attention": "auto", "compile": "auto", "dtype": "float32"}


def test_planning_moves_nothing_of_an_objective(dataset, tmp_path):
    objective, model, source = WithCritic(), model_of(), stream(dataset)
    critic, reference = objective.models["critic"], objective.models["reference"]
    model.model.norm.eval()
    kept = torch.full_like(critic.linear.weight, 3.0)
    critic.linear.weight.grad = kept.clone()
    own = objective.generators["own"].bit_generator.state
    drawn = objective.generators["torch"].get_state()
    before = [copy.deepcopy(m) for m in (model, critic, reference)]
    random.seed(4)
    np.random.seed(4)
    torch.manual_seed(4)
    expected = random.random(), np.random.random(), torch.rand(2)
    random.seed(4)
    np.random.seed(4)
    torch.manual_seed(4)
    asked = TrainSpec(length=16, batch_tokens=64, steps=None, **OPEN)
    made = plan(model, source, objective, asked, budget=20.0, folder=tmp_path)
    assert made.step_seconds and "attention_seconds" in made.measured
    assert torch.equal(objective.mean, torch.zeros(2)), "objective state"
    assert objective.generators["own"].bit_generator.state == own
    assert torch.equal(objective.generators["torch"].get_state(), drawn)
    assert (random.random(), np.random.random()) == expected[:2] and torch.equal(torch.rand(2), expected[2])
    assert torch.equal(critic.linear.weight.grad, kept), "gradients"
    critic.linear.weight.grad = None
    for old, new in zip(before, (model, critic, reference), strict=True):
        assert all(p.grad is None for p in new.parameters())
        assert same(old, new) and all(torch.equal(a, b) for a, b in zip(old.buffers(), new.buffers(), strict=True))
        assert [m.training for m in old.modules()] == [m.training for m in new.modules()]


def test_step_one_is_the_same_after_measuring(dataset, tmp_path):
    """What was measured is forgotten: gradients left from it would reach the first update."""
    first, second = WithCritic(), WithCritic()
    run(dataset, tmp_path / "settled", objective=first, steps=4)
    run(dataset, tmp_path / "measured", objective=second, steps=4, compile="auto")
    assert losses(tmp_path / "settled") == losses(tmp_path / "measured")
    assert same(first.models["critic"], second.models["critic"]) and torch.equal(first.mean, second.mean)
    assert not same(first.models["critic"], WithCritic().models["critic"])


def test_what_was_moved_goes_back_also_after_an_error(dataset, tmp_path):
    objective, source = WithCritic(), stream(dataset)
    start = source.state()
    with pytest.raises(SpecError, match="budget: 0 s is too little"):
        plan(model_of(), source, objective, TrainSpec(steps=None, **FIXED), budget=0.0001, folder=tmp_path)

    class Breaks(WithCritic):
        def loss(self, model, batch):
            super().loss(model, batch)[0].backward()
            raise RuntimeError("broken")

    broken = Breaks()
    with pytest.raises(RuntimeError, match="broken"):
        plan(model_of(), source, broken, TrainSpec(**{**FIXED, "attention": "auto"}, steps=1), folder=tmp_path)
    for one in (objective, broken):
        assert torch.equal(one.mean, torch.zeros(2)) and source.state() == start
        assert all(p.grad is None for p in one.models["critic"].parameters())


class Expensive:
    """A source whose rows cost something, as rollouts do: planning must not draw one."""

    def __init__(self, dataset, samples=True):
        self.stream, self.drawn, self.samples = stream(dataset), 0, samples

    def __next__(self):
        self.drawn += 1
        return next(self.stream)

    def sample_rows(self):
        return [np.arange(17) % 61 for _ in range(4)] if self.samples else None

    def state(self):
        json, tensors = self.stream.state()
        return {"stream": json, "drawn": self.drawn}, tensors

    def restore(self, state, tensors):
        self.stream.restore(state["stream"], tensors)
        self.drawn = state["drawn"]


@pytest.mark.parametrize("samples", [True, False])
def test_rows_that_cost_nothing_are_measured_where_a_source_has_them(samples, dataset, tmp_path):
    drawn = []

    class Counting(Expensive):
        def __next__(self):
            drawn.append(self.drawn)
            return super().__next__()

    source = Counting(dataset, samples)
    made = plan(model_of(), source, Autoregressive(), TrainSpec(**{**FIXED, "compile": "auto"}, steps=3))
    assert made.step_seconds > 0 and source.drawn == 0
    assert bool(drawn) is not samples
