"""Sparse patterns: Longformer in transformers, dense attention with the mask written out, and decoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from _small_models import block, randomise, tokens, transformer
from _traces import peak_bytes, slope

from llmanac.core.errors import SpecError
from llmanac.core.registry import build
from llmanac.core.types import Batch
from llmanac.models import masks
from llmanac.models.mixers import sparse

SMALL = {"name": "sparse", "window": 5, "global_tokens": 3, "random_blocks": 2, "block": 4}


def written_out(length, window, global_tokens, random_blocks, block, seed=0):
    """(T, T) bool, place by place."""
    drawn = sparse.SparsePattern(
        sparse.Spec(window=window, global_tokens=global_tokens, random_blocks=random_blocks, block=block, seed=seed)
    ).drawn(-(-length // block))
    seen = np.zeros((length, length), bool)
    for q in range(length):
        for k in range(length):
            near = abs(q - k) < window or q < global_tokens or k < global_tokens
            seen[q, k] = near or k // block in drawn[q // block] or q // block in drawn[k // block]
    return torch.from_numpy(seen)


def qkv(length, heads=4, kv_heads=2, dim=8, batch=2):
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, h, length, dim) for h in (heads, kv_heads, kv_heads)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


KINDS = {
    "causal": {},
    "bidirectional": {"mask": "bidirectional"},
    "prefix": {"mask": "prefix", "prefix": torch.tensor([7, 20])},
    "padded": {"mask": "bidirectional", "lengths": torch.tensor([50, 31])},
}


@pytest.mark.parametrize("form", ["sdpa", "plain"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window, global_tokens, random_blocks, size", [(5, 3, 2, 4), (1, 0, 3, 8), (9, 17, 0, 4)])
def test_equals_dense_attention_with_the_same_mask(form, kind, window, global_tokens, random_blocks, size, monkeypatch):
    monkeypatch.setattr(sparse, "TILE", 8)
    length = 50
    q, k, v = qkv(length)
    spec = sparse.Spec(window=window, global_tokens=global_tokens, random_blocks=random_blocks, block=size)
    score = sparse.SparseScore(4, 8, sparse.SparsePattern(spec))
    mask = masks.of_batch(Batch(ids=tokens(2, length), **KINDS[kind]))
    pattern = written_out(length, window, global_tokens, random_blocks, size)
    seen = mask.boolean() & pattern
    assert 0.2 < pattern.double().mean() < 0.95
    repeated = [x.repeat_interleave(2, dim=1) for x in (k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(q, *repeated, attn_mask=seen)
    actual = score.attend(q, k, v, mask, form=form)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    above = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad((actual * above).sum(), (q, k, v)),
        torch.autograd.grad((expected * above).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_window_and_global_tokens_equal_longformer():
    """A window of 4 on each side and two global tokens, with one set of projections for both kinds of token."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    config = transformers.LongformerConfig(
        hidden_size=32, num_attention_heads=4, attention_window=[8], attention_probs_dropout_prob=0.0
    )
    theirs = randomise(LongformerSelfAttention(config, 0)).double().eval()
    mixer = {"name": "longformer", "window": 5, "global_tokens": 2}
    ours = randomise(build("mixer", "longformer", dim=32, window=5, global_tokens=2)).double()
    with torch.no_grad():
        for name in ("query", "key", "value"):
            for whole in ("", "_global"):
                layer = getattr(theirs, name + whole)
                layer.weight.copy_(getattr(ours, f"{name[0]}_proj").weight)
                layer.bias.zero_()
        ours.o_proj.weight.copy_(torch.eye(32))
    x = torch.randn(2, 24, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    kinds = torch.zeros(2, 24, dtype=torch.float64)
    kinds[:, :2] = 10000.0  # the library's sign of a global token
    expected = theirs(
        x, attention_mask=kinds, is_index_masked=kinds < 0, is_index_global_attn=kinds > 0, is_global_attn=True
    )[0]  # fmt: skip
    model = transformer(layers=1, blocks=block(mixer), position="none")
    batch = Batch(embeddings=x, mask="bidirectional")
    _, context = model._enter(batch, None)
    actual = ours(x, context)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)  # their softmax is float32
    torch.testing.assert_close(
        torch.autograd.grad(actual.sum(), x)[0], torch.autograd.grad(expected.sum(), x)[0], rtol=1e-5, atol=1e-6
    )
    dense = randomise(build("mixer", "multi-head", dim=32)).double()
    dense.load_state_dict(ours.state_dict())
    assert (dense(x, context) - actual).abs().max() > 0.01


