"""Truncated backpropagation through time against a written-out loop over torch.nn.RNN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmanac.core import registry
from llmanac.core.spec import make_method
from llmanac.train.step import Stepper

STEPS, VOCAB, DIM = 5, 11, 8


def model(name="rnn", **fields):
    spec = make_method("lm", {"name": name, "dim": DIM, "layers": 1, "max_length": 64, **fields})
    made = spec.build(vocab_size=VOCAB).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.4)
    return made


def rows(*lengths):
    return [torch.randint(0, VOCAB, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in lengths]


def gradients(made, objective, given):
    loss, units, _ = objective.loss(made, objective.collate(given))
    found = torch.autograd.grad(loss, list(made.parameters()))
    return loss.detach(), units, found


class Plain(torch.nn.Module):
    """h_t = tanh(W x_t + U h_{t-1} + b) over random embeddings, and a head; nothing of ours."""

    def __init__(self):
        super().__init__()
        self.embed, self.rnn = torch.nn.Embedding(VOCAB, DIM), torch.nn.RNN(DIM, DIM, batch_first=True)
        self.head = torch.nn.Linear(DIM, VOCAB)


class AsModel(torch.nn.Module):
    """`Plain` as a language model with a state of one tensor."""

    def __init__(self, plain):
        super().__init__()
        self.plain = plain

    class State:
        by_length = None

        def __init__(self, h):
            self.h = h

        def select(self, rows):
            return type(self)(self.h[:, rows])

    def start(self, count):
        return self.State(torch.zeros(1, count, DIM, dtype=torch.float64))

    def forward(self, batch, state=None, want=None):
        from llmanac.core.types import ModelOutput

        out, state.h = self.plain.rnn(self.plain.embed(batch.ids), state.h)
        nll = torch.nn.functional.cross_entropy(
            self.plain.head(out).transpose(1, 2), batch.targets, ignore_index=-100, reduction="sum"
        )
        return ModelOutput(nll=nll)


@pytest.mark.parametrize("length", [STEPS, 17, 26])
def test_gradients_equal_a_loop_that_detaches(length):
    plain = Plain().double()
    ids = torch.tensor(rows(length + 1, length + 1))
    h, total = torch.zeros(1, 2, DIM, dtype=torch.float64), 0.0
    for at in range(0, length, STEPS):
        out, h = plain.rnn(plain.embed(ids[:, at : min(at + STEPS, length)]), h.detach())
        goals = ids[:, at + 1 : at + 1 + out.shape[1]]
        total = total + torch.nn.functional.cross_entropy(plain.head(out).transpose(1, 2), goals, reduction="sum")
    expected = torch.autograd.grad(total, list(plain.parameters()))
    objective = registry.build("objective", "truncated-bptt", steps=STEPS)
    loss, units, found = gradients(AsModel(plain), objective, ids.tolist())
    assert units == 2 * length
    torch.testing.assert_close(loss, total.detach())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "mamba", "s4", "transformer"])
def test_only_gradients_are_truncated(name):
    """The loss is the full row's; gradients are too where a chunk holds the row, and differ where it does not."""
    made, given = model(name), rows(18, 9, 13)
    full = gradients(made, registry.build("objective", "autoregressive"), given)
    short = gradients(made, registry.build("objective", "truncated-bptt", steps=STEPS), given)
    long = gradients(made, registry.build("objective", "truncated-bptt", steps=32), given)
    assert full[1] == short[1] == long[1]
    torch.testing.assert_close(short[0], full[0])
    torch.testing.assert_close(long[2], full[2])
    assert max(float((a - b).abs().max()) for a, b in zip(short[2], full[2], strict=True)) > 1e-4


@pytest.mark.parametrize("name", ["rnn", "transformer"])
def test_the_trainer_holds_one_chunk_at_a_time(name, tmp_path):
    """The same gradients as in one graph; what autograd keeps for the backward pass does not grow with the row."""
    made = model(name)
    optimizer = registry.build("optimizer", "adamw", model=made)
    objective = registry.build("objective", "truncated-bptt", steps=STEPS)

    def most(length):
        live = peak = 0

        def pack(t):
            nonlocal live, peak
            live += 1
            peak = max(peak, live)
            return Kept(t)

        class Kept:
            def __init__(self, t):
                self.t = t

            def __del__(self):
                nonlocal live
                live -= 1

        made.zero_grad()
        stepper = Stepper(
            made, objective, optimizer, micro_batch=8, clip=0.0, dtype=torch.float64, folder=Path(tmp_path)
        )
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.t):
            sums = stepper.gradients(rows(length + 1))
        assert sums.fetch().units == length
        return peak

    assert most(4 * STEPS) == most(8 * STEPS)
    stepped = [p.grad.clone() for p in made.parameters()]
    expected = gradients(made, objective, rows(8 * STEPS + 1))[2]
    torch.testing.assert_close(stepped, list(expected))
