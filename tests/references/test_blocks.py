"""Blocks against torch.nn (post-norm), Gemma 2 (sandwich), GPT-NeoX and GPT-J (parallel), with equal weights."""

from __future__ import annotations

import pytest
import torch
from _small_models import gradients, randomise, shifted, tokens, transformer
from torch import nn
from transformers import Gemma2Config, GPTNeoXConfig
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer, Gemma2RotaryEmbedding
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer, GPTNeoXRotaryEmbedding

from llmanac.core.errors import SpecError
from llmanac.core.registry import build
from llmanac.core.types import Batch

DIM, HEADS, WIDTH, LENGTH = 32, 4, 48, 11
BLOCKS = ("pre-norm", "post-norm", "sandwich", "norm-after", "parallel", "normed-residual")
MLP = {"name": "relu", "width": WIDTH, "biases": "all"}
BIASED = {"name": "multi-head", "biases": "all"}


def one_block(fields, **choices):
    """A model of one block, and the function of embeddings that this block is."""
    model = transformer(layers=1, blocks=[fields], **choices)

    def run(x, **batch):
        _, context = model._enter(Batch(embeddings=x, **batch), None)
        return model.model.layers[0](x, context)

    return model.model.layers[0], run


def compare(ours, theirs, x, atol=1e-10):
    """Values and the gradient of the input."""
    above = torch.randn_like(x)
    found, expected = ours(x), theirs(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    grads = [torch.autograd.grad((y * above).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=10 * atol)
    assert (found - x).abs().max() > 0.1


def attention_weights(ours, theirs):
    """torch.nn.MultiheadAttention -> ours."""
    q, k, v = theirs.in_proj_weight.chunk(3)
    bq, bk, bv = theirs.in_proj_bias.chunk(3)
    ours.load_state_dict({
        "q_proj.weight": q, "q_proj.bias": bq, "k_proj.weight": k, "k_proj.bias": bk,
        "v_proj.weight": v, "v_proj.bias": bv,
        "o_proj.weight": theirs.out_proj.weight, "o_proj.bias": theirs.out_proj.bias,
    })  # fmt: skip


def feed_forward(ours, first, second):
    ours.load_state_dict({
        "up_proj.weight": first.weight, "up_proj.bias": first.bias,
        "down_proj.weight": second.weight, "down_proj.bias": second.bias,
    })  # fmt: skip


@pytest.mark.parametrize("lengths", [None, [LENGTH, 4]])
@pytest.mark.parametrize("name", ["post-norm", "pre-norm"])
def test_post_norm_equals_torch(name, lengths):
    """torch's layer in both its orders, bidirectional, with padding; the two orders differ."""
    layer = nn.TransformerEncoderLayer(
        DIM, HEADS, WIDTH, dropout=0.0, batch_first=True, norm_first=name == "pre-norm", dtype=torch.float64
    )
    randomise(layer).train()  # torch's fused path is for inference alone
    block, run = one_block(
        {"name": name, "mixer": BIASED, "ffn": MLP}, position="none", norm={"name": "layernorm", "eps": layer.norm1.eps}
    )
    attention_weights(block.self_attn, layer.self_attn)
    feed_forward(block.mlp, layer.linear1, layer.linear2)
    names = ["input_layernorm", "post_attention_layernorm"]
    if name == "post-norm":
        names = ["post_attention_layernorm", "post_feedforward_layernorm"]
    for own, other in zip(names, (layer.norm1, layer.norm2), strict=True):
        getattr(block, own).load_state_dict(other.state_dict())
    x = torch.randn(2, LENGTH, DIM, dtype=torch.float64, requires_grad=True)
    real = torch.ones(2, LENGTH, dtype=torch.bool)
    if lengths is not None:
        real = torch.arange(LENGTH) < torch.tensor(lengths)[:, None]
    given = None if lengths is None else torch.tensor(lengths)
    compare(
        lambda x: run(x, mask="bidirectional", lengths=given) * real[..., None],
        lambda x: layer(x, src_key_padding_mask=None if lengths is None else ~real) * real[..., None],
        x,
    )


def test_post_norm_with_cross_attention_equals_torch():
    from llmanac.models.forward import SourceMemory

    layer = nn.TransformerDecoderLayer(DIM, HEADS, WIDTH, dropout=0.0, batch_first=True, dtype=torch.float64)
    randomise(layer)
    fields = {"name": "post-norm", "mixer": BIASED, "ffn": MLP, "cross": {"name": "cross", "biases": "all"}}
    model = build(
        "lm", "encoder-decoder", vocab_size=9, dim=DIM, layers=1, blocks=[fields], encoder_layers=1,
        encoder=[{"name": "post-norm"}], position="none", norm={"name": "layernorm", "eps": layer.norm1.eps},
        max_length=32,
    ).double()  # fmt: skip
    block = model.model.layers[0]
    attention_weights(block.self_attn, layer.self_attn)
    attention_weights(block.encoder_attn, layer.multihead_attn)
    feed_forward(block.mlp, layer.linear1, layer.linear2)
    for own, other in (
        (block.post_attention_layernorm, layer.norm1),
        (block.post_encoder_layernorm, layer.norm2),
        (block.post_feedforward_layernorm, layer.norm3),
    ):
        own.load_state_dict(other.state_dict())
    source = torch.randn(2, 7, DIM, dtype=torch.float64)
    real = torch.arange(7) < torch.tensor([7, 3])[:, None]
    x = torch.randn(2, LENGTH, DIM, dtype=torch.float64, requires_grad=True)
    future = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)

    def run(x):
        from dataclasses import replace

        _, context = model._enter(Batch(embeddings=x), None)
        return block(x, replace(context, memory=SourceMemory(source, real)))

    compare(run, lambda x: layer(x, source, tgt_mask=future, memory_key_padding_mask=~real), x)


def test_sandwich_equals_gemma2():
    config = Gemma2Config(
        hidden_size=DIM, intermediate_size=WIDTH, num_attention_heads=HEADS, num_key_value_heads=2, head_dim=8,
        query_pre_attn_scalar=8, attn_logit_softcapping=None, layer_types=["full_attention"], num_hidden_layers=1,
        hidden_activation="gelu_pytorch_tanh", attn_implementation="eager",
    )  # fmt: skip
    layer = randomise(Gemma2DecoderLayer(config, 0)).double().eval()
    mixer, ffn = {"name": "softmax", "heads": HEADS, "kv_heads": 2}, {"name": "geglu-tanh", "width": WIDTH}
    block, run = one_block(
        {"name": "sandwich", "mixer": mixer, "ffn": ffn},
        norm={"name": "rmsnorm", "offset": 1.0, "eps": config.rms_norm_eps},
    )
    block.load_state_dict(layer.state_dict())  # their names are ours
    cos, sin = Gemma2RotaryEmbedding(config)(torch.zeros(1, dtype=torch.float64), torch.arange(LENGTH)[None])
    mask = torch.zeros(LENGTH, LENGTH, dtype=torch.float64)
    mask = mask.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), float("-inf"))[None, None]
    x = torch.randn(2, LENGTH, DIM, dtype=torch.float64, requires_grad=True)
    compare(run, lambda x: layer(x, position_embeddings=(cos, sin), attention_mask=mask), x, atol=2e-5)  # float32 norms
    found = run(x)
    plain, _ = one_block({"name": "pre-norm", "mixer": mixer, "ffn": ffn}, norm={"name": "rmsnorm", "offset": 1.0})
    assert not torch.allclose(found, plain(x, one_context(x)), atol=1e-2)


