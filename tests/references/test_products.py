"""Large float32 products on a CPU: the values, gradients and counts of torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from llmanac.core.device import onednn
from llmanac.core.spec import make_method
from llmanac.kernels.nn import takes
from llmanac.kernels.nn.cross_entropy import fused_cross_entropy
from llmanac.kernels.nn.takes import LEAST, counted, large, linear
from llmanac.lab.complexity import Operations
from llmanac.models import quantized
from llmanac.models.heads.linear import LinearHead
from llmanac.models.layers import Linear, fuse, linear_all
from llmanac.models.low_rank import Term, low_rank

pytestmark = pytest.mark.usefixtures("one_thread")
N = 192  # so that N^3 > LEAST


def drawn(*shape, seed=0, grad=True):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


def results(run, *given):
    """Value and gradients of the inputs that have one."""
    given = [x.detach().clone().requires_grad_(x.requires_grad) for x in given]
    y = run(*given)
    (y * torch.arange(1, 1 + y.numel(), dtype=y.dtype).view(y.shape).remainder(7)).sum().backward()
    return [y.detach(), *(x.grad for x in given if x.requires_grad)]


def close(found, exact):
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32 and one.shape == other.shape
        assert (one.double() - other).norm() < 1e-6 * other.norm()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_those_of_float64(bias, frozen):
    x, w, b = drawn(2, N, N), drawn(N, N, seed=1, grad=not frozen), drawn(N, seed=2)
    given = [x, w, b] if bias else [x, w]
    close(
        results(linear, *given),
        results(F.linear, *(y.detach().double().requires_grad_(y.requires_grad) for y in given)),
    )
    with torch.no_grad():
        close([linear(*given)], [F.linear(*(y.double() for y in given))])


def test_matrices_that_lie_otherwise():
    """Columns, transposed factors and slices, as gradients have them."""
    x, w = drawn(N, 2 * N, grad=False), drawn(N, 2 * N, seed=1, grad=False)
    for one, other in ((x.t(), w.t()), (x[:, :N], w[:, N:]), (x.t()[:N], w[:, ::2].t()[:N, :].t()[:, :N])):
        close([linear(one, other)], [F.linear(one.double(), other.double())])


def test_it_can_be_differentiated_again():
    x, w = drawn(N, N), drawn(N, N, seed=1)

    def slope(product, x, w):
        (first,) = torch.autograd.grad(product(x, w).pow(2).sum(), w, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), [x, w])

    exact = slope(F.linear, *(y.detach().double().requires_grad_() for y in (x, w)))
    close(slope(linear, x, w), exact)


def test_small_other_and_compiled_products_are_torchs():
    x, w = drawn(8, 8), drawn(8, 8, seed=1)
    assert not large(x, w) and torch.equal(linear(x, w), F.linear(x, w))
    wide, other = drawn(N, N), drawn(N, N, seed=1)
    for dtype in (torch.float64, torch.bfloat16):
        a, b = wide.to(dtype), other.to(dtype)
        assert not large(a, b) and torch.equal(linear(a, b), F.linear(a, b))
    with torch.autocast("cpu", torch.bfloat16):
        assert not large(wide, other) and linear(wide, other).dtype == torch.bfloat16
    assert N**3 >= LEAST and large(wide, other) == (onednn() is not None)


def test_without_it_products_are_torchs(monkeypatch):
    monkeypatch.setattr(takes, "onednn", lambda: None)
    x, w = drawn(N, N), drawn(N, N, seed=1)
    for one, other in zip(results(linear, x, w), results(F.linear, x, w), strict=True):
        assert torch.equal(one, other)


def test_flops_are_counted():
    x, w = drawn(N, 2 * N, grad=False), drawn(3 * N, 2 * N, seed=1, grad=False)
    with FlopCounterMode(display=False, custom_mapping=counted()) as counter, Operations() as own:
        linear(x, w)
    assert counter.get_total_flops() == own.products == 2 * N * 2 * N * 3 * N


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_cross_entropy_of_a_large_head(frozen, reduction, softcap):
    """In several chunks of rows, the last of them smaller."""
    hidden, weight = drawn(150, 64), drawn(5000, 64, seed=1, grad=not frozen)
    targets = torch.randint(5000, (150,), generator=torch.Generator().manual_seed(2))

    def run(hidden, weight):
        return fused_cross_entropy(hidden, weight, targets, chunk=70, reduction=reduction, softcap=softcap)

    def plain(hidden, weight):
        logits = hidden @ weight.t()
        logits = logits if softcap is None else (logits / softcap).tanh() * softcap
        return F.cross_entropy(logits, targets, reduction=reduction)

    exact = results(plain, *(y.detach().double().requires_grad_(y.requires_grad) for y in (hidden, weight)))
    assert large(hidden[:70], weight) == (onednn() is not None)
    close(results(run, hidden, weight), exact)


def test_layers():
    """A map with a low-rank term, and several maps of one input as one product."""
    x, w, a, b = drawn(3, N, N), drawn(N, N, seed=1, grad=False), drawn(8, N, seed=2), drawn(N, 8, seed=3)
    exact = [y.detach().double().requires_grad_(y.requires_grad) for y in (x, w, a, b)]
    close(
        results(lambda x, w, a, b: low_rank(x, Term(w, None, a, b, 0.5))[0], x, w, a, b),
        results(lambda x, w, a, b: x @ w.t() + 0.5 * x @ a.t() @ b.t(), *exact),
    )
    layers = fuse(torch.nn.ModuleList(Linear(N, N) for _ in range(3)))
    for layer in layers:
        torch.nn.init.normal_(layer.weight)
    found = results(lambda x: torch.cat(linear_all(x, tuple(layers)), -1), x)
    whole = torch.cat([layer.weight for layer in layers]).detach().double()
    close(found, results(lambda x: x @ whole.t(), exact[0]))
    close([torch.cat([layer.weight.grad for layer in layers])], [slope_of_weights(whole, exact[0])])


def slope_of_weights(whole, x):
    whole = whole.clone().requires_grad_()
    return results(lambda x, w: x @ w.t(), x.detach(), whole)[1]


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_head_is_unpacked_by_pieces(dtype, reduction, softcap, monkeypatch):
    """Loss and gradient are those of the dense matrix, which is nowhere whole."""
    head = LinearHead(64, 3000, softcap)
    packed = make_method("quantizer", "nf4").build().pack(drawn(3000, 64, grad=False))
    hidden, targets = drawn(2, 150, 64).to(dtype), torch.arange(300).view(2, 150)
    found = []
    for weight in (packed.dense(), packed):
        head.weight = torch.nn.Parameter(weight, requires_grad=False)
        x = hidden.detach().requires_grad_()
        loss = head.nll(x, targets, None, reduction)
        loss.sum().backward()
        found.append((loss.detach(), x.grad))
        monkeypatch.setattr(quantized, "PIECE", 700 * 64)
        monkeypatch.setattr(quantized.Quantized, "dense", None)
    near = 2e-2 if dtype == torch.bfloat16 else 1e-5
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=near, atol=near)
