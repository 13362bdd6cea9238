"""Attention by tiles: torch's SDPA, gradcheck, what is skipped, and memory that grows with the length."""

from __future__ import annotations

import pytest
import torch
from _small_models import tokens
from _traces import peak_bytes, slope
from test_attention import batches, qkv
from torch.utils.flop_counter import FlopCounterMode

from llmanac.core.registry import build
from llmanac.core.types import Batch
from llmanac.kernels.nn.flash import flash_attention
from llmanac.models import masks
from llmanac.models._tiles import Tiles


@pytest.mark.parametrize("rows, columns", [(8, 8), (5, 16), (16, 5), (64, 64)])
@pytest.mark.parametrize("kind", batches())
@pytest.mark.parametrize("window", [None, 1, 7])
def test_tiles_hold_the_mask(rows, columns, kind, window):
    """Put together, tiles are the mask; what is left out is hidden, what has no mask is seen."""
    batch, _ = batches()[kind]
    mask = masks.of_batch(batch).within(window)
    found = torch.zeros(3, 1, 37, 37, dtype=torch.bool)
    for part, tiles in Tiles(mask, rows, columns):
        for keys, seen in tiles:
            found[:, :, part, keys] = True if seen is None else seen
    torch.testing.assert_close(found, mask.boolean().expand(3, -1, -1, -1))


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("sinks", [False, True])
def test_gradcheck(softcap, sinks):
    q, k, v = qkv(heads=2, kv_heads=1, length=7, dim=3, batch=2)
    logits = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)
    mask = masks.of_batch(Batch(ids=tokens(2, 7))).within(4)

    def run(q, k, v, logits):
        return flash_attention(
            q, k, v, Tiles(mask, 3, 2), scale=0.5, softcap=softcap, sinks=logits if sinks else None
        )  # fmt: skip

    given = [q, k, v, logits] if sinks else [q, k, v, logits.detach()]
    assert torch.autograd.gradcheck(run, given)


def test_values_may_have_another_width_and_unseen_rows_read_nothing():
    q, k, v = qkv(kv_heads=4, dim=6)
    v = torch.cat([v, v[..., :3]], dim=-1).detach().requires_grad_()
    steps = torch.arange(37)
    seen = steps < steps[:, None]  # the first query sees no key
    out = flash_attention(q, k, v, [(slice(0, 37), [(slice(0, 37), seen[None, None])])], scale=1.0)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1.0)
    torch.testing.assert_close(out[:, :, 1:], expected[:, :, 1:], rtol=1e-10, atol=1e-10)
    assert (out[:, :, 0] == 0).all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), (q, k, v)))


def cost(length, window, kind="causal", form="flash", segments=None):
    """Peak bytes and matrix-product FLOPs of a forward and a backward pass."""
    inputs = [torch.randn(1, 2, length, 16).requires_grad_() for _ in range(3)]
    score = build("score", "scaled-dot", heads=2, head_dim=16)
    batch = Batch(ids=torch.zeros(1, length, dtype=torch.long), mask=kind, segments=segments)

    def both():
        mask = masks.of_batch(batch).within(window)
        return torch.autograd.grad(score.attend(*inputs, mask, form=form).sum(), inputs)

    held = peak_bytes(both)
    with FlopCounterMode(display=False) as counter:
        both()
    return held, counter.get_total_flops()


LENGTHS = [2048, 4096, 8192]


@pytest.mark.slow
def test_full_attention_has_linear_memory_and_quadratic_work():
    memory, products = zip(*(cost(n, None) for n in LENGTHS), strict=True)
    assert slope(LENGTHS, memory) < 1.1
    growth = (memory[2] - memory[1]) / (memory[1] - memory[0])
    assert abs(growth - 2) < 0.2  # what grows doubles with the length
    assert abs(slope(LENGTHS, products) - 2) < 0.1
    assert memory[0] < 0.5 * cost(LENGTHS[0], None, form="plain")[0]


@pytest.mark.parametrize("form", ["sdpa", "blocks", "flash"])
@pytest.mark.parametrize("kind", ["causal", "bidirectional"])
def test_a_window_has_linear_memory_and_work(form, kind):
    memory, products = zip(*(cost(n, 256, kind, form) for n in LENGTHS), strict=True)
    assert slope(LENGTHS, memory) < 1.1
    assert abs(slope(LENGTHS, products) - 1) < 0.1


def test_packed_documents_are_skipped():
    segments = (torch.arange(2048) // 256)[None]
    assert cost(2048, None, segments=segments)[1] < 0.3 * cost(2048, None)[1]


def test_a_source_is_read_by_tiles():
    """Cross-attention: other lengths of queries and keys, padding in the source, and a row without one."""
    q, _, _ = qkv(length=300)
    _, k, v = qkv(length=520)
    real = torch.arange(520) < torch.tensor([520, 7, 0])[:, None]
    mask = masks.AttentionMask.of_source(real, 300)
    score = build("score", "scaled-dot", heads=4, head_dim=16)
    found, expected = (score.attend(q, k, v, mask, form=form) for form in ("flash", "plain"))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_bfloat16_is_near_float64_over_many_tiles():
    q, k, v = qkv(length=700)
    mask = masks.of_batch(Batch(ids=tokens(3, 700)))
    score = build("score", "scaled-dot", heads=4, head_dim=16)
    low = [x.detach().bfloat16().requires_grad_() for x in (q, k, v)]
    exact, found = score.attend(q, k, v, mask), score.attend(*low, mask, form="flash")
    assert found.dtype == torch.bfloat16 and (found.double() - exact).norm() < 0.01 * exact.norm()
    above = torch.randn_like(exact)
    slopes = torch.autograd.grad((exact * above).sum(), (q, k, v))
    for a, b in zip(torch.autograd.grad((found * above.bfloat16()).sum(), low), slopes, strict=True):
        assert a.dtype == torch.bfloat16 and (a.double() - b).norm() < 0.03 * b.norm()
