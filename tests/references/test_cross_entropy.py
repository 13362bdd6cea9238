"""The fused cross-entropy against torch.nn.functional.cross_entropy: values and every gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmanac.core.errors import LlmanacError
from llmanac.core.types import IGNORE
from llmanac.kernels.nn.cross_entropy import fused_cross_entropy
from llmanac.kernels.nn.entropy import chunked_entropy


def inputs(dtype=torch.float64, rows=37, dim=24, vocabulary=101, ignored=0.3):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, dim, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, dim, generator=generator).to(dtype).requires_grad_()
    bias = torch.randn(vocabulary, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    targets[torch.rand(rows, generator=generator) < ignored] = IGNORE
    return hidden, weight, bias, targets


@pytest.mark.parametrize("chunk", [1, 5, 37, None])
@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("with_bias", [True, False])
def test_sum_equals_torch(chunk, ignored, with_bias):
    hidden, weight, bias, targets = inputs(ignored=ignored)
    bias = bias if with_bias else None
    wanted = [t for t in (hidden, weight, bias) if t is not None]
    expected = F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="sum", ignore_index=IGNORE)
    actual = fused_cross_entropy(hidden, weight, targets, bias=bias, chunk=chunk)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(0.7 * actual, wanted), torch.autograd.grad(0.7 * expected, wanted), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk", [5, None])
def test_rows_equal_torch(chunk):
    hidden, weight, bias, targets = inputs()
    scale = torch.randn(len(targets), dtype=torch.float64)  # rows that weigh differently from above
    expected = F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="none", ignore_index=IGNORE)
    actual = fused_cross_entropy(hidden, weight, targets, bias=bias, chunk=chunk, reduction="none")
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    wanted = [hidden, weight, bias]
    a = torch.autograd.grad((actual * scale).sum(), wanted)
    b = torch.autograd.grad((expected * scale).sum(), wanted)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_capped_logits_equal_torch(reduction):
    hidden, weight, bias, targets = inputs()

    def capped(b):
        return 2.5 * torch.tanh(F.linear(hidden, weight, b) / 2.5)

    expected = F.cross_entropy(capped(bias), targets, reduction=reduction, ignore_index=IGNORE)
    actual = fused_cross_entropy(hidden, weight, targets, bias=bias, chunk=5, reduction=reduction, softcap=2.5)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(actual, fused_cross_entropy(hidden, weight, targets, bias=bias, reduction=reduction))
    entropy = chunked_entropy(hidden, weight, bias, 2.5)
    spread = torch.distributions.Categorical(logits=capped(bias)).entropy()
    torch.testing.assert_close(entropy, spread, rtol=1e-12, atol=1e-12)
    wanted, scale = [hidden, weight, bias], torch.linspace(0.5, 2.0, len(targets), dtype=torch.float64)
    for found, right in ((actual, expected), (entropy, spread)):
        made = [torch.autograd.grad((value * scale[: value.numel()]).sum(), wanted) for value in (found, right)]
        for x, y in zip(*made, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_mixture_is_the_mixture_of_probabilities(reduction):
    hidden, weight, _, targets = inputs()
    share = torch.randn(len(targets), dtype=torch.float64).sigmoid().log().requires_grad_()
    other = torch.rand(len(targets), dtype=torch.float64).log()
    other[::4] = -float("inf")  # nothing to copy
    other.requires_grad_()
    logits = F.linear(hidden, weight).log_softmax(-1)
    plain = logits.gather(1, targets.clamp(min=0)[:, None]).squeeze(1)
    expected = -(share.exp() * plain.exp() + other.exp()).log() * (targets != IGNORE)
    actual = fused_cross_entropy(hidden, weight, targets, chunk=7, reduction=reduction, mixture=(share, other))
    torch.testing.assert_close(actual, expected.sum() if reduction == "sum" else expected, rtol=1e-10, atol=1e-10)
    wanted = [hidden, weight, share, other]
    a = torch.autograd.grad(actual.sum(), wanted)
    b = torch.autograd.grad(expected.sum(), wanted)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


def test_gradcheck():
    hidden, weight, bias, targets = inputs(rows=6, dim=4, vocabulary=9)

    def value(h, w, b):
        return fused_cross_entropy(h, w, targets, bias=b, chunk=2, reduction="none")

    assert torch.autograd.gradcheck(value, (hidden, weight, bias))


def test_bfloat16_is_as_close_as_bfloat16_products_allow():
    hidden, weight, _, targets = inputs(torch.float32, rows=64, dim=64, ignored=0.0)
    exact = F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")
    peer = F.cross_entropy(F.linear(hidden.bfloat16(), weight.bfloat16()).float(), targets, reduction="sum")
    low = fused_cross_entropy(hidden.bfloat16(), weight, targets)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, peer, rtol=1e-5, atol=1e-3)
    exact_grad, low_grad = torch.autograd.grad(exact, weight)[0], torch.autograd.grad(low, weight)[0]
    assert low_grad.dtype == torch.float32  # as the weight
    assert (low_grad - exact_grad).norm() < 0.02 * exact_grad.norm()


def test_autocast_computes_products_in_its_dtype():
    hidden, weight, _, targets = inputs(torch.float32, ignored=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = fused_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(inside, fused_cross_entropy(hidden.bfloat16(), weight, targets))
    assert inside.item() != fused_cross_entropy(hidden, weight, targets).item()


def test_large_logits_do_not_overflow():
    hidden, weight, _, targets = inputs(torch.float32)
    expected = F.cross_entropy(F.linear(hidden, weight) * 1000, targets, reduction="sum", ignore_index=IGNORE)
    torch.testing.assert_close(fused_cross_entropy(hidden * 1000, weight, targets), expected)


def test_never_holds_the_logits():
    """The largest tensor that a call allocates is the weight's gradient or a chunk, never (N, V)."""
    rows, dim, vocabulary, chunk = 512, 8, 4000, 16
    hidden = torch.randn(rows, dim, requires_grad=True)
    weight = torch.randn(vocabulary, dim, requires_grad=True)
    targets = torch.randint(vocabulary, (rows,))
    with torch.profiler.profile(profile_memory=True) as profile:
        fused_cross_entropy(hidden, weight, targets, chunk=chunk).backward()
    held, peak = 0, 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 0 < peak < rows * vocabulary * 4 / 4


