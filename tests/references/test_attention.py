"""Attention: the score's three forms against torch's SDPA, head sharing, windows, and every kind of mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from _small_models import block, randomise, tokens, transformer

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.registry import build
from llmanac.core.types import Batch
from llmanac.models import masks
from llmanac.models.scores import scaled_dot
from llmanac.models.scores._compiled import BlockAttention, read_back, read_blocks

FORMS = ("sdpa", "plain", "blocks", "flash")


def qkv(heads=4, kv_heads=2, length=37, dim=16, dtype=torch.float64, batch=3):
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, h, length, dim) for h in (heads, kv_heads, kv_heads)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def batches(length=37):
    """Every kind of mask, with the boolean mask that it stands for, written out."""
    index = torch.arange(length)
    past = index <= index[:, None]
    segments = torch.tensor([[0] * 10 + [1] * (length - 10), [0] * length, [0] * 5 + [1] * 5 + [2] * (length - 10)])
    same = segments[:, :, None] == segments[:, None]
    prefix, lengths = torch.tensor([5, 0, 20]), torch.tensor([length, 11, 30])
    real = (index < lengths[:, None])[:, None]
    own = torch.eye(length, dtype=torch.bool)
    seen = {
        "causal": ({}, past[None]),
        "packed": ({"segments": segments}, past & same),
        "prefix": ({"mask": "prefix", "prefix": prefix}, past | (index < prefix[:, None, None])),
        "bidirectional": ({"mask": "bidirectional"}, torch.ones(1, length, length, dtype=torch.bool)),
        "padded": ({"mask": "bidirectional", "lengths": lengths}, real | own),
        "packed both ways": ({"mask": "bidirectional", "segments": segments}, same),
    }
    return {name: (Batch(ids=tokens(3, length), **extra), mask) for name, (extra, mask) in seen.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("window", [None, 1, 5, 36, 37])
@pytest.mark.parametrize("kind", batches())
def test_every_form_equals_torch(form, kv_heads, window, kind, monkeypatch):
    for name in ("BLOCK", "TILE"):
        monkeypatch.setattr(scaled_dot, name, 8)  # several blocks, the last one short
    q, k, v = qkv(kv_heads=kv_heads)
    batch, mask = batches()[kind]
    index = torch.arange(q.shape[2])
    if window is not None:
        mask = mask & ((index[:, None] - index).abs() < window)
    repeated = [x.repeat_interleave(4 // kv_heads, dim=1) for x in (k, v)]
    expected = F.scaled_dot_product_attention(q, *repeated, attn_mask=mask[:, None])
    score = build("score", "scaled-dot", heads=4, head_dim=16)
    actual = score.attend(q, k, v, masks.of_batch(batch).within(window), form=form)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    above = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad((actual * above).sum(), (q, k, v)),
        torch.autograd.grad((expected * above).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_a_bias_is_added_to_the_scores(form):
    q, k, v = qkv(kv_heads=4)
    bias = torch.randn(1, 4, 37, 37, dtype=torch.float64)
    batch, mask = batches()["causal"]
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.masked_fill(~mask[:, None], -float("inf")))
    score = build("score", "scaled-dot", heads=4, head_dim=16)
    actual = score.attend(q, k, v, masks.of_batch(batch), bias=bias, form=form)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [True, False])
def test_one_query_over_shared_keys_equals_torch(masked, kv_heads, bias):
    q, k, v = qkv(kv_heads=kv_heads)
    q, v = q[:, :, -1:], v[..., :12]  # values of another width, as latent attention has
    added = torch.randn(3, 4, 1, 37, dtype=torch.float64) if bias else None
    queries = torch.tensor([[36], [20], [3]]) if masked else torch.tensor([[36]])
    mask = masks.AttentionMask(
        masks.MaskRule(kind="causal"), queries, torch.arange(37)[None], causal=False, mask=masked
    )  # fmt: skip
    seen = torch.zeros(len(queries), 1, 1, 37, dtype=torch.float64)
    seen.masked_fill_((torch.arange(37) > queries)[:, None, None], float("-inf"))
    expected = F.scaled_dot_product_attention(
        q, *(x.repeat_interleave(4 // kv_heads, dim=1) for x in (k, v)), attn_mask=seen + (added if bias else 0)
    )
    actual = build("score", "scaled-dot", heads=4, head_dim=16).attend(q, k, v, mask, bias=added, form="sdpa")
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mask", [True, False])
def test_blocks_gradcheck(mask):
    q, k, v = qkv(heads=2, kv_heads=1, length=5, dim=3, batch=1)
    index = torch.arange(5)
    additive = torch.zeros(1, 1, 5, 5, dtype=torch.float64).masked_fill_(index > index[:, None], -float("inf"))
    additive[..., 3, 1] = -float("inf")
    assert torch.autograd.gradcheck(
        lambda *x: BlockAttention.apply(*x, additive if mask else None, (True, None), 0.5, 2), (q, k, v)
    )


@pytest.mark.parametrize("looped", [True, False])
def test_weights_of_blocks_that_are_made_again_are_those_that_were_kept(looped):
    q, k, v = (x.detach() for x in qkv(heads=4, kv_heads=2, length=40, dim=16, batch=3))
    above, first = torch.randn_like(q), torch.zeros(1, 40, dtype=torch.long)
    rest = (True, None), 0.25, 8, ((first, torch.arange(1, 41)[None]) if looped else None)
    out, kept = read_blocks(q, k, v, None, *rest)
    again, few = read_blocks(q, k, v, None, *rest, keep=False)
    assert torch.equal(out, again) and len(few) == 3 * 4 * 8 * 40 < len(kept) / 2
    made, expected = read_back(above, q, k, v, None, *rest), read_back(above, q, k, v, kept, *rest)
    assert all(torch.equal(a, b) and a.abs().sum() > 0 for a, b in zip(made, expected, strict=True))


@pytest.mark.parametrize(("length", "kept"), [(32, False), (512, True)])
def test_blocks_keep_their_weights_where_making_them_again_is_much_work(length, kept):
    """A query of 512 sees more keys than the layer is wide (2 heads of 16)."""
    q, k, v = (x.detach().float().requires_grad_() for x in qkv(heads=2, kv_heads=2, length=length, dim=16, batch=1))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        BlockAttention.apply(q, k, v, None, (True, None), 0.25, 32).sum().backward()
    assert (max(saved) > q.numel()) == kept and q.grad.abs().sum() > 0


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_is_near_float64(form):
    q, k, v = qkv()
    batch, mask = batches()["causal"]
    exact = F.scaled_dot_product_attention(q, *(x.repeat_interleave(2, 1) for x in (k, v)), attn_mask=mask[:, None])
    low = [x.detach().bfloat16().requires_grad_() for x in (q, k, v)]
    score = build("score", "scaled-dot", heads=4, head_dim=16)
    actual = score.attend(*low, masks.of_batch(batch), form=form)
    assert actual.dtype == torch.bfloat16
    assert (actual.double() - exact).norm() < 0.01 * exact.norm()
    above = torch.randn_like(exact)
    (actual * above.bfloat16()).sum().backward()
    for a, b in zip(low, torch.autograd.grad((exact * above).sum(), (q, k, v)), strict=True):
        assert (a.grad.double() - b).norm() < 0.03 * b.norm()


def test_scores_keep_their_scale_at_every_width():
    """Unit queries and keys give scores of variance 1 whatever the head's size; unscaled ones grow with it."""
    for dim in (4, 64, 1024):
        q, k, _ = qkv(heads=4, kv_heads=4, length=64, dim=dim)
        scores = (q * build("score", "scaled-dot", heads=4, head_dim=dim).scale) @ k.transpose(-1, -2)
        assert scores.std().item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("form", FORMS)
