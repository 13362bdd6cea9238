"""Measuring before the first step leaves no trace: the training is the one that a settled plan would have made."""

from __future__ import annotations

import copy
import random
import time

import numpy as np
import pytest
import torch
from _training import FIXED, losses, model_of, run, same, stream

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
    made = plan(model, source, objective, asked, budget=20.0)
    assert made.open and made.measured["estimated_steps"] == made.spec.steps
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
@pytest.mark.parametrize("budget", [None, 20.0])
def test_planning_computes_no_step_and_keeps_no_row(samples, budget, dataset):
    """Rows are counted, on those that cost nothing where a source has them."""
    drawn = []

    class Counting(Expensive):
        def __next__(self):
            drawn.append(self.drawn)
            return super().__next__()

    class Never(Autoregressive):
        def loss(self, model, batch):
            raise AssertionError("a step was computed")

    source = Counting(dataset, samples)
    steps = 3 if budget is None else None
    asked = TrainSpec(**{**FIXED, "compile": "auto", "attention": "auto", "micro_batch": None, "steps": steps})
    made = plan(model_of(), source, Never(), asked, budget=budget)
    assert made.spec.micro_batch == 4 and made.step_seconds is None and source.drawn == 0
    assert bool(drawn) is not samples


@pytest.mark.parametrize("attention", ["sdpa", "plain"])
def test_a_slow_model_is_timed_by_its_own_first_steps(attention, dataset, tmp_path):
    """Every step that is computed is a step of the training, and the first of them replace the estimate."""

    class Slow(Autoregressive):
        computed = 0

        def loss(self, model, batch):
            time.sleep(0.05)
            self.computed += 1
            return super().loss(model, batch)

    objective, said = Slow(), []
    settings = {"attention": attention, "micro_batch": 4, "checkpoint_every": None}
    result, _ = run(dataset, tmp_path, objective=objective, steps=None, budget=2.0, report=said.append, **settings)
    assert objective.computed == result.steps == result.plan.spec.steps < result.plan.measured["estimated_steps"]
    assert result.plan.revisions[0].step <= 6 and result.plan.step_seconds >= 0.05
    assert "steps fit into 2 s" in said[0]
    assert {int(place.name.split("-")[1]) for place in (tmp_path / "checkpoints").iterdir()} <= {
        *range(0, result.steps, result.plan.checkpoint_every), result.steps,
    }  # fmt: skip