def test_no_gradient_is_worked_out_where_none_is_wanted():
    hidden, weight, _, targets = inputs()
    with torch.no_grad():
        assert not fused_cross_entropy(hidden, weight, targets).requires_grad
    frozen = fused_cross_entropy(hidden, weight.detach(), targets)
    frozen.backward()
    assert weight.grad is None and hidden.grad is not None


def test_a_sum_runs_backward_once_and_says_so():
    hidden, weight, _, targets = inputs()
    value = fused_cross_entropy(hidden, weight, targets)
    value.backward(retain_graph=True)
    with pytest.raises(LlmanacError, match="runs backward once"):
        value.backward()


def test_a_target_out_of_range_is_named():
    hidden, weight, _, targets = inputs(ignored=0.0)
    targets[3] = 101
    with pytest.raises(LlmanacError, match="101 is not a token id below 101"):
        fused_cross_entropy(hidden, weight, targets)
    with pytest.raises(LlmanacError, match=r"must be \(N, D\)"):
        fused_cross_entropy(hidden, weight[:, 1:], targets)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_fixed_columns_get_no_gradient_and_the_others_theirs(reduction):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 9, dtype=torch.float64, generator=generator) for n in (14, 11))
    targets = torch.randint(11, (14,), generator=generator)
    found = []
    for fixed in (0, 6):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        value = fused_cross_entropy(h, w, targets, chunk=5, reduction=reduction, fixed=fixed)
        (3 * value).sum().backward()
        found.append((value.detach(), h.grad, w.grad))
    (a, ha, wa), (b, hb, wb) = found
    assert torch.equal(a, b) and torch.equal(ha, hb) and wa.abs().min() > 0
    torch.testing.assert_close(wb[:, 6:], wa[:, 6:], rtol=1e-12, atol=1e-12)
    assert not wb[:, :6].any()
