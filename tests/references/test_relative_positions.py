"""Positions that act on scores: T5's buckets, ALiBi (BLOOM, MPT) and Transformer-XL's form (XLNet) in transformers."""

from __future__ import annotations

import pytest
import torch
from _small_models import block, gradients, randomise, shifted, tokens, transformer
from transformers import T5Config, XLNetConfig, XLNetModel
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.registry import build
from llmanac.core.types import Batch
from llmanac.models.positions.alibi import slopes

HEADS, SIZE = 4, 8
DIM = HEADS * SIZE
SHAPE = {"dim": DIM, "heads": HEADS, "head_dim": SIZE, "max_length": 64}
RELATIVE = ("t5", "alibi", "relative")


def t5_attention(directions, buckets=32, max_distance=128):
    config = T5Config(
        d_model=DIM, d_kv=SIZE, num_heads=HEADS, dropout_rate=0.0, is_decoder=directions == "past",
        relative_attention_num_buckets=buckets, relative_attention_max_distance=max_distance,
        attn_implementation="eager",
    )  # fmt: skip
    return randomise(T5Attention(config, has_relative_attention_bias=True, layer_idx=0)).double().eval()


@pytest.mark.parametrize("directions", ["past", "both"])
@pytest.mark.parametrize("buckets, max_distance", [(32, 128), (16, 40), (8, 200)])
def test_t5_bias_equals_transformers(directions, buckets, max_distance):
    theirs = t5_attention(directions, buckets, max_distance)
    ours = build("position", "t5", buckets=buckets, max_distance=max_distance, directions=directions, **SHAPE).double()
    ours.load_state_dict({"relative_attention_bias.weight": theirs.relative_attention_bias.weight})
    expected = theirs.compute_bias(300, 300)
    places = torch.arange(300)[None]
    found = ours.bias(places, places)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(ours.bias(places[:, 250:], places), theirs.compute_bias(50, 300, past_seen_tokens=250))
    above = torch.randn_like(found)
    a, b = ((x * above).sum() for x in (found, expected))
    torch.testing.assert_close(
        torch.autograd.grad(a, ours.relative_attention_bias.weight)[0],
        torch.autograd.grad(b, theirs.relative_attention_bias.weight)[0],
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("directions", ["past", "both"])
def test_t5_attention_equals_transformers(directions):
    """A layer with its bias; T5 does not scale its scores, so its queries are larger by sqrt(d)."""
    theirs = t5_attention(directions)
    model = transformer(layers=1, blocks=block("multi-head"), position={"name": "t5", "directions": directions})
    layer = model.model.layers[0].self_attn
    with torch.no_grad():
        layer.q_proj.weight.copy_(theirs.q.weight * SIZE**0.5)
        for own, other in ((layer.k_proj, theirs.k), (layer.v_proj, theirs.v), (layer.o_proj, theirs.o)):
            own.weight.copy_(other.weight)
        model.model.position.relative_attention_bias.weight.copy_(theirs.relative_attention_bias.weight)
    x = torch.randn(2, 40, DIM, dtype=torch.float64)
    kind = "causal" if directions == "past" else "bidirectional"
    _, context = model._enter(Batch(embeddings=x, mask=kind), None)
    ours = layer(x, context)
    seen = torch.ones(40, 40, dtype=torch.bool)
    bias = torch.zeros(1, 1, 40, 40, dtype=torch.float64)
    if directions == "past":
        bias = bias.masked_fill(~seen.tril(), float("-inf"))
    bias = theirs.compute_bias(40, 40) + bias
    torch.testing.assert_close(ours, theirs(x, position_bias=bias)[0], rtol=1e-10, atol=1e-10)


def test_an_encoder_has_buckets_on_both_sides():
    places = torch.arange(6)[None]
    for encoder in (False, True):
        position = randomise(build("position", "t5", encoder=encoder, **SHAPE))
        after = position.bias(places, places)[0, :, 0, 1:]  # keys after the first token
        assert (after == after[:, :1]).all() != encoder
    blocks = [{"name": "pre-norm", "mixer": "multi-head", "cross": "cross"}]
    model = build(
        "lm", "encoder-decoder", vocab_size=9, dim=DIM, layers=1, encoder_layers=1, blocks=blocks,
        encoder=block("multi-head"), position="t5", max_length=32,
    )  # fmt: skip
    assert model.encoder.position.both and not model.model.position.both


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 12, 16, 20])
def test_alibi_equals_bloom_and_mpt(heads):
    length = 20
    places = torch.arange(length)[None]
    ours = build("position", "alibi", **{**SHAPE, "heads": heads}).bias(places, places)
    bloom = build_alibi_tensor(torch.ones(1, length), heads, torch.float32).view(1, heads, 1, length)
    mpt = build_mpt_alibi_tensor(heads, length)[None]
    past = torch.ones(length, length, dtype=torch.bool).tril()
    for theirs in (bloom, mpt):  # both up to a number a query
        theirs = theirs.expand(-1, -1, length, -1)
        moved = theirs - theirs.diagonal(dim1=-2, dim2=-1)[..., None]
        torch.testing.assert_close(ours[..., past], moved[..., past], rtol=1e-5, atol=1e-5)
    assert slopes(8, 8.0) == [2.0**-h for h in range(1, 9)]
    half = build_mpt_alibi_tensor(heads, length, alibi_bias_max=4)[:, 0, 0] / (1 - length)
    torch.testing.assert_close(torch.tensor(slopes(heads, 4.0)), half, rtol=1e-6, atol=0)


