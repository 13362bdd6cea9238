"""What every objective keeps to, whatever its name."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from _small_models import randomise

from llmanac.core import registry, spec
from llmanac.core.errors import CheckpointError
from llmanac.core.types import Batch, Objective
from llmanac.data.pack import PackedRow
from llmanac.data.tokens import TokenDataset
from llmanac.recipes.parts import TokenizedText
from llmanac.tokenizers.load import train_tokenizer

NAMES = list(registry.methods("objective"))
OF_TOKENS = [name for name in NAMES if registry.find("objective", name).card.get("rows", "tokens") == "tokens"]
VOCAB = 400


@pytest.fixture(scope="module")
def tokenizer():
    needed = [token for name in NAMES for token in spec.make_method("objective", {"name": name}).special_tokens]
    special = list(dict.fromkeys(["<|endoftext|>", *needed]))
    return train_tokenizer("bpe", ["some text to learn from " * 20], vocab_size=VOCAB, special_tokens=special)


READ_A_SOURCE = ("prefix-source", "span-corruption")


@pytest.fixture(scope="module")
def decoder():
    return weighted(registry.build("lm", "transformer", dim=32, layers=1, max_length=64, vocab_size=VOCAB))


@pytest.fixture(scope="module")
def encoder_decoder():
    return weighted(registry.build("lm", "encoder-decoder", dim=32, encoder_layers=1, layers=1, vocab_size=VOCAB))


@pytest.fixture
def model(request, decoder, encoder_decoder):
    """What the objective under test can train."""
    return encoder_decoder if request.node.callspec.params["name"] in READ_A_SOURCE else decoder


def weighted(built):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in built.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2 + (p.ndim == 1))
    return built


def made(name, tokenizer, model):
    """The objective; where it needs further models, frozen copies with other weights."""
    needs = registry.find("objective", name).card.get("models", [])
    if dict(registry.find("objective", name).defaults).get("advantage") == "gae":
        needs = ["value"]
    others = {role: randomise(copy.deepcopy(model), seed=5) for role in needs}
    return registry.build("objective", name, tokenizer=tokenizer, models=others or None)


def row(seed, length=33):
    """A packed row of two documents and some padding, half of whose tokens carry loss."""
    generator = np.random.default_rng(seed)
    segments = np.repeat([0, 1, -1], [14, 15, length - 29]).astype(np.int32)
    positions = np.concatenate([np.arange(14), np.arange(15), np.zeros(length - 29)]).astype(np.int32)
    ids = generator.integers(0, 256, length)
    return PackedRow(
        np.where(segments < 0, 0, ids), segments, positions, (generator.random(length) < 0.5) & (segments >= 0)
    )


@pytest.mark.parametrize("name", OF_TOKENS)
def test_sums_over_units(name, tokenizer, model):
    """The loss is a sum: of two rows together it is that of each, and so are the units, unless the rows are coupled."""
    objective = made(name, tokenizer, model)
    assert isinstance(objective, Objective)
    rows = [row(1), row(2)]
    batch = objective.collate(rows)
    assert isinstance(batch, Batch)
    loss, units, metrics = objective.loss(model, batch)
    assert loss.shape == () and loss.requires_grad and int(units) == batch.units > 0
    for value in [units, *metrics.values()]:  # numbers, or tensors () that carry no gradient
        assert isinstance(value, (int, float)) or (value.shape == () and not value.requires_grad)
    if not objective.couples_batch:
        parts = [objective.loss(model, objective.collate([r])) for r in rows]
        torch.testing.assert_close(loss, sum(part[0] for part in parts))
        assert units == sum(part[1] for part in parts)


@pytest.mark.parametrize("name", OF_TOKENS)
def test_what_carries_no_loss_has_no_effect_on_it_from_behind(name, tokenizer, model):
    """Tokens after the last target, and padding, change nothing."""
    objective = made(name, tokenizer, model)
    one, other = row(3), row(3)
    other.ids[-4:] = 7
    a, b = (objective.loss(model, objective.collate([r]))[0] for r in (one, other))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_its_state_goes_through_tensors(name, tokenizer, model):
    objective, other = (made(name, tokenizer, model) for _ in range(2))
    state = objective.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other.load_state_dict(state)
    with pytest.raises(CheckpointError):
        other.load_state_dict({"nothing of the kind": torch.zeros(1)})


@pytest.mark.parametrize("name", OF_TOKENS)
def test_a_comparison_can_train_and_measure_with_it(name, tokenizer, model, tmp_path):
    """Its rows come from prepared text, and its metrics have a value for each held-out item and for all together."""
    objective = made(name, tokenizer, model)
    documents = ["some text to learn from", "from text " * 30, "learn"]
    text = TokenizedText(tokenizer, TokenDataset.write(tmp_path / "tokens", documents, tokenizer))
    batch = objective.collate(next(objective.source(text, length=16, rows=2, seed=0)))
    assert objective.loss(model, batch)[1] > 0
    held_out = objective.held_out(text, documents, length=16)
    found = objective.evaluate(model, held_out)
    assert list(found) == [metric.name for metric in objective.metrics]
    for metric in objective.metrics:
        items = found[metric.name]
        assert metric.better in ("lower", "higher") and len(items) >= len(documents)
        assert np.isfinite(items.values).all() and min(items.values) <= items.mean <= max(items.values)
        assert metric is not objective.metrics[0] or min(items.values) < max(items.values)
    again = objective.evaluate(model, held_out)
    assert again == found and not any(p.grad is not None for p in model.parameters())
