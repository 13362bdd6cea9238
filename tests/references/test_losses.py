"""The losses beside torch's: values and gradients, every reduction, and the fused cross-entropy's memory."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from llmanac.core import registry
from llmanac.core.errors import LlmanacError, SpecError

REDUCTIONS = ("mean", "sum", "none")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def same(ours, theirs, wanted, scale=0.7):
    """Value and every gradient, under a loss from above that is no plain sum."""
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    above = torch.linspace(-1, 2, ours.numel(), dtype=ours.dtype).reshape(ours.shape)
    a = torch.autograd.grad((scale * ours * above).sum(), wanted, retain_graph=True)
    b = torch.autograd.grad((scale * theirs * above).sum(), wanted, retain_graph=True)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("positive", [1.0, 3.5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(7,), (5, 3), (2, 3, 4), ()])
def test_bce_equals_torch(reduction, positive, weighted, shape):
    logits = (3 * torch.randn(shape, generator=generator(), dtype=torch.float64)).requires_grad_()
    targets = torch.rand(shape, generator=generator(1), dtype=torch.float64).requires_grad_()
    weight = torch.rand(shape, generator=generator(2), dtype=torch.float64) if weighted else None
    ours = registry.build("loss", "bce", reduction=reduction, positive_weight=positive)(logits, targets, weight=weight)
    scale = None if positive == 1.0 else torch.tensor(positive, dtype=torch.float64)
    theirs = F.binary_cross_entropy_with_logits(logits, targets, weight, pos_weight=scale, reduction=reduction)
    same(ours, theirs, [logits, targets])


def test_bce_is_stable_and_its_slope_at_zero_is_that_of_a_sigmoid():
    far = torch.tensor([0.0, -0.0, 1e4, -1e4, 88.8, -1e30, 1e-30], requires_grad=True)
    targets = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.5])
    ours = registry.build("loss", "bce", reduction="none")(far, targets)
    theirs = F.binary_cross_entropy_with_logits(far, targets, reduction="none")
    assert torch.isfinite(ours).all()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    (slope,) = torch.autograd.grad(ours.sum(), far)
    torch.testing.assert_close(slope, torch.sigmoid(far.detach()) - targets)
    naive = -(targets * far.sigmoid().log() + (1 - targets) * (1 - far.sigmoid()).log())
    assert not torch.isfinite(naive).all()  # the form that this one is there to replace


def test_bce_second_derivative():
    logits = torch.tensor([0.0, 0.3, -2.0], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([1.0, 0.2, 0.0], dtype=torch.float64)
    loss = registry.build("loss", "bce", positive_weight=2.0)
    assert torch.autograd.gradcheck(lambda z: loss(z, targets), logits)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, targets), logits)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("smoothing", "weighted"), itertools.product([0.0, 0.1, 1.0], [False, True]))
@pytest.mark.parametrize("ignored", [-100, 2])
def test_cross_entropy_equals_torch(reduction, smoothing, weighted, ignored):
    logits = torch.randn(23, 7, generator=generator(), dtype=torch.float64).requires_grad_()
    targets = torch.randint(7, (23,), generator=generator(1))
    targets[::4] = ignored
    weight = torch.rand(7, generator=generator(2), dtype=torch.float64) + 0.1 if weighted else None
    loss = registry.build("loss", "cross-entropy", reduction=reduction, label_smoothing=smoothing, ignore_index=ignored)
    choices = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": ignored}
    same(loss(logits, targets, weight=weight), F.cross_entropy(logits, targets, weight, **choices), [logits])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("smoothing", "weighted"), itertools.product([0.0, 0.1, 1.0], [False, True]))
@pytest.mark.parametrize(("ignored", "chunk"), [(-100, 5), (2, None)])
def test_the_fused_form_equals_torch(reduction, smoothing, weighted, ignored, chunk):
    hidden = torch.randn(23, 6, generator=generator(), dtype=torch.float64).requires_grad_()
    head = torch.randn(11, 6, generator=generator(1), dtype=torch.float64).requires_grad_()
    bias = torch.randn(11, generator=generator(2), dtype=torch.float64).requires_grad_()
    targets = torch.randint(11, (23,), generator=generator(3))
    targets[::4] = ignored
    weight = torch.rand(11, generator=generator(4), dtype=torch.float64) + 0.1 if weighted else None
    loss = registry.build(
        "loss", "cross-entropy", reduction=reduction, label_smoothing=smoothing, ignore_index=ignored, chunk=chunk
    )
    for with_bias in (None, bias):
        choices = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": ignored}
        theirs = F.cross_entropy(F.linear(hidden, head, with_bias), targets, weight, **choices)
        ours = loss.fused(hidden, head, targets, bias=with_bias, weight=weight)
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
        above = torch.linspace(-1, 2, ours.numel(), dtype=ours.dtype).reshape(ours.shape)
        wanted = [hidden, head] if with_bias is None else [hidden, head, bias]
        a = torch.autograd.grad((ours * above).sum(), wanted)
        b = torch.autograd.grad((theirs * above).sum(), wanted)
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [(5,), (4, 5, 3), (2, 5, 3, 2)])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_takes_torchs_shapes_and_probabilities(shape, soft):
    logits = torch.randn(shape, generator=generator(), dtype=torch.float64).requires_grad_()
    where = shape[1:] if len(shape) == 1 else (shape[0], *shape[2:])
    if soft:
        targets = torch.randn(shape, generator=generator(1), dtype=torch.float64).softmax(0 if len(shape) == 1 else 1)
    else:
        targets = torch.randint(5, where, generator=generator(1))
    weight = torch.rand(5, generator=generator(2), dtype=torch.float64)
    for reduction, smoothing in itertools.product(REDUCTIONS, [0.0, 0.3]):
        if soft and len(shape) == 1 and reduction == "mean":
            continue
        loss = registry.build("loss", "cross-entropy", reduction=reduction, label_smoothing=smoothing)
        theirs = F.cross_entropy(logits, targets, weight, reduction=reduction, label_smoothing=smoothing)
        same(loss(logits, targets, weight=weight), theirs, [logits])


def test_smoothing_and_weights_change_something():
    logits = torch.randn(9, 4, generator=generator())
    targets = torch.randint(4, (9,), generator=generator(1))
    plain = registry.build("loss", "cross-entropy")(logits, targets)
    smoothed = registry.build("loss", "cross-entropy", label_smoothing=0.2)(logits, targets)
    weighted = registry.build("loss", "cross-entropy")(logits, targets, weight=torch.tensor([1.0, 5.0, 0.2, 1.0]))
    assert len({round(float(v), 4) for v in (plain, smoothed, weighted)}) == 3


def test_every_row_ignored_is_nan_for_a_mean_and_zero_for_a_sum_as_in_torch():
    logits, targets = torch.randn(3, 4), torch.full((3,), -100)
    assert torch.isnan(registry.build("loss", "cross-entropy")(logits, targets))
    assert float(registry.build("loss", "cross-entropy", reduction="sum")(logits, targets)) == 0.0


def peak_bytes(run):
    """The most bytes that a call holds at a time beyond what was there before, counted from its allocations."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_fused_form_needs_a_fraction_of_the_memory(smoothing):
    rows, dim, classes = 1024, 16, 4000
    hidden = torch.randn(rows, dim, requires_grad=True)
    head = torch.randn(classes, dim, requires_grad=True)
    targets = torch.randint(classes, (rows,))
    loss = registry.build("loss", "cross-entropy", chunk=64, label_smoothing=smoothing)
    fused = peak_bytes(lambda: loss.fused(hidden, head, targets).backward())
    plain = peak_bytes(lambda: loss(hidden @ head.t(), targets).backward())
    torchs = peak_bytes(lambda: F.cross_entropy(hidden @ head.t(), targets, label_smoothing=smoothing).backward())
    assert 0 < fused < rows * classes * 4 / 4  # less than a quarter of the scores alone
    assert fused < torchs / 6 and fused < plain / 6


def test_what_does_not_fit_is_one_sentence():
    bce, cross = registry.build("loss", "bce"), registry.build("loss", "cross-entropy")
    with pytest.raises(SpecError, match="must have the logits' shape"):
        bce(torch.zeros(3), torch.zeros(4))
    with pytest.raises(SpecError, match="give probabilities"):
        bce(torch.zeros(3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(SpecError, match="7 is no class below 4"):
        cross(torch.zeros(2, 4), torch.tensor([1, 7]))
    with pytest.raises(SpecError, match="do not fit"):
        cross(torch.zeros(2, 4), torch.tensor([1, 2, 3]))
    with pytest.raises(SpecError, match="one weight for each of 4"):
        cross(torch.zeros(2, 4), torch.tensor([1, 2]), weight=torch.ones(3))
    with pytest.raises(LlmanacError, match="is not a token id below 4"):
        cross.fused(torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([1, 7]))
    with pytest.raises(SpecError, match=r"label_smoothing: 1.5 must be from 0 to 1"):
        registry.build("loss", "cross-entropy", label_smoothing=1.5)