def test_forms_agree_in_a_model(form):
    """Packed, grouped and windowed at once: logits and gradients of every parameter."""
    mixer = {"name": "grouped-query", "window": 6}
    model, ids = transformer(blocks=block(mixer)), tokens(2, 30)
    batch = Batch(
        ids=ids, targets=ids.roll(-1, 1), segments=(torch.arange(30) >= 11).long().expand(2, -1), positions=None
    )
    expected = torch.autograd.grad(model.nll(batch), list(model.parameters()))
    model.attention_form = form
    for a, b in zip(torch.autograd.grad(model.nll(batch), list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_grouped_query_is_multi_head_with_repeated_heads():
    grouped, full = transformer(blocks=block("grouped-query")), transformer(blocks=block("multi-head"))
    state = grouped.state_dict()
    for name, value in state.items():
        if "k_proj" in name or "v_proj" in name:
            heads = value.view(2, 8, 32)
            state[name] = heads.repeat_interleave(2, dim=0).reshape(32, 32)
    full.load_state_dict(state)
    ids = tokens(2, 20)
    torch.testing.assert_close(grouped(ids).logits, full(ids).logits, rtol=1e-10, atol=1e-10)
    assert grouped.start(1).layers[0].tensors[0].shape[1] == 2 and full.start(1).layers[0].tensors[0].shape[1] == 4


@pytest.mark.parametrize("mixer, heads", [("multi-head", 4), ("grouped-query", 2), ("multi-query", 1)])
def test_cache_bytes_follow_key_value_heads(mixer, heads):
    model = transformer(blocks=block(mixer))
    state = model.start(3)
    model(tokens(3, 16), state)
    assert (
        state.nbytes == 2 * 2 * 3 * heads * 16 * 8 * 8
    )  # layers, keys and values, rows, heads, tokens, head_dim, bytes


def test_a_window_hides_what_is_further_away():
    model = transformer(layers=1, blocks=block({"name": "sliding-window", "window": 4}), position="none")
    ids = tokens(1, 12)
    other = ids.clone()
    other[0, 5] = (other[0, 5] + 1) % 61
    changed = (model(ids).logits - model(other).logits).abs().amax(-1)[0] > 1e-9
    assert changed.nonzero().flatten().tolist() == [5, 6, 7, 8]


def test_heads_alone_are_normed_after_they_are_turned():
    """Hunyuan's order gives other numbers, and has no form for all heads as one vector."""
    mixer = {"name": "multi-head", "qk_norm": "rmsnorm"}
    ids = tokens(1, 12)
    before = transformer(blocks=block(mixer))(ids).logits
    assert (transformer(blocks=block({**mixer, "qk_norm_at": "after"}))(ids).logits - before).abs().max() > 1e-3
    with pytest.raises(SpecError, match="qk_norm_at: after goes with qk_norm_over = head, not all-heads"):
        transformer(blocks=block({**mixer, "qk_norm_at": "after", "qk_norm_over": "all-heads"}))


@pytest.mark.parametrize("over", ["head", "all-heads"])
def test_normed_queries_and_keys(over):
    mixer = {"name": "multi-head", "qk_norm": "rmsnorm", "qk_norm_over": over}
    plain, normed = transformer(), transformer(blocks=block(mixer))
    assert set(normed.state_dict()) - set(plain.state_dict()) == {
        f"model.layers.{i}.self_attn.{x}_norm.weight" for i in range(2) for x in "qk"
    }
    ids, logits = tokens(2, 9), {}
    for rows in (8, 32):  # one head of four, all of them
        larger = transformer(blocks=block(mixer))
        with torch.no_grad():
            for name, parameter in larger.named_parameters():
                if "q_proj" in name:
                    parameter[:rows].mul_(100)  # only the direction of what is normed counts
        logits[rows] = larger(ids).logits
    torch.testing.assert_close(logits[32], normed(ids).logits, rtol=1e-3, atol=1e-3)
    assert ((logits[8] - normed(ids).logits).abs().max() < 1e-2) == (over == "head")
    assert (plain(ids).logits - normed(ids).logits).abs().max() > 0.01


@pytest.mark.parametrize("biases, count", [("none", 0), ("qkv", 3), ("all", 4)])
def test_biases_by_name(biases, count):
    mixer = randomise(build("mixer", "multi-head", dim=16, biases=biases))
    assert sum(name.endswith("bias") for name, _ in mixer.named_parameters()) == count


def test_errors_name_the_field():
    with pytest.raises(SpecError, match="kv_heads: 3 must divide heads, 4"):
        build("mixer", "softmax", dim=16, heads=4, kv_heads=3)
    with pytest.raises(SpecError, match="heads: 5 must divide dim, 16; or set head_dim"):
        build("mixer", "softmax", dim=16, heads=5)
    with pytest.raises(SpecError, match="window: 0 must be at least 1"):
        build("mixer", "sliding-window", dim=16, window=0)
    model = transformer()
    with pytest.raises(SpecError, match="attention: 'flesh' is not one of sdpa, plain, blocks, flash"):
        model.attention_form = "flesh"
    with pytest.raises(RequestError, match="needs the prefix length"):
        model(Batch(ids=tokens(1, 3), mask="prefix"))


@pytest.mark.parametrize("form", FORMS)
def test_sliding_window_equals_mistral(form):
    """Grouped heads, rotary positions and a window of 6, at 40 tokens: longer than what is read as one piece."""
    mistral = pytest.importorskip("transformers.models.mistral.modeling_mistral")
    from transformers.masking_utils import create_sliding_window_causal_mask

    config = mistral.MistralConfig(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=6,
        attn_implementation="eager", max_position_embeddings=64,
    )  # fmt: skip
    theirs = randomise(mistral.MistralAttention(config, 0)).double().eval()
    mixer = {"name": "grouped-query", "window": 6}
    model = transformer(layers=1, blocks=block(mixer))
    model.attention_form = form
    ours = model.model.layers[0].self_attn
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 40, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    positions = torch.arange(40)[None]
    seen = create_sliding_window_causal_mask(
        config=config, inputs_embeds=x, attention_mask=None, past_key_values=None, position_ids=positions
    )  # fmt: skip
    expected, weights = theirs(x, mistral.MistralRotaryEmbedding(config)(x, positions), attention_mask=seen)
    assert ((weights > 0).sum(-1) <= 6).all()
    _, context = model._enter(Batch(embeddings=x), None)
    actual = ours(x, context)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)  # their softmax is float32
    found, wanted = (torch.autograd.grad(y.square().sum(), x)[0] for y in (actual, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    full = transformer(layers=1, blocks=block("grouped-query")).model.layers[0].self_attn
    full.load_state_dict(theirs.state_dict())
    assert (full(x, context) - actual).abs().max() > 0.01
