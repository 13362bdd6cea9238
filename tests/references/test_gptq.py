"""GPTQ against optimal brain surgeon written out with an inverse for each column, in float64."""

from __future__ import annotations

import copy

import pytest
import torch

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.models.quantized import Quantized


def data(rows, columns, samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    x = torch.randn(samples, columns, generator=generator, dtype=torch.float64) @ mixing
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64), x


def surgeon(weight, hessian, group, damping):
    """Column by column: round, then the least-squares correction of the rest, from the inverse of what is left of H."""
    weight, columns = weight.clone(), weight.shape[1]
    hessian = hessian + damping * hessian.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    scale = None
    for j in range(columns):
        if j % group == 0:
            scale = (weight[:, j : j + group].abs().amax(1) / 7.5).to(torch.float16).double()
        inverse = torch.linalg.inv(hessian[j:, j:])
        rounded = ((weight[:, j] / scale).round().clamp(-8, 7)) * scale
        error = (weight[:, j] - rounded) / inverse[0, 0]
        weight[:, j:] -= error[:, None] * inverse[0]
        weight[:, j] = rounded
    return weight


@pytest.mark.parametrize("rows, columns, group", [(5, 16, 16), (7, 24, 8), (3, 200, 64), (4, 300, 128)])
def test_equals_optimal_brain_surgeon(rows, columns, group):
    weight, x = data(rows, columns, 4 * columns)
    hessian = x.T @ x
    packed = make_method("quantizer", {"name": "gptq", "group": group}).build().pack(weight.float(), hessian)
    expected = surgeon(weight, hessian, group, 0.01)
    same = (packed.dense().double() - expected).abs() < 1e-3 * expected.abs().max()
    # float32 rounds a number at a tie the other way now and then, and all columns after it differ then
    ties = (~same).any(1).sum()
    assert int(ties) <= rows // 4, packed.dense() - expected


def test_loses_less_than_rounding_to_the_nearest():
    weight, x = data(32, 256, 1024)
    plain = make_method("quantizer", "int4").build().pack(weight.float()).dense().double()
    better = make_method("quantizer", "gptq").build().pack(weight.float(), x.T @ x).dense().double()
    lost = [float(((x @ (w - weight).T) ** 2).sum()) for w in (plain, better)]
    assert lost[1] < 0.6 * lost[0]
    unrelated = make_method("quantizer", "gptq").build().pack(weight.float(), torch.eye(256)).dense().double()
    torch.testing.assert_close(unrelated, plain)  # without correlations there is nothing to correct


def test_a_column_that_is_never_used_is_zero():
    weight, x = data(4, 16, 64)
    x[:, 3] = 0
    packed = make_method("quantizer", "gptq").build().pack(weight.float(), x.T @ x)
    assert bool((packed.dense()[:, 3] == 0).all()) and bool(packed.dense().isfinite().all())


@pytest.mark.parametrize("targets", [("all-linear",), ("all-linear", "lm_head"), ("down_proj",)])
def test_a_model_is_packed_block_by_block(targets):
    """Each block sees what the packed ones before it give, so the model's loss is nearer than with plain rounding."""
    spec = make_method("lm", {"name": "transformer", "dim": 64, "layers": 3, "max_length": 64})
    made = spec.build(vocab_size=96).eval()
    with torch.no_grad():
        for i, p in enumerate(made.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.15 + (p.ndim == 1))
    ids = torch.randint(0, 96, (12, 49), generator=torch.Generator().manual_seed(5))
    batches = [Batch(ids=ids[i : i + 4, :-1], targets=ids[i : i + 4, 1:]) for i in range(0, 12, 4)]
    original = torch.cat([made(b).logits for b in batches])
    apart = {}
    for name in ("int4", "gptq"):
        packed = copy.deepcopy(made)
        quantizer = make_method("quantizer", {"name": name, "group": 32, "targets": targets}).build()
        report = quantizer.apply(packed, batches)
        assert 4 < report.bits <= 4.5 and all(
            isinstance(packed.get_submodule(layer).weight, Quantized) for layer in report.layers
        )
        apart[name] = float(((torch.cat([packed(b).logits for b in batches]) - original) ** 2).mean())
    assert 0 < apart["gptq"] < apart["int4"]
    torch.testing.assert_close(made(batches[0]).logits, original[:4])  # the hooks are gone
    with pytest.raises(SpecError, match="calibration"):
        make_method("quantizer", {"name": "gptq", "targets": targets}).build().apply(copy.deepcopy(made))


def test_padding_does_not_count():
    spec = make_method("lm", {"name": "transformer", "dim": 32, "layers": 1, "max_length": 64})
    made = spec.build(vocab_size=96).eval()
    with torch.no_grad():
        for i, p in enumerate(made.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.15 + (p.ndim == 1))
    rows = [torch.randint(0, 96, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (40, 17, 29)]
    packed = []
    for batches in ([Batch.padded(rows)], [Batch.padded([row]) for row in rows]):
        packed.append(copy.deepcopy(made))
        make_method("quantizer", {"name": "gptq", "group": 32}).build().apply(packed[-1], batches)
    for a, b in zip(*(m.parameters() for m in packed), strict=True):
        if isinstance(a, Quantized):
            torch.testing.assert_close(a.dense(), b.dense())