def xlnet():
    config = XLNetConfig(
        vocab_size=11, d_model=DIM, n_layer=1, n_head=HEADS, d_inner=16, dropout=0.0, attn_type="bi", untie_r=True
    )
    return randomise(XLNetModel(config)).double().eval()


@pytest.mark.parametrize("mask", ["causal", "bidirectional"])
def test_relative_equals_xlnet(mask):
    """The scores of XLNet's attention, and so the outputs of it, with u and v of each head and W of each layer."""
    reference, length = xlnet(), 13
    theirs = reference.layer[0].rel_attn
    x = torch.randn(length, 2, DIM, dtype=torch.float64)
    hidden = torch.zeros(length, length, 2, 1, dtype=torch.float64)
    if mask == "causal":
        hidden += torch.ones(length, length, dtype=torch.float64).triu(1)[:, :, None, None]
    r = reference.relative_positional_encoding(length, length, bsz=2).double()
    r = r.expand(-1, 2, -1)
    with torch.no_grad():
        theirs.layer_norm.weight.fill_(1.0), theirs.layer_norm.bias.zero_()
    q, k, v = (torch.einsum("ibh,hnd->ibnd", x, w) for w in (theirs.q, theirs.k, theirs.v))
    k_r = torch.einsum("ibh,hnd->ibnd", r, theirs.r)
    read = theirs.rel_attn_core(q, k, v, k_r, attn_mask=hidden)
    expected = torch.einsum("ibnd,hnd->bih", read, theirs.o)

    own = [{"name": "pre-norm", "mixer": "multi-head", "position": "relative"}]
    model = transformer(layers=1, blocks=own, position="none")
    block_ = model.model.layers[0]
    position, layer = block_.position, block_.self_attn
    with torch.no_grad():
        for own, other in ((layer.q_proj, theirs.q), (layer.k_proj, theirs.k), (layer.v_proj, theirs.v)):
            own.weight.copy_(other.flatten(1).t())
        layer.o_proj.weight.copy_(theirs.o.flatten(1))
        w = theirs.r.flatten(1).t()  # columns: all sines, then all cosines
        position.r_proj.weight.copy_(torch.stack(w.chunk(2, 1), -1).flatten(1))
        position.u.copy_(theirs.r_w_bias), position.v.copy_(theirs.r_r_bias)
    rows = x.transpose(0, 1).contiguous()
    _, context = model._enter(Batch(embeddings=rows, mask=mask), None)
    found = layer(rows, context.at(position, torch.float64))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)  # their sinusoids are of float32
    assert (layer(rows, context) - expected).abs().max() > 1e-2


