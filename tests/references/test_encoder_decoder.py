"""Cross-attention and the encoder-decoder against torch's own modules, float64, ragged sources."""

from __future__ import annotations

import torch
from _small_models import VOCABULARY, randomise, tokens
from torch import nn

from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.models.forward import Context, SourceMemory
from llmanac.models.masks import of_batch
from llmanac.models.positions import Position

DIM = 24


def test_cross_attention_equals_torch():
    torch.manual_seed(0)
    ours = randomise(make_method("mixer", {"name": "cross", "heads": 3, "biases": "all"}).build(dim=DIM)).double()
    peer = nn.MultiheadAttention(DIM, 3, batch_first=True).double()
    with torch.no_grad():
        parts = (ours.q_proj, ours.k_proj, ours.v_proj)
        peer.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        peer.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        peer.out_proj.weight.copy_(ours.o_proj.weight)
        peer.out_proj.bias.copy_(ours.o_proj.bias)
    x, source = torch.randn(2, 7, DIM, dtype=torch.float64), torch.randn(2, 11, DIM, dtype=torch.float64)
    real = torch.arange(11) < torch.tensor([11, 4])[:, None]
    mask = of_batch(Batch(embeddings=x))
    for form in ("sdpa", "plain", "blocks"):
        context = Context(
            ids=None,
            positions=mask.queries,
            mask=mask,
            position=Position(),
            form=form,
            memory=SourceMemory(source, real),
        )
        expected, _ = peer(x, source, source, key_padding_mask=~real)
        torch.testing.assert_close(ours(x, context), expected, rtol=0, atol=1e-12)


def encoder_decoder(**choices):
    spec = {"name": "encoder-decoder", "dim": DIM, "encoder_layers": 2, "layers": 2, "max_length": 64, **choices}
    return randomise(make_method("lm", spec).build(vocab_size=VOCABULARY)).double().eval()


def test_encoder_decoder_equals_torch():
    """The original Transformer's sums: pre-norm encoder and decoder layers of torch with the same weights."""
    attention = {"heads": 3, "biases": "all"}
    ffn = {"name": "mlp", "activation": "relu", "width": 40, "biases": "all"}
    own = {"name": "pre-norm", "mixer": {"name": "multi-head", **attention}, "ffn": ffn}
    ours = encoder_decoder(
        encoder=[own],
        blocks=[{**own, "cross": {"name": "cross", **attention}}],
        norm="layernorm",
        position="sinusoidal",
    )
    settings = {"d_model": DIM, "nhead": 3, "dim_feedforward": 40, "dropout": 0.0, "batch_first": True}
    peer = nn.Transformer(num_encoder_layers=2, num_decoder_layers=2, norm_first=True, **settings).double().eval()

    def copy(theirs, mine):
        with torch.no_grad():
            theirs.in_proj_weight.copy_(torch.cat([p.weight for p in (mine.q_proj, mine.k_proj, mine.v_proj)]))
            theirs.in_proj_bias.copy_(torch.cat([p.bias for p in (mine.q_proj, mine.k_proj, mine.v_proj)]))
            theirs.out_proj.load_state_dict(mine.o_proj.state_dict())

    for theirs, mine in [*zip(peer.encoder.layers, ours.encoder.layers, strict=True),
                         *zip(peer.decoder.layers, ours.model.layers, strict=True)]:  # fmt: skip
        copy(theirs.self_attn, mine.self_attn)
        theirs.linear1.load_state_dict(mine.mlp.up_proj.state_dict())
        theirs.linear2.load_state_dict(mine.mlp.down_proj.state_dict())
        norms = [mine.input_layernorm, mine.post_attention_layernorm]
        if mine.encoder_attn is not None:
            copy(theirs.multihead_attn, mine.encoder_attn)
            norms.insert(1, mine.encoder_layernorm)
        for i, norm in enumerate(norms, 1):
            getattr(theirs, f"norm{i}").load_state_dict(norm.state_dict())
    peer.encoder.norm.load_state_dict(ours.encoder.norm.state_dict())
    peer.decoder.norm.load_state_dict(ours.model.norm.state_dict())

    source, ids = tokens(2, 9), tokens(2, 6, seed=5)
    lengths = torch.tensor([9, 5])
    padding = torch.arange(9) >= lengths[:, None]
    embed = lambda position, x: position.embed(ours.embed(x), torch.arange(x.shape[1])[None])  # noqa: E731
    hidden = peer(
        embed(ours.encoder.position, source), embed(ours.model.position, ids), src_key_padding_mask=padding,
        memory_key_padding_mask=padding, tgt_is_causal=True,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64),
    )  # fmt: skip
    expected = hidden @ ours.model.embed_tokens.weight.T
    actual = ours(Batch(ids=ids, source=Batch(ids=source, lengths=lengths))).logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-11)
    other = source.clone()
    other[:, 2] = (other[:, 2] + 1) % VOCABULARY
    changed = ours(Batch(ids=ids, source=Batch(ids=other, lengths=lengths))).logits
    assert (changed - actual).abs().amax((1, 2)).min() > 1e-6  # the source is read