def test_decoding_and_packing_equal_a_pass_over_each_document(monkeypatch):
    monkeypatch.setattr(sparse, "TILE", 8)
    model, ids = transformer(blocks=block(SMALL)), tokens(2, 50)
    with torch.inference_mode():
        full = model(ids).logits
        for chunks in [(50,), (20, 1, 29), (1,) * 50, (49, 1)]:
            state = model.start(2)
            parts = [model(part, state).logits for part in ids.split(chunks, dim=1)]
            torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=1e-10)
        for kind in ("causal", "bidirectional"):
            row = torch.cat([ids[:1, :31], ids[1:, :19]], 1)
            segments = (torch.arange(50) >= 31).long()[None]
            positions = torch.cat([torch.arange(31), torch.arange(19)])[None]
            packed = model(Batch(ids=row, segments=segments, positions=positions, mask=kind)).logits
            for part, document in ((packed[:, :31], ids[:1, :31]), (packed[:, 31:], ids[1:, :19])):
                alone = model(Batch(ids=document, mask=kind)).logits
                torch.testing.assert_close(part, alone, rtol=0, atol=1e-10)
        dense = transformer(blocks=block("multi-head"))
        dense.load_state_dict(model.state_dict())
        assert (dense(ids).logits - full).abs().max() > 0.01


def test_padding_changes_nothing():
    model, ids = transformer(blocks=block(SMALL)), tokens(1, 60)
    alone = model(Batch(ids=ids[:, :37], mask="bidirectional")).logits
    padded = model(Batch(ids=ids, lengths=torch.tensor([37]), mask="bidirectional")).logits
    torch.testing.assert_close(padded[:, :37], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["causal", "bidirectional"])
def test_memory_and_products_grow_with_the_length(kind):
    from torch.utils.flop_counter import FlopCounterMode

    spec = sparse.Spec(window=64, global_tokens=4, random_blocks=1, block=32)
    score = sparse.SparseScore(2, 16, sparse.SparsePattern(spec))
    lengths = [2048, 4096, 8192]
    memory, products = [], []
    for length in lengths:
        inputs = [torch.randn(1, 2, length, 16).requires_grad_() for _ in range(3)]
        mask = masks.of_batch(Batch(ids=torch.zeros(1, length, dtype=torch.long), mask=kind))

        def both(inputs=inputs, mask=mask):
            return torch.autograd.grad(score.attend(*inputs, mask, form="sdpa").sum(), inputs)

        memory.append(peak_bytes(both))
        with FlopCounterMode(display=False) as counter:
            both()
        products.append(counter.get_total_flops())
    assert slope(lengths, memory) < 1.1  # a tile's own memory does not grow
    assert slope(lengths, products) < 1.1


def test_draws_depend_on_the_seed_alone_and_are_spread():
    first, other = (sparse.SparsePattern(sparse.Spec(random_blocks=2, seed=seed)) for seed in (0, 1))
    a = first.drawn(2000)
    np.testing.assert_array_equal(a[:10], sparse.SparsePattern(sparse.Spec(random_blocks=2)).drawn(10))
    assert (a != other.drawn(2000)).mean() > 0.9
    place = np.arange(2000)[:, None]
    assert ((a < place) | (place == 0)).all()
    assert abs((a[1000:] / place[1000:]).mean() - 0.5) < 0.03


def test_errors_name_the_field():
    for field, value in (("window", 0), ("block", 0), ("random_blocks", -1), ("heads", 0)):
        with pytest.raises(SpecError, match=field):
            build("mixer", "sparse", dim=16, **{field: value})