def test_relative_reads_few_queries_as_it_reads_many():
    """Both orders of the products, and clamped distances."""
    for clamp in (None, 5):
        position = randomise(build("position", "relative", clamp=clamp, **SHAPE)).double()
        q, k = (torch.randn(2, HEADS, 20, SIZE, dtype=torch.float64) for _ in range(2))
        places = torch.arange(20)[None]
        every = position.content_bias(q, k, places, places, True, None)
        for t in (0, 11, 19):
            one = position.content_bias(q[:, :, t : t + 1], k, places[:, t : t + 1], places, True, None)
            torch.testing.assert_close(one[:, :, 0, : t + 1], every[:, :, t, : t + 1], rtol=1e-12, atol=1e-12)
        both = position.content_bias(q, k, places, places, False, None)
        past = torch.ones(20, 20, dtype=torch.bool).tril()
        torch.testing.assert_close(both[..., past], every[..., past], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", RELATIVE)
def test_distance_alone_counts(name):
    """A document may be anywhere in its row: moving all positions changes nothing."""
    model, ids = transformer(position=name), tokens(2, 15)
    at = torch.arange(15)[None].expand(2, -1)
    torch.testing.assert_close(model(Batch(ids=ids, positions=at + 40)).logits, model(ids).logits, rtol=0, atol=1e-9)
    assert (model(Batch(ids=ids, positions=2 * at)).logits - model(ids).logits).abs().max() > 1e-3


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize("window", [None, 6])
def test_biases_are_right_in_rings_and_ragged_rows(name, window):
    """A ring stores keys in another order than rows; and a row's own length decides, not the batch's."""
    mixer = {"name": "multi-query", "window": window}
    model, ids = transformer(position=name, blocks=block(mixer)), tokens(3, 30)
    with torch.inference_mode():
        full = model(ids).logits
        state, held = model.start(3), [0, 0, 0]
        for step in ((9, 2, 5), (1, 1, 1), (3, 0, 8), (1, 1, 1), (7, 7, 7), (1, 2, 1)):
            chunk = torch.zeros(3, max(step), dtype=torch.long)
            for row, count in enumerate(step):
                chunk[row, :count] = ids[row, held[row] : held[row] + count]
            logits = model(Batch(ids=chunk, lengths=torch.tensor(step)), state).logits
            for row, count in enumerate(step):
                torch.testing.assert_close(
                    logits[row, :count], full[row, held[row] : held[row] + count], rtol=0, atol=1e-10
                )
                held[row] += count


@pytest.mark.parametrize("name", RELATIVE)
def test_a_block_may_have_its_own(name):
    blocks = [{"name": "pre-norm", "position": name}, {"name": "pre-norm"}]
    model, ids = transformer(blocks=blocks, position="none"), tokens(2, 20)
    plain = transformer(position="none")
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "position" not in k})
    full = model(ids).logits
    assert (full - plain(ids).logits).abs().max() > 1e-3
    state = model.start(2)
    found = torch.cat([model(part, state).logits for part in ids.split((7, 1, 12), 1)], 1)
    torch.testing.assert_close(found, full, rtol=0, atol=1e-10)
    model.nll(shifted(ids)).backward()
    assert len(gradients(model)) == len(list(model.parameters()))


def test_errors_name_the_field():
    for fields, message in (
        ({"name": "t5", "buckets": 6}, r"position/t5\.buckets: 6 must be a multiple of 4"),
        ({"name": "t5", "max_distance": 16}, r"max_distance: 16 must be above half of buckets, 16"),
        ({"name": "alibi", "max_exponent": 0.0}, r"max_exponent: 0\.0 must be above 0"),
        ({"name": "relative", "clamp": 0}, r"clamp: 0 must be at least 1"),
        ({"name": "relative", "theta": -1.0}, r"theta: -1\.0 must be above 0"),
    ):
        name = fields.pop("name")
        with pytest.raises(SpecError, match=message):
            build("position", name, **fields, **SHAPE)
    two = [{"name": "pre-norm", "mixer": {"name": "softmax", "heads": n, "head_dim": 8}} for n in (2, 4)]
    for name in RELATIVE:
        with pytest.raises(SpecError, match=f"position: {name} needs one number of heads in all blocks, not"):
            transformer(position=name, blocks=two)
        model = transformer(position=name)
        with pytest.raises(RequestError, match="positions: a bias by distance counts them from the state"):
            model(Batch(ids=tokens(1, 3), positions=torch.arange(3)[None]), model.start(1))
    for name in ("t5", "relative"):
        with pytest.raises(SpecError, match=f"position: {name} acts on attention scores, and no block"):
            transformer(position=name, blocks=block("gru"))
        with pytest.raises(SpecError, match=f"position: {name} acts on attention scores; gru has none"):
            transformer(blocks=[{"name": "pre-norm", "mixer": "gru", "position": name}])
