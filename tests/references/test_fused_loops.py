"""One-pass loops of a training step against the plain formulas: in float64 exactly, in bfloat16 by their rounding."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from _small_models import block, tokens, transformer
from torch import Tensor

from llmanac.core.device import cxx_compiler
from llmanac.core.types import Batch
from llmanac.kernels.nn import _short, pointwise
from llmanac.kernels.nn._cross_entropy_loops import values_and_slopes_
from llmanac.kernels.nn.cross_entropy import fused_cross_entropy
from llmanac.kernels.nn.takes import SMALLEST, fused
from llmanac.models import masks
from llmanac.models.compiling import compile_model
from llmanac.models.norms.rmsnorm import rms_norm
from llmanac.models.positions.rope import _Rotation
from llmanac.models.scores._compiled import BlockAttention

ULP = 2.0**-8  # the largest relative error of rounding to bfloat16


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gated(a: Tensor, b: Tensor) -> Tensor:
    return F.silu(a) * b


LOOPS = {  # name: (the loop, the formula, its inputs, which of them are not differentiated)
    "rms": (
        lambda x, w: pointwise.FusedRMSNorm.apply(x, w, 1e-6), lambda x, w: rms_norm(x, w, 1e-6),
        lambda: (drawn(3, 300, 40), drawn(40, seed=1)), 0,
    ),
    "gated": (pointwise.GatedSiLU.apply, gated, lambda: (drawn(3, 50, 41), drawn(3, 50, 41, seed=1)), 0),
    "rotation": (
        pointwise.Rotation.apply, _Rotation.apply,
        lambda: (drawn(3, 20, 4, 16), drawn(1, 20, 1, 16, seed=1), drawn(1, 20, 1, 16, seed=2)), 2,
    ),
    "rotation by row": (
        pointwise.Rotation.apply, _Rotation.apply,
        lambda: (drawn(3, 20, 4, 16), drawn(3, 20, 1, 16, seed=1), drawn(3, 20, 1, 16, seed=2)), 2,
    ),
    "rotation of a part": (
        lambda x, c, s: pointwise.Rotation.apply(x[..., 8:24], c, s),
        lambda x, c, s: _Rotation.apply(x[..., 8:24], c, s),
        lambda: (drawn(3, 20, 4, 32), drawn(1, 20, 1, 16, seed=1), drawn(1, 20, 1, 16, seed=2)), 2,
    ),
}  # fmt: skip


def test_weights_keep_memory_that_sharded_training_can_free() -> None:
    x, weight = drawn(300, 40).float(), torch.nn.Parameter(torch.ones(40))
    pointwise.FusedRMSNorm.apply(x, weight, 1e-6).sum().backward()
    before = weight.untyped_storage().data_ptr()
    weight.data.untyped_storage().resize_(0)  # as fully_shard does after each layer
    assert before and not weight.untyped_storage().size()


def both(name: str, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients: of the loop in `dtype`, and of the formula in float64 from the same rounded numbers."""
    loop, formula, make, fixed = LOOPS[name]
    given = [x.to(dtype) for x in make()]
    out = []
    for function, kind in ((loop, dtype), (formula, torch.float64)):
        own = [x.to(kind) for x in given]
        wanted = [x.requires_grad_() for x in own[: len(own) - fixed]]
        y = function(*own)
        above = drawn(*y.shape, seed=9).to(dtype).to(kind)
        out.append([y, *torch.autograd.grad(y, wanted, above)])
    return out[0], out[1]


@pytest.mark.parametrize("name", LOOPS)
def test_loops_equal_the_formulas_in_float64(name: str) -> None:
    for found, expected in zip(*both(name, torch.float64), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LOOPS)
def test_loops_round_once_in_bfloat16(name: str) -> None:
    for found, expected in zip(*both(name, torch.bfloat16), strict=True):
        assert found.dtype == torch.bfloat16
        # half a unit in the last place, and what float32 loses where terms cancel
        torch.testing.assert_close(found.double(), expected, rtol=1.01 * ULP, atol=1e-5)