def one_context(x):
    return transformer(layers=1)._enter(Batch(embeddings=x), None)[1]


@pytest.mark.parametrize("norms", ["two", "one"])
def test_parallel_equals_gpt_neox(norms):
    """GPT-NeoX has two norms; GPT-J's block is the same with one, so a layer whose norms are equal stands for it."""
    config = GPTNeoXConfig(
        hidden_size=DIM, intermediate_size=WIDTH, num_attention_heads=HEADS, hidden_act="gelu", rotary_pct=0.5,
        attention_dropout=0.0, hidden_dropout=0.0, attn_implementation="eager", num_hidden_layers=1,
    )  # fmt: skip
    layer = randomise(GPTNeoXLayer(config, 0)).double().eval()
    if norms == "one":
        layer.post_attention_layernorm.load_state_dict(layer.input_layernorm.state_dict())
    ffn = {"name": "gelu", "width": WIDTH, "biases": "all"}
    block, run = one_block(
        {"name": "parallel", "mixer": BIASED, "ffn": ffn, "norms": norms},
        norm={"name": "layernorm", "eps": config.layer_norm_eps},
        position={"name": "rope", "rotary_fraction": 0.5},
    )
    fused = layer.attention.query_key_value
    weights = fused.weight.view(HEADS, 3, -1, DIM).transpose(0, 1).reshape(3, DIM, DIM)
    biases = fused.bias.view(HEADS, 3, -1).transpose(0, 1).reshape(3, DIM)
    with torch.no_grad():
        for own, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, biases, strict=True):
            getattr(block.self_attn, own).weight.copy_(weight), getattr(block.self_attn, own).bias.copy_(bias)
    block.self_attn.o_proj.load_state_dict(layer.attention.dense.state_dict())
    feed_forward(block.mlp, layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h)
    block.input_layernorm.load_state_dict(layer.input_layernorm.state_dict())
    if norms == "two":
        block.post_attention_layernorm.load_state_dict(layer.post_attention_layernorm.state_dict())
    at = GPTNeoXRotaryEmbedding(config)(torch.zeros(1, dtype=torch.float64), torch.arange(LENGTH)[None])
    mask = torch.zeros(LENGTH, LENGTH, dtype=torch.float64)
    mask = mask.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), float("-inf"))[None, None]
    x = torch.randn(2, LENGTH, DIM, dtype=torch.float64, requires_grad=True)
    compare(run, lambda x: layer(x, position_embeddings=at, attention_mask=mask), x, atol=2e-6)  # float32 softmax


