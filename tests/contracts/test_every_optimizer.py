"""What every optimizer keeps to, whatever its name."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from llmanac.core import registry, spec
from llmanac.core.errors import CheckpointError, SpecError

NAMES = list(registry.methods("optimizer"))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small models gain nothing from two, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Small(nn.Module):
    """An embedding, two matrices, a vector."""

    vocab_size = 17

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(17, 8)
        self.first, self.second = nn.Linear(8, 24), nn.Linear(24, 17, bias=False)

    def forward(self, ids):
        return self.second(torch.tanh(self.first(self.table(ids))))


IDS = torch.arange(64) % 17


def lose(model):
    return nn.functional.cross_entropy(model(IDS), (IDS * 5 + 3) % 17)


def build(name, model, **choices):
    made = spec.make_method("optimizer", {"name": name, **choices})
    return made.settle(torch.device("cpu")).build(model=model)


@pytest.mark.parametrize("name", NAMES)
def test_learns_and_moves_every_parameter(name):
    model = Small()
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer, first = build(name, model, lr={"sgd": 0.5, "lion": 0.01}.get(name, 0.03)), float(lose(model))
    for _ in range(60):
        lose(model).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(lose(model)) < 0.3 * first
    assert all(not torch.equal(start[n], p) for n, p in model.named_parameters())


@pytest.mark.parametrize("name", NAMES)
def test_state_through_json_and_tensors_goes_on_bit_for_bit(name):
    def step(model, optimizer):
        lose(model).backward()
        optimizer.step(0.7, 0.5)
        optimizer.zero_grad()

    one, other = Small(), Small()
    a, b = build(name, one), build(name, other)
    for _ in range(5):
        step(one, a)
    tensors, steps = a.state_dict()
    assert all(isinstance(t, torch.Tensor) for t in tensors.values())
    other.load_state_dict(one.state_dict())
    b.load_state_dict({k: v.clone() for k, v in tensors.items()}, json.loads(json.dumps(steps)))
    assert a.nbytes() == b.nbytes() > 0
    for _ in range(5):
        step(one, a)
        step(other, b)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_rate_zero_changes_no_weight(name):
    """What the calibration of a plan relies on."""
    model = Small()
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = build(name, model, weight_decay=0.5)
    lose(model).backward()
    optimizer.step(0.0)
    assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_scale_is_the_gradient_scaled(name):
    one, other = Small(), Small()
    a, b = build(name, one), build(name, other)
    for _ in range(3):
        (lose(one) * 8).backward()
        lose(other).backward()
        a.step(scale=0.125)
        b.step()
        a.zero_grad()
        b.zero_grad()
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_without_gradient_stays(name):
    model = Small()
    optimizer = build(name, model)
    lose(model).backward()
    model.first.weight.grad = None
    before = model.first.weight.detach().clone()
    optimizer.step()
    assert torch.equal(before, model.first.weight)
    assert "first.weight" not in optimizer.steps


@pytest.mark.parametrize("name", NAMES)
def test_refuses_a_state_that_does_not_fit(name):
    optimizer = build(name, Small())
    with pytest.raises(CheckpointError, match="belongs to no parameter"):
        optimizer.load_state_dict({"mean.nothing": torch.zeros(2)}, {})
    with pytest.raises(CheckpointError, match="is \\(2,\\), the parameter \\(17, 8\\)"):
        optimizer.load_state_dict({"mean.table.weight": torch.zeros(2)}, {})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["lr", "eps"])
def test_refuses_what_is_not_positive(name, field):
    made = spec.make_method("optimizer", {"name": name})
    if not hasattr(made, field):
        pytest.skip(f"{name} has no {field}")
    with pytest.raises(SpecError, match=f"{field}: 0.0 must be above 0"):
        spec.make_method("optimizer", {"name": name, field: 0.0})


@pytest.mark.parametrize("name", NAMES)
def test_refuses_a_model_with_nothing_to_train(name):
    with pytest.raises(SpecError, match="no trainable parameter"):
        build(name, Small().requires_grad_(False))


@pytest.mark.parametrize("name", NAMES)
def test_models_trained_together_keep_their_roles(name):
    """A further model beside it changes nothing for a model: each is asked for the roles of its own parameters."""

    class Asked(Small):
        def parameter_role(self, name):
            return "vector" if name.startswith("first") else None

    alone, both = Asked(), nn.ModuleDict({"model": Asked(), "value": Small()})
    both["value"].table = both["model"].table  # shared: it counts once
    groups = [build(name, m, weight_decay=0.1).groups for m in (alone, both)]
    rules = [{n: (g.rule, g.lr, g.weight_decay) for g in made for n in g.names} for made in groups]
    assert {n.removeprefix("model."): r for n, r in rules[1].items() if n.startswith("model.")} == rules[0]
    assert rules[1]["value.first.weight"] != rules[1]["model.first.weight"] and "value.table.weight" not in rules[1]
