"""SGD, Lion and 8-bit AdamW, step for step as torch, lion-pytorch and bitsandbytes."""

from __future__ import annotations

import pytest
import torch

from llmanac.core import registry, spec
from llmanac.core.errors import SpecError
from llmanac.train.optimizers.adamw_8bit import BLOCK, codes, dequantize, quantize

SHAPES = [(70, 33), (33, 70), (19,), (1,)]


def parameters(dtype=torch.float64, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter((torch.randn(s, generator=generator, dtype=torch.float64) * 0.2).to(dtype)) for s in shapes
    ]


def train(ours, theirs, made, reference, steps=25, rate=None):
    """Both with the same gradients, of sizes from 1e-5 to 10, and the same schedule; ours scaled by 4 and back."""
    rate = rate or reference.param_groups[0]["lr"]
    for step in range(steps):
        generator = torch.Generator().manual_seed(100 + step)
        factor = 1.0 - step / 40
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            g = torch.randn(a.shape, generator=generator, dtype=torch.float64) * 10.0 ** ((i + step) % 7 - 5)
            a.grad, b.grad = (g * 4).to(a.dtype), g.to(b.dtype)
        for group in reference.param_groups:
            group["lr"] = rate * factor
        made.step(factor, 0.25)
        reference.step()


def build(name, ours, **choices):
    named = [(f"p{i}", p, "matrix") for i, p in enumerate(ours)]
    return registry.build("optimizer", name, parameters=named, decay="all", **choices)


@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize(
    "choices",
    [{"momentum": 0.0}, {"momentum": 0.8}, {"momentum": 0.8, "dampening": 0.3}, {"momentum": 0.8, "form": "nesterov"}],
)
def test_sgd_equals_torch(choices, decay):
    ours, theirs = parameters(), parameters()
    made = build("sgd", ours, lr=0.05, weight_decay=decay, **choices)
    nesterov = choices.get("form") == "nesterov"
    kept = {k: v for k, v in choices.items() if k != "form"}
    reference = torch.optim.SGD(theirs, lr=0.05, weight_decay=decay, nesterov=nesterov, **kept)
    start = [p.detach().clone() for p in ours]
    train(ours, theirs, made, reference)
    for a, b, before in zip(ours, theirs, start, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
        assert not torch.equal(a, before)
    assert made.nbytes() == (0 if choices["momentum"] == 0 else sum(8 * p.numel() for p in ours))


def test_nesterov_is_an_alias_and_needs_momentum():
    assert spec.make_method("optimizer", {"name": "nesterov"}).form == "nesterov"
    with pytest.raises(SpecError, match="nesterov needs momentum above 0"):
        spec.make_method("optimizer", {"name": "nesterov", "momentum": 0.0})


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_lion_equals_lion_pytorch(decay):
    lion = pytest.importorskip("lion_pytorch", reason="lion-pytorch is not installed")
    ours, theirs = parameters(), parameters()
    made = build("lion", ours, lr=0.01, beta1=0.85, beta2=0.97, weight_decay=decay)
    start = [p.detach().clone() for p in ours]
    train(ours, theirs, made, lion.Lion(theirs, lr=0.01, betas=(0.85, 0.97), weight_decay=decay))
    for a, b, before in zip(ours, theirs, start, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
        assert not torch.equal(a, before)
    assert made.nbytes() == sum(8 * p.numel() for p in ours)  # half of AdamW's


@pytest.mark.parametrize("signed", [True, False])
def test_the_codes_are_those_of_bitsandbytes(signed):
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    assert torch.equal(codes(signed), functional.create_dynamic_map(signed=signed))


@pytest.mark.parametrize("signed", [True, False])
def test_values_are_rounded_to_the_nearest_code_of_their_block(signed):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3 * BLOCK + 17, generator=generator) * torch.logspace(-6, 2, 3 * BLOCK + 17)
    x = x if signed else x.abs()
    x[:BLOCK] = 0
    found, scales = quantize(x, signed=signed)
    assert found.dtype == torch.uint8 and scales.shape == (4,)
    again = dequantize(found, scales, signed=signed)
    scale = scales.repeat_interleave(BLOCK)[: len(x)]
    nearest = (x[:, None] - codes(signed)[None] * scale[:, None]).abs().amin(1)
    torch.testing.assert_close((x - again).abs(), nearest, rtol=1e-4, atol=1e-7)
    assert torch.equal(again[:BLOCK], torch.zeros(BLOCK))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_8_bit_adamw_equals_bitsandbytes(dtype):
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    shapes = [(70, 83), (4100,), (33, 7)]  # the last keeps float32 state
    ours, theirs = parameters(dtype, shapes), parameters(dtype, shapes)
    made = build("adamw-8bit", ours, lr=3e-3, beta1=0.8, beta2=0.97, eps=1e-6, weight_decay=0.3)
    reference = bnb.optim.AdamW8bit(theirs, lr=3e-3, betas=(0.8, 0.97), eps=1e-6, weight_decay=0.3)
    start = [p.detach().clone() for p in ours]
    train(ours, theirs, made, reference, steps=15)
    for i, (a, b, before) in enumerate(zip(ours, theirs, start, strict=True)):
        moved = (b - before).float().abs().mean()
        assert (a - b).float().abs().mean() < (2e-2 if dtype == torch.bfloat16 else 1e-3) * moved, i
    state = reference.state[theirs[0]]
    different = (made.state["mean.p0"].view(-1) != state["state1"].view(-1)).float().mean()
    assert different < 0.01  # ties and last bits
    large = sum(p.numel() for p in ours[:2])
    assert made.nbytes() < 2.05 * large + 8 * ours[2].numel()
    full = parameters(dtype, shapes)
    exact = build("adamw", full, lr=3e-3, beta1=0.8, beta2=0.97, eps=1e-6, weight_decay=0.3)
    train(full, theirs, exact, reference, steps=15, rate=3e-3)
    assert not torch.equal(full[0], ours[0])  # rounding the state changes the weights
    assert exact.nbytes() == sum(2 * p.element_size() * p.numel() for p in full)
