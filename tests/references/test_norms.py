"""LayerNorm and RMSNorm against torch's, values and gradients, and Gemma's stored-as-distance-from-one form."""

from __future__ import annotations

import pytest
import torch
from _small_models import randomise
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

from llmanac.core.errors import SpecError
from llmanac.core.registry import build
from llmanac.models.norms.layernorm import layer_norm
from llmanac.models.norms.rmsnorm import rms_norm

DIM = 24


def pair(name):
    if name == "layernorm-no-bias":
        return build("norm", "layernorm", dim=DIM, eps=1e-5, bias="none"), nn.LayerNorm(DIM, eps=1e-5, bias=False)
    if name == "layernorm":
        return build("norm", name, dim=DIM, eps=1e-5), torch.nn.LayerNorm(DIM, eps=1e-5)
    return build("norm", name, dim=DIM, eps=1e-6), torch.nn.RMSNorm(DIM, eps=1e-6)


@pytest.mark.parametrize("name", ["layernorm", "layernorm-no-bias", "rmsnorm"])
@pytest.mark.parametrize("shape", [(DIM,), (5, DIM), (2, 7, DIM), (2, 3, 7, DIM)])
def test_equals_torch(name, shape):
    ours, theirs = (randomise(module).double() for module in pair(name))
    x = (3 * torch.randn(shape, dtype=torch.float64) + 2).requires_grad_()
    above = torch.randn(shape, dtype=torch.float64)
    a, b = ours(x), theirs(x)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    grads_a = torch.autograd.grad((a * above).sum(), [x, *ours.parameters()])
    grads_b = torch.autograd.grad((b * above).sum(), [x, *theirs.parameters()])
    for p, q in zip(grads_a, grads_b, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["layernorm", "rmsnorm"])
def test_gradcheck_and_the_formula_as_it_stands(name):
    ours = randomise(build("norm", name, dim=6)).double()
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ours, (x,))
    plain = (
        layer_norm(x, ours.weight, ours.bias, ours.eps) if name == "layernorm" else rms_norm(x, ours.weight, ours.eps)
    )
    torch.testing.assert_close(ours(x), plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["layernorm", "rmsnorm"])
def test_bfloat16_is_computed_in_float32(name):
    ours, theirs = (randomise(module) for module in pair(name))
    x = (100 + torch.randn(4, DIM)).bfloat16().requires_grad_()
    exact = theirs(x.float())
    assert ours(x).dtype == torch.bfloat16
    torch.testing.assert_close(ours(x).float(), exact, rtol=2**-8, atol=1e-3)
    ours(x).sum().backward()
    assert ours.weight.grad.dtype == torch.float32 and x.grad.dtype == torch.bfloat16


def test_offset_is_gemmas_form():
    ours, theirs = build("norm", "rmsnorm", dim=DIM, offset=1.0), GemmaRMSNorm(DIM, eps=1e-6)
    assert torch.equal(ours.weight, torch.zeros(DIM))  # a scale of 1
    randomise(ours), randomise(theirs)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight)
    x = 5 * torch.randn(3, DIM)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_the_two_differ_and_both_differ_from_nothing():
    x = torch.randn(4, DIM) + 1
    layer, root = build("norm", "layernorm", dim=DIM)(x), build("norm", "rmsnorm", dim=DIM)(x)
    assert (layer - root).abs().max() > 0.1 and (layer - x).abs().max() > 0.1 and (root - x).abs().max() > 0.1


def test_eps_must_be_positive():
    with pytest.raises(SpecError, match=r"norm/rmsnorm\.eps: 0\.0 must be above 0"):
        build("norm", "rmsnorm", dim=DIM, eps=0.0)
    with pytest.raises(SpecError, match=r"norm/layernorm\.eps: 5\.0 must be above 0 and below 1"):
        build("norm", "layernorm", dim=DIM, eps=5.0)
