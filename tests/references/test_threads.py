"""Rows divided among threads: the gradients are those of one thread, and equal runs are equal bit for bit."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from _training import VOCAB, model_of, run, same

from llmanac.core import registry, spec
from llmanac.core.errors import TrainingError
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.train import plan as division
from llmanac.train.plan import divides
from llmanac.train.step import Stepper


@pytest.fixture(params=[2, 3])
def threads(request, monkeypatch):
    """Steps of any size are divided, among 2 and 3 threads."""
    monkeypatch.setattr(division, "LEAST_WORK", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def rows(lengths=(3, 40, 7, 60, 2, 15, 33, 5)):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, VOCAB, (n,), generator=generator).numpy() for n in lengths]


def stepper(model, tmp_path, micro, threads, objective=None):
    optimizer = registry.build("optimizer", "adamw", lr=1e-2, model=model)
    dtype = next(model.parameters()).dtype
    given = {"micro_batch": micro, "clip": 0.0, "dtype": dtype, "folder": tmp_path, "threads": threads}
    return Stepper(model, objective or Autoregressive(), optimizer, **given)


class StopsWhenCollating(Autoregressive):
    """Sends this process a Ctrl-C; its loss is the model's own, so that its rows are divided too."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def collate(self, rows):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().collate(rows)


@pytest.mark.parametrize("micro", [8, 3, 1])
@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_gradients_and_sums_are_those_of_one_thread(norm, micro, threads, tmp_path):
    """Ragged rows in float64, in micro-batches that the threads do not divide evenly."""
    shape = {"dim": 32, "layers": 2, "max_length": 64, "vocab_size": VOCAB, "norm": spec.make_method("norm", norm)}
    found = []
    for count in (1, threads):
        model = registry.build("lm", "transformer", **shape)
        model.initialise(3)
        own = stepper(model.double(), tmp_path, micro, count)
        assert (own._threads is None) == (count == 1)
        sums = own.gradients(rows())
        found.append((sums.fetch(), [p.grad.clone() for p in model.parameters()]))
    (one, plain), (several, divided) = found
    assert several.units == one.units and several.loss == pytest.approx(one.loss, rel=1e-13)
    for a, b in zip(plain, divided, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12 * max(1.0, float(a.abs().max())))
    assert any(bool(a.abs().max() > 1e-3) for a in plain)


def test_steps_follow_the_optimizer_and_the_mode(threads, tmp_path):
    """Ten steps in float64 end at the weights of one thread, with an evaluation in the middle."""
    ended = []
    for count in (1, threads):
        model = model_of(dtype=torch.float64)
        own = stepper(model, tmp_path, 4, count)
        for step in range(10):
            own(rows(), 1.0, step)
            if step == 4:
                model.eval()
                model.train()
        ended.append(model)
    for a, b in zip(*(m.parameters() for m in ended), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)


def test_equal_runs_are_equal_bit_for_bit(threads, dataset, tmp_path):
    found = [run(dataset, tmp_path / str(i), dtype="bfloat16")[1] for i in range(3)]
    assert same(found[0], found[1]) and same(found[0], found[2])
    before = model_of()
    assert not same(found[0], before)


def test_a_resumed_run_equals_one_that_was_not_stopped(threads, dataset, tmp_path):
    _, whole = run(dataset, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "stopped", objective=StopsWhenCollating(9))
    _, model = run(dataset, tmp_path / "stopped")
    assert same(whole, model)


def test_a_broken_micro_batch_is_the_one_that_is_saved(threads, tmp_path):
    model = model_of()
    with torch.no_grad():
        model.get_parameter("model.embed_tokens.weight")[60] = float("nan")
    given = [row.clip(max=59) for row in rows((9,) * 6)]
    given[4][2] = 60
    own = stepper(model, tmp_path, 3, threads)
    with pytest.raises(TrainingError, match="the loss is nan; the batch is in"):
        own(given, 1.0, 0)


def with_lora(dropout):
    model = model_of()
    registry.build("adapter", "lora", rank=2, dropout=dropout).apply(model)
    return model


def with_experts():
    ffn = {"name": "experts", "experts": 4, "top_k": 2}
    block = spec.make_method("block", {"name": "pre-norm", "ffn": ffn})
    return registry.build("lm", "transformer", dim=32, layers=1, blocks=(block,), max_length=64, vocab_size=VOCAB)


def with_buffer():
    model = model_of()
    model.register_buffer("seen", torch.zeros(()))
    return model


def recomputing():
    model = model_of()
    model.recompute = "blocks"
    return model


class Remembers(Autoregressive):
    """Another loss than the model's own sum."""

    def loss(self, model, batch):
        return super().loss(model, batch)


@pytest.mark.parametrize(
    ("made", "objective", "divided"),
    [
        (model_of, Autoregressive, True),
        (lambda: with_lora(0.0), Autoregressive, True),
        (lambda: with_lora(0.1), Autoregressive, False),  # random numbers would come in an order of chance
        (with_experts, Autoregressive, False),
        (with_buffer, Autoregressive, False),
        (recomputing, Autoregressive, False),
        (model_of, Remembers, False),
    ],
)
def test_only_what_no_thread_changes_is_divided(made, objective, divided):
    assert divides(made(), objective()) is divided


def test_a_step_has_as_many_threads_as_work(tmp_path, monkeypatch):
    """One for a small step; never more than rows."""
    own = stepper(model_of(), tmp_path, 8, 8)._threads
    assert own.of(rows()) == 1 and len(own.divided(rows(), 8)) == 1
    monkeypatch.setattr(division, "LEAST_WORK", own.work * sum(map(len, rows())) / 3)
    assert own.of(rows()) == 3 and len(own.divided(rows(), 4)) == 6
    monkeypatch.setattr(division, "LEAST_WORK", 1)
    assert own.of(rows()) == 8 and own.of(rows()[:5]) == 5
    assert own.of(rows()[:4]) == 0  # of half of the threads and more there is nothing to do: the library divides


def test_frozen_weights_are_shared_and_not_copied(threads, tmp_path):
    model = with_lora(0.0)
    own = stepper(model, tmp_path, 8, threads)
    own(rows(), 1.0, 0)
    for other in own._threads.others:
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            assert mine.data_ptr() == theirs.data_ptr() and (mine is theirs) == (not mine.requires_grad)
