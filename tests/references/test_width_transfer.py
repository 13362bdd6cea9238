"""Rates and logits by width (`base_dim`): Yang et al. 2022, table 8; flat activations; the best rate stays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.core.registry import build
from llmanac.core.spec import make_method
from llmanac.core.types import Batch, OutputRequest

BASE, VOCABULARY = 32, 32


def recipe(dim: int, lr: float, transfer: bool) -> tuple[Any, Any]:
    """A model of this width and its optimizer; heads keep their size."""
    blocks = [{"name": "pre-norm", "mixer": {"name": "multi-head", "heads": dim // 16}}]
    head = {"name": "linear", "base_dim": BASE if transfer else None}
    given = {"name": "transformer", "dim": dim, "layers": 2, "max_length": 32, "blocks": blocks, "head": head}
    model = make_method("lm", given).build(vocab_size=VOCABULARY)
    return model, build("optimizer", "adamw", model=model, lr=lr, weight_decay=0.0, base_dim=head["base_dim"])


def rows(seed: int) -> Iterator[Tensor]:
    """Texts of a random first-order source, (8, 33) a step."""
    table = torch.softmax(3 * torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(1)), -1)
    generator = torch.Generator().manual_seed(seed)
    while True:
        text = [torch.randint(VOCABULARY, (8,), generator=generator)]
        for _ in range(32):
            text.append(torch.multinomial(table[text[-1]], 1, generator=generator)[:, 0])
        yield torch.stack(text, 1)


def trained(dim: int, lr: float, transfer: bool, steps: int) -> tuple[float, float]:
    """The mean loss of the last ten steps, and the size of the logits on other texts."""
    model, optimizer = recipe(dim, lr, transfer)
    losses, source = [], rows(0)
    for _ in range(steps):
        ids = next(source)
        loss = model.nll(Batch(ids=ids[:, :-1], targets=ids[:, 1:])) / ids[:, 1:].numel()
        loss.backward()
        optimizer.step(1.0)
        for parameter in model.parameters():
            parameter.grad = None
        losses.append(loss.item())
    with torch.no_grad():
        logits = model(Batch(ids=next(rows(9))[:, :-1]), want=OutputRequest(logits="all")).logits
    return sum(losses[-10:]) / len(losses[-10:]), float(logits.square().mean().sqrt())


def test_rates_are_those_of_the_table_and_the_base_width_is_unchanged():
    model, optimizer = recipe(4 * BASE, 0.01, True)
    rates = {name: group.lr for group in optimizer.groups for name in group.names}
    for name, parameter in model.named_parameters():
        if name == "model.embed_tokens.weight" or parameter.ndim == 1:
            assert rates[name] == 0.01  # input weights and vectors: constant
        else:
            assert rates[name] == pytest.approx(0.01 * BASE / parameter.shape[1])  # hidden weights: 1 / inputs
    assert model.lm_head.scale == BASE / model.spec.dim  # the output: 1 / width
    for name in ("lion", "adamw-8bit"):  # their steps do not grow with the gradient either: the same rule
        others = build("optimizer", name, model=model, lr=0.01, base_dim=BASE).groups
        assert {n: group.lr for group in others for n in group.names} == rates
        with pytest.raises(SpecError, match="base_dim"):
            make_method("optimizer", {"name": name, "base_dim": 0})
    plain, carried = (recipe(BASE, 0.01, transfer) for transfer in (False, True))
    ids = next(rows(3))[:, :-1]
    assert torch.equal(plain[0](ids).logits, carried[0](ids).logits)
    with pytest.raises(SpecError, match="base_dim"):
        make_method("optimizer", {"name": "adamw", "base_dim": 0})
    with pytest.raises(SpecError, match="base_dim"):
        make_method("head", {"name": "linear", "base_dim": 0})


def test_activations_stay_the_same_size_over_widths():
    widths = (32, 64, 128)

    def growth(transfer: bool) -> float:
        sizes = [trained(dim, 0.01, transfer, 4)[1] for dim in widths]
        return math.log(sizes[-1] / sizes[0]) / math.log(widths[-1] / widths[0])

    assert abs(growth(True)) < 0.15
    assert growth(False) > 0.4  # without it logits grow


@pytest.mark.slow
def test_the_best_rate_stays_at_four_times_the_width():
    exponents = range(-10, -3)

    def best(dim: int, transfer: bool) -> int:
        return min(exponents, key=lambda k: trained(dim, 2.0**k, transfer, 60)[0])

    assert abs(best(4 * BASE, True) - best(BASE, True)) <= 1
    assert best(4 * BASE, False) < best(BASE, False) - 1  # without it the best rate falls with the width
