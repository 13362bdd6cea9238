"""Multi-head latent attention against DeepSeek-V2 in transformers, its two ways of decoding, and its cache."""

from __future__ import annotations

import pytest
import torch
from _small_models import block, randomise, tokens, transformer

from llmanac.core.errors import SpecError
from llmanac.core.registry import build
from llmanac.core.types import Batch

SIZES = {"heads": 4, "head_dim": 8, "rotary_dim": 4, "value_dim": 6, "latent": 10}


def interleaved(width):
    """Where our first-and-second-half layout has the pairs (0, 1), (2, 3) .. of theirs."""
    return torch.cat([torch.arange(0, width, 2), torch.arange(1, width, 2)])


@pytest.mark.parametrize("query_latent", [None, 12])
@pytest.mark.parametrize("form", ["sdpa", "plain", "blocks", "flash"])
def test_equals_deepseek(query_latent, form):
    deepseek = pytest.importorskip("transformers.models.deepseek_v2.modeling_deepseek_v2")
    config = deepseek.DeepseekV2Config(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=4, q_lora_rank=query_latent, kv_lora_rank=10,
        qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=6, attention_bias=False, attn_implementation="eager",
        max_position_embeddings=64,
    )  # fmt: skip
    theirs = randomise(deepseek.DeepseekV2Attention(config, 0)).double().eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "layernorm" in name:
                weight.add_(0.5)
    model = transformer(layers=1, blocks=block({"name": "latent", **SIZES, "query_latent": query_latent}))
    model.attention_form = form
    mixer, weights = model.model.layers[0].self_attn, theirs.state_dict()
    turned = interleaved(4)
    queries = "q_b_proj.weight" if query_latent else "q_proj.weight"
    heads = weights[queries].view(4, 12, -1)
    weights[queries] = torch.cat([heads[:, :8], heads[:, 8:][:, turned]], dim=1).flatten(0, 1)
    down = weights["kv_a_proj_with_mqa.weight"]
    weights["kv_a_proj_with_mqa.weight"] = torch.cat([down[:10], down[10:][turned]])
    mixer.load_state_dict(weights)
    # RMSNorm's epsilon is theirs
    for name, norm in mixer.named_modules():
        if name.endswith("layernorm"):
            norm.eps = 1e-6
    x = torch.randn(2, 17, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    steps = torch.arange(17)
    hidden = torch.zeros(2, 1, 17, 17, dtype=torch.float64).masked_fill(steps > steps[:, None], -float("inf"))
    rotary = deepseek.DeepseekV2RotaryEmbedding(config)
    expected = theirs(x, hidden, position_embeddings=rotary(x, steps[None]))[0]
    _, context = model._enter(Batch(embeddings=x), None)
    actual = mixer(x, context)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)  # their angles and softmax are float32
    found, wanted = (torch.autograd.grad(y.square().sum(), x)[0] for y in (actual, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert actual.abs().max() > 0.1


def test_queries_in_the_latent_space_equal_keys_made_again():
    """One new token is compared in the latent space, many are not; both equal a pass without a state."""
    model, ids = transformer(blocks=block({"name": "latent", **SIZES})), tokens(3, 40)
    with torch.inference_mode():
        full = model(ids).logits
        for chunks in [(40,), (1,) * 40, (20, 7, 13), (25, 8, 7), (5, 30, 5)]:
            state = model.start(3)
            parts = [model(part, state).logits for part in ids.split(chunks, dim=1)]
            torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=1e-10)


def test_the_cache_holds_a_latent_and_a_rotated_key_a_token():
    model = transformer(blocks=block({"name": "latent", **SIZES}))
    state = model.start(3)
    model(tokens(3, 16), state)
    assert state.nbytes == 2 * 3 * 16 * (10 + 4) * 8  # layers, rows, tokens, numbers, bytes
    full = transformer(blocks=block("multi-head")).start(3)
    transformer(blocks=block("multi-head"))(tokens(3, 16), full)
    assert state.nbytes < 0.25 * full.nbytes


def test_sizes_left_open_follow_the_paper():
    mixer = build("mixer", "latent", dim=64)
    assert (mixer.head_dim, mixer.rotary_dim, mixer.value_dim, mixer.latent) == (16, 8, 16, 64)
    with pytest.raises(SpecError, match="latent: 0 must be at least 1"):
        build("mixer", "latent", dim=64, latent=0)
    with pytest.raises(SpecError, match="heads: 5 must divide dim, 64"):
        build("mixer", "latent", dim=64, heads=5)