@pytest.mark.parametrize("name", BLOCKS)
def test_without_a_feed_forward_layer(name):
    """The norms of the part that is not there are not there either; all that is there learns."""
    model, ids = transformer(blocks=[{"name": name, "ffn": "none"}]), tokens(2, 20)
    whole = transformer(blocks=[{"name": name}])
    assert len(model.model.layers[0].state_dict()) < len(whole.model.layers[0].state_dict())
    model.nll(shifted(ids)).backward()
    assert gradients(model).keys() == dict(model.named_parameters()).keys()
    state = model.start(2)
    found = torch.cat([model(part, state).logits for part in ids.split((7, 1, 12), 1)], 1)
    torch.testing.assert_close(found, model(ids).logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["pre-norm", "post-norm", "sandwich", "norm-after"])
def test_cross_attention_learns_in_every_place(name):
    model = build(
        "lm", "encoder-decoder", vocab_size=61, dim=DIM, layers=1, encoder_layers=1, max_length=32,
        blocks=[{"name": name, "cross": "cross"}], encoder=[{"name": name}], position="t5",
    )  # fmt: skip
    randomise(model)
    batch = shifted(tokens(2, 9), source=Batch(ids=tokens(2, 12, seed=3)))
    model.nll(batch).backward()
    assert gradients(model).keys() == dict(model.named_parameters()).keys()


def test_a_parallel_block_refuses_cross_attention():
    with pytest.raises(SpecError, match="cross: no such field"):
        transformer(blocks=[{"name": "parallel", "cross": "cross"}])


@pytest.mark.parametrize("name", BLOCKS)
def test_a_first_step_is_of_the_usual_size(name):
    """Untrained weights: gradients are of the size of the pre-norm block's, not 1 / sqrt(eps) of it."""
    sizes = []
    for block in ("pre-norm", name):
        model = build("lm", "transformer", vocab_size=61, dim=64, layers=2, blocks=[{"name": block}], max_length=64)
        model.nll(shifted(tokens(4, 30))).backward()
        sizes.append(max(float(g.norm()) for g in gradients(model).values()))
    assert sizes[1] < 10 * sizes[0]
