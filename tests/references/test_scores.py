"""Scores other than the scaled dot product: formulas written out, torch.nn.Bilinear, Gemma 2's cap, gpt-oss' sinks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from _small_models import block, randomise, tokens, transformer
from _traces import peak_bytes
from test_attention import FORMS, batches, qkv

from llmanac.core.errors import SpecError
from llmanac.core.registry import build
from llmanac.core.types import Batch
from llmanac.kernels.nn import additive
from llmanac.models import masks
from llmanac.models.scores import scaled_dot

NAMES = ("additive", "bilinear", "dot", "soft-capped", "with-sinks")


def made(name, **fields):
    fields = {"softcap": 1.5} | fields if name == "soft-capped" else fields
    return randomise(build("score", name, heads=4, head_dim=16, **fields)).double()


def scores_of(score, name, q, k):
    """(B, H, T, S) from the formula; keys of as many heads as queries."""
    if name == "additive":
        inside = torch.einsum("bhtd,hnd->bhtn", q, score.query)[:, :, :, None]
        inside = inside + torch.einsum("bhsd,hnd->bhsn", k, score.key)[:, :, None]
        return torch.einsum("bhtsn,hn->bhts", inside.tanh(), score.value)
    if name == "bilinear":
        return torch.einsum("bhtd,hde,bhse->bhts", q, score.weight, k)
    dots = torch.einsum("bhtd,bhsd->bhts", q, k)
    if name == "dot":
        return dots
    dots = dots / 16**0.5
    return 1.5 * torch.tanh(dots / 1.5) if name == "soft-capped" else dots


def read(score, scores, v, seen):
    """Softmax over what is seen, with the sinks of a score that has some."""
    scores = scores.masked_fill(~seen, -float("inf"))
    sinks = getattr(score, "sinks", None)
    if sinks is not None:
        scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(len(scores), -1, scores.shape[2], 1)], -1)
    return scores.softmax(-1)[..., : v.shape[2]] @ v


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "kv_heads, kind, window", [(4, "causal", None), (2, "packed", 5), (1, "padded", None), (2, "causal", 6)]
)
@pytest.mark.parametrize("name", NAMES)
def test_every_form_equals_the_formula(name, form, kv_heads, kind, window, monkeypatch):
    for size in ("BLOCK", "TILE"):
        monkeypatch.setattr(scaled_dot, size, 8)
    q, k, v = qkv(kv_heads=kv_heads)
    score = made(name)
    batch, seen = batches()[kind]
    if window is not None:
        steps = torch.arange(q.shape[2])
        seen = seen & ((steps[:, None] - steps).abs() < window)
    wide = [x.repeat_interleave(4 // kv_heads, dim=1) for x in (k, v)]
    expected = read(score, scores_of(score, name, q, wide[0]), wide[1], seen[:, None])
    actual = score.attend(q, k, v, masks.of_batch(batch).within(window), form=form)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    above = torch.randn_like(expected)
    inputs = [q, k, v, *score.parameters()]
    for a, b in zip(
        torch.autograd.grad((actual * above).sum(), inputs),
        torch.autograd.grad((expected * above).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    usual = build("score", "scaled-dot", heads=4, head_dim=16).attend(q, k, v, masks.of_batch(batch).within(window))
    assert (usual - actual).abs().max() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_a_bias_is_added(name):
    q, k, v = qkv(kv_heads=4)
    score, (batch, seen) = made(name), batches()["causal"]
    bias = torch.randn(1, 4, 37, 37, dtype=torch.float64)
    expected = read(score, scores_of(score, name, q, k) + bias, v, seen[:, None])
    for form in FORMS:
        actual = score.attend(q, k, v, masks.of_batch(batch), bias=bias, form=form)
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_bilinear_equals_torch_and_the_dot_product_for_the_identity():
    q, k, v = qkv(kv_heads=4)
    score = made("bilinear")
    theirs = torch.nn.Bilinear(16, 16, 4, bias=False).double()
    with torch.no_grad():
        theirs.weight.copy_(score.weight)
    pairs = [x.unsqueeze(axis).expand(-1, -1, 37, 37, -1).contiguous() for x, axis in ((q, 3), (k, 2))]
    expected = torch.stack([theirs(*(x[:, h] for x in pairs))[..., h] for h in range(4)], dim=1)
    batch, seen = batches()["causal"]
    expected = F.softmax(expected.masked_fill(~seen[:, None], -float("inf")), -1) @ v
    mask = masks.of_batch(batch)
    torch.testing.assert_close(score.attend(q, k, v, mask), expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        score.weight.copy_(torch.eye(16))
    torch.testing.assert_close(score.attend(q, k, v, mask), made("dot").attend(q, k, v, mask), rtol=1e-10, atol=1e-10)


def test_dot_equals_sdpa_with_scale_one():
    q, k, v = qkv(kv_heads=4)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    actual = made("dot").attend(q, k, v, masks.of_batch(batches()["causal"][0]), form="flash")
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
def test_additive_gradcheck_and_hand_case(chunk, monkeypatch):
    monkeypatch.setattr(additive, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 2, 5, 3), (2, 2, 4, 3), (2, 3)]
    inputs = [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]
    assert torch.autograd.gradcheck(additive.additive_scores, inputs)
    one = [torch.tensor(x, dtype=torch.float64).view(1, 1, 1, 2) for x in ([0.5, -1.0], [0.25, 2.0])]
    found = additive.additive_scores(*one, torch.tensor([[2.0, -3.0]], dtype=torch.float64))
    assert found.item() == pytest.approx(2 * torch.tensor(0.75).tanh().item() - 3 * torch.tensor(1.0).tanh().item())


def test_additive_never_holds_the_inside_of_the_tanh(monkeypatch):
    monkeypatch.setattr(additive, "CHUNK", 1 << 16)
    inputs = [torch.randn(s).requires_grad_() for s in ((1, 4, 256, 32), (1, 4, 256, 32), (4, 32))]

    def both():
        return torch.autograd.grad(additive.additive_scores(*inputs).sum(), inputs)

    whole = 4 * 256 * 256 * 32 * 4
    assert peak_bytes(both) < whole / 8


def test_hidden_size_of_the_additive_score():
    assert made("additive", hidden=5).value.shape == (4, 5)
    with pytest.raises(SpecError, match="hidden: 0 must be at least 1"):
        made("additive", hidden=0)
    for name in ("softcap", "scale"):
        with pytest.raises(SpecError, match=rf"{name}: 0\.0 must be above 0"):
            build("score", "scaled-dot", heads=4, head_dim=16, **{name: 0.0})


def test_wide_unscaled_products_saturate():
    """At head size 1024 the unscaled softmax has little entropy left and passes little gradient; the scaled one keeps
    both."""
    entropy, slope = {}, {}
    for name in ("dot", "scaled-dot"):
        q, k, _ = qkv(kv_heads=4, dim=1024)
        score = build("score", name, heads=4, head_dim=1024)
        weights = (q * score.scale @ k.transpose(-1, -2)).softmax(-1)
        entropy[name] = -(weights * weights.clamp(min=1e-300).log()).sum(-1).mean().item()
        slope[name] = (weights * (1 - weights)).mean().item()
    assert entropy["dot"] < 0.1 * entropy["scaled-dot"] and slope["dot"] < 0.1 * slope["scaled-dot"]


@pytest.mark.parametrize("form", FORMS)
def test_capped_attention_equals_gemma_2(form):
    gemma = pytest.importorskip("transformers.models.gemma2.modeling_gemma2")
    q, k, v = (x.detach() for x in qkv(kv_heads=2))
    batch, seen = batches()["causal"]
    additive_mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -float("inf"))[:, None]
    module = torch.nn.Module().eval()
    module.num_key_value_groups = 2
    expected, _ = gemma.eager_attention_forward(module, q, k, v, additive_mask, scaling=0.25, softcap=1.5)
    actual = made("soft-capped").attend(q, k, v, masks.of_batch(batch), form=form)
    torch.testing.assert_close(actual.transpose(1, 2), expected, rtol=1e-6, atol=1e-6)  # their softmax is float32


@pytest.mark.parametrize("form", FORMS)
def test_sinks_equal_gpt_oss(form):
    oss = pytest.importorskip("transformers.models.gpt_oss.modeling_gpt_oss")
    q, k, v = (x.detach() for x in qkv(kv_heads=2))
    batch, seen = batches()["causal"]
    additive_mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -float("inf"))[:, None]
    additive_mask = additive_mask.expand(3, -1, -1, -1)
    score, module = made("with-sinks"), torch.nn.Module().eval()
    module.num_key_value_groups, module.sinks = 2, score.sinks
    expected, _ = oss.eager_attention_forward(module, q, k, v, additive_mask, scaling=0.25)
    actual = score.attend(q, k, v, masks.of_batch(batch), form=form)
    torch.testing.assert_close(actual.transpose(1, 2), expected, rtol=1e-6, atol=1e-6)


def test_sinks_in_a_windowed_model_decode_as_they_train():
    mixer = {"name": "sliding-window", "window": 6, "score": {"name": "with-sinks", "softcap": 2.0}}
    model, ids = transformer(blocks=block(mixer)), tokens(2, 40)
    with torch.inference_mode():
        full = model(ids).logits
        for chunks in [(40,), (1,) * 40, (17, 23), (30, 1, 9)]:
            state = model.start(2)
            parts = [model(part, state).logits for part in ids.split(chunks, dim=1)]
            torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=1e-10)
    model.attention_form = "plain"
    torch.testing.assert_close(model(Batch(ids=ids)).logits, full, rtol=0, atol=1e-10)