def test_numbers_are_rounded_as_torch_rounds() -> None:
    """Ties to even, overflow to infinity, NaN stays NaN: over all exponents and the last bits around a tie."""
    high = torch.arange(0, 1 << 16, 7, dtype=torch.int64)
    bits = torch.cat([(high << 16) + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    x = torch.where(bits >= 1 << 31, bits - (1 << 32), bits).int().view(torch.float32)
    out = torch.empty(len(x), dtype=torch.bfloat16)
    _short.store(_short.array(out), _short.array(x), _short.np.float32(1.0))
    plain = x.bfloat16()
    assert bool((out.isnan() == plain.isnan()).all())
    # a processor may drop the tiniest
    kept = ~plain.isnan() & ((x == 0) | (x.abs() >= torch.finfo(torch.float32).tiny))
    assert torch.equal(out[kept], plain[kept])
    back = torch.empty(len(x), dtype=torch.float32)
    _short.store(_short.array(back), _short.array(x), _short.np.float32(1.0))
    assert torch.equal(back[kept], x[kept])


def mask_batches() -> dict[str, Batch]:
    length = 37
    segments = torch.tensor([[0] * 10 + [1] * 27, [0] * length, [0] * 5 + [1] * 5 + [2] * 27])
    return {
        "causal": Batch(ids=tokens(3, length)),
        "packed": Batch(ids=tokens(3, length), segments=segments),
        "prefix": Batch(ids=tokens(3, length), mask="prefix", prefix=torch.tensor([5, 0, 20])),
        "bidirectional": Batch(ids=tokens(3, length), mask="bidirectional"),
        "packed both ways": Batch(ids=tokens(3, length), mask="bidirectional", segments=segments),
    }


@pytest.mark.parametrize("name", mask_batches())
@pytest.mark.parametrize("window", [None, 1, 5])
@pytest.mark.parametrize("size", [8, 64])
def test_attention_over_ranges_equals_torch(name: str, window: int | None, size: int) -> None:
    mask = masks.of_batch(mask_batches()[name]).within(window)
    q, k, v = (drawn(3, heads, 37, 16, seed=heads + at).requires_grad_() for at, heads in enumerate((4, 2, 2)))
    seen = torch.ones(1, 1, 37, 37, dtype=torch.bool) if mask.rule is None else mask.boolean()
    repeated = [x.repeat_interleave(2, dim=1) for x in (k, v)]
    expected = F.scaled_dot_product_attention(q, *repeated, attn_mask=seen)
    ranges = mask.ranges()
    assert ranges is not None
    found = BlockAttention.apply(q, k, v, None, (mask.causal, mask.window), 0.25, size, ranges)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    above = drawn(*found.shape, seed=9)
    for a, b in zip(
        torch.autograd.grad(found, (q, k, v), above), torch.autograd.grad(expected, (q, k, v), above), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_masks_that_are_no_ranges_have_none() -> None:
    index = torch.arange(6)[None]
    causal = masks.AttentionMask(masks.MaskRule(kind="causal"), index, index, causal=True, mask=True)
    assert causal.patterned(lambda q, k: (q - k) % 2 == 0).ranges() is None
    assert causal.strictly_before().ranges() is None  # the first query sees nothing
    first, last = causal.ranges() or ()
    assert first.tolist() == [[0] * 6] and last.tolist() == [[1, 2, 3, 4, 5, 6]]


def test_values_and_slopes_equal_torch() -> None:
    logits, targets, scale = drawn(9, 101).requires_grad_(), torch.arange(9) * 11, drawn(9, seed=1)
    expected = F.cross_entropy(logits, targets, reduction="none")
    (slopes,) = torch.autograd.grad(expected, logits, scale)
    own = logits.detach().clone()
    torch.testing.assert_close(values_and_slopes_(own, targets, scale)[0], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own, slopes, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_cross_entropy_in_place_is_near_float64(reduction: str) -> None:
    hidden, weight = (drawn(*shape).bfloat16() for shape in ((600, 64), (777, 64)))
    targets = torch.randint(777, (600,), generator=torch.Generator().manual_seed(0))
    targets[::7] = -100
    out = []
    for kind in (torch.bfloat16, torch.float64):
        wanted = [x.to(kind).requires_grad_() for x in (hidden, weight.float())]
        if kind == torch.bfloat16:
            wanted[1] = weight.float().requires_grad_()
            assert fused(wanted[0], wanted[1])
            y = fused_cross_entropy(wanted[0], wanted[1], targets, reduction=reduction)
        else:
            y = F.cross_entropy(wanted[0] @ wanted[1].T, targets, reduction=reduction)
        out.append([y, *torch.autograd.grad(y.sum(), wanted)])
    for found, expected in zip(*out, strict=True):
        assert (found.double() - expected).norm() < 0.012 * expected.norm()


def test_a_mixture_equals_its_formula() -> None:
    """Values, slopes and shares of -log(e^(g - nll) + e^o), also where one of both is no possibility."""
    logits, targets = drawn(40, 50).requires_grad_(), torch.randint(0, 50, (40,))
    gate, other = drawn(40, seed=1).requires_grad_(), drawn(40, seed=2).requires_grad_()
    with torch.no_grad():
        other[3], gate[5] = -math.inf, -math.inf
    nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    expected = -torch.logaddexp(gate - nll, other)
    into_logits, into_gate = torch.autograd.grad(expected.sum(), (logits, gate))
    own = logits.detach().clone()
    values, shares = values_and_slopes_(own, targets, None, mixture=(gate.detach(), other.detach()))
    torch.testing.assert_close(values, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own, into_logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shares, -into_gate, rtol=1e-12, atol=1e-12)
    assert float(shares[5]) == 0.0 and float(shares[3]) == pytest.approx(1.0)


def test_a_nan_is_kept_by_every_loop() -> None:
    """A broken number must reach the loss or the gradient's norm, where training stops."""
    bad = drawn(1, 300, 64).bfloat16()
    bad[0, 3, 7] = float("nan")
    weight = torch.ones(64, requires_grad=True)
    assert pointwise.FusedRMSNorm.apply(bad, weight, 1e-6)[0, 3].isnan().all()
    assert pointwise.GatedSiLU.apply(bad, bad)[0, 3, 7].isnan()
    logits = bad[0].clone()
    assert (
        values_and_slopes_(logits, torch.zeros(300, dtype=torch.long), None)[0][3].isnan() and logits[3].isnan().any()
    )
    from llmanac.kernels.nn.softmax import softmax_

    scores, seen = bad.view(1, 1, 300, 64).clone(), torch.zeros(1, 300, dtype=torch.long)
    assert softmax_(scores, seen, seen + 64, 1.0)[0, 0, 3].isnan().any()


def test_threads_do_not_change_a_bit() -> None:
    x, weight = drawn(1, 2000, 64).bfloat16().requires_grad_(), torch.rand(64, requires_grad=True)
    above, before, found = drawn(1, 2000, 64, seed=1).bfloat16(), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            y = pointwise.FusedRMSNorm.apply(x, weight, 1e-6)
            found.append([y, *torch.autograd.grad(y, (x, weight), above)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_only_training_on_a_cpu_takes_the_loops(dtype: torch.dtype) -> None:
    """float64 is for references: it is computed by the formulas."""
    x = torch.zeros(SMALLEST, dtype=dtype, requires_grad=True)
    assert fused(x) and not fused(x.detach()) and not fused(x[1:]) and not fused(x.double())
    with torch.no_grad():
        assert not fused(x)


def test_a_model_trains_the_same_with_the_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients of a packed batch in bfloat16: as near to float64's as the formulas' in bfloat16 are."""
    model, ids = transformer(blocks=block("grouped-query"), dim=64), tokens(4, 128)
    segments = (torch.arange(128) >= 50).long().expand(4, -1)
    batch = Batch(ids=ids, targets=ids.roll(-1, 1), segments=segments)
    exact = torch.autograd.grad(model.double().nll(batch), list(model.parameters()))
    model.float().compute_dtype = torch.bfloat16
    errors = {}
    for name, smallest in (("formulas", 1 << 40), ("loops", 1)):
        monkeypatch.setattr("llmanac.kernels.nn.takes.SMALLEST", smallest)
        model.attention_form = "blocks"
        found = torch.autograd.grad(model.nll(batch), list(model.parameters()))
        errors[name] = [
            float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True) if b.norm()
        ]
    assert errors["loops"] != errors["formulas"]
    assert max(errors["loops"]) < 1.1 * max(errors["formulas"]) < 0.1


@pytest.mark.slow
@pytest.mark.skipif(cxx_compiler() is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_calls_the_loops() -> None:
    """Each loop is an operation of the graph, and the gradients are those without the compiler up to rounding."""
    model, ids = transformer(blocks=block("grouped-query"), dim=64), tokens(4, 128)
    model.compute_dtype, model.attention_form = torch.bfloat16, "blocks"
    batch = Batch(ids=ids, targets=ids.roll(-1, 1), segments=(torch.arange(128) >= 50).long().expand(4, -1))
    expected = torch.autograd.grad(model.nll(batch), list(model.parameters()))
    compile_model(model)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        found = torch.autograd.grad(model.nll(batch), list(model.parameters()))
    called = {event.key for event in profile.key_averages()}
    names = ("rms", "gated", "turned", "block_attention", "block_attention_back")
    assert {f"llmanac::{name}" for name in names} <= called
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= 0.05 * b.norm()
