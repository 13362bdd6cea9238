"""LFM2's gated short convolution against transformers, packed rows and a state against whole rows."""

from __future__ import annotations

import torch
from _small_models import block, tokens, transformer
from transformers import Lfm2Config
from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

from llmanac.core.types import Batch


def model_of(**choices):
    return transformer(dim=12, position="none", tied=False, blocks=block({"name": "short-conv", **choices}, "none"))


def test_it_equals_transformers():
    """The mixer alone, with biases and a kernel of 4."""
    ours = model_of(kernel=4, biases="all").model.layers[0].self_attn.double()
    config = Lfm2Config(hidden_size=12, conv_L_cache=4, conv_bias=True, layer_types=["conv"], num_hidden_layers=1)
    theirs = Lfm2ShortConv(config, 0).double()
    with torch.no_grad():
        for mine, name in (("in_proj", "in_proj"), ("conv1d", "conv"), ("out_proj", "out_proj")):
            for part in ("weight", "bias"):
                value = torch.randn_like(getattr(getattr(theirs, name), part))
                getattr(getattr(theirs, name), part).copy_(value)
                getattr(getattr(ours, mine), part).copy_(value)
    x = torch.randn(3, 21, 12, dtype=torch.float64)

    class Whole:  # of a forward pass it needs no more
        segments = slots = None

    torch.testing.assert_close(ours(x, Whole()), theirs(x), rtol=0, atol=1e-12)


def test_packed_documents_and_a_state_give_what_whole_rows_give():
    model, ids = model_of(kernel=4), tokens(3, 21)
    found = model(Batch(ids=ids, lengths=torch.tensor([21, 8, 1]))).logits
    torch.testing.assert_close(found[1, :8], model(ids[1:2, :8]).logits[0], rtol=0, atol=1e-12)
    packed = model(Batch(ids=ids[:1], segments=torch.tensor([[0] * 9 + [1] * 12]))).logits[0]
    torch.testing.assert_close(packed[9:], model(ids[:1, 9:]).logits[0], rtol=0, atol=1e-12)
    assert (packed[9:] - found[0, 9:]).abs().max() > 1e-3
    state = model.start(1)
    pieces = [model(ids[:1, a:b], state).logits for a, b in ((0, 1), (1, 3), (3, 21))]
    torch.testing.assert_close(torch.cat(pieces, 1)[0], found[0], rtol=0, atol=1e-12)


def test_it_reaches_the_tokens_of_its_kernel():
    """Two layers of kernel 3 reach four tokens back, and no further."""
    model, ids = model_of(), tokens(1, 12)
    last = model(ids).logits[0, -1]
    for back, seen in ((1, True), (4, True), (5, False)):
        other = ids.clone()
        other[0, -1 - back] = (ids[0, -1 - back] + 1) % 20
        assert ((model(other).logits[0, -1] - last).abs().max() > 1e-6) == seen
