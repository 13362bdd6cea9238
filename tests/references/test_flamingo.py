"""Gated cross-attention against Idefics; with gates at 0 it is the language model; what tokens look at."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from _pictures import TEXT, close, ours_of, pixels, theirs
from _small_models import randomise, tokens

from llmanac.core.errors import RequestError
from llmanac.core.types import IGNORE, LAST
from llmanac.data.pictures import Pictures

VISION = {
    "embed_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "image_size": 24,
    "patch_size": 8,
}
CHOICES = {
    **TEXT, "num_hidden_layers": 4, "cross_layer_interval": 2, "use_resampler": True, "additional_vocab_size": 0,
    "pad_token_id": 0, "vision_config": VISION,
    "perceiver_config": {
        "resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 3, "resampler_head_dim": 8,
        "qk_layer_norms_perceiver": False,
    },
}  # fmt: skip


def idefics(**changes):
    return theirs("IdeficsForVisionText2Text", "IdeficsConfig", **{**CHOICES, **changes})


def two_images():
    """Two rows of two images; text looks at none, at the first, at both."""
    seen = torch.zeros(2, 12, 2, dtype=torch.bool)
    seen[:, 2:7, 0] = True
    seen[0, 7:] = True
    seen[1, 7:, 1] = True
    return pixels(4).view(2, 2, 3, 24, 24), seen


@pytest.mark.parametrize("resampler", [True, False])
def test_logits_and_gradients_equal_idefics(resampler, tmp_path):
    model = idefics(use_resampler=resampler)
    ours, ids, (x, seen) = ours_of(model, tmp_path), tokens(2, 12), two_images()
    expected = model(
        input_ids=ids, pixel_values=x, image_attention_mask=seen.long(), attention_mask=torch.ones_like(ids)
    ).logits
    actual = ours(ids, x, seen=seen).logits
    close(actual, expected, 0.3)
    assert (actual - ours(ids, x.flip(1), seen=seen).logits).abs().max() > 1e-3
    targets = ids.roll(-1, 1)
    F.cross_entropy(expected.flatten(0, 1), targets.flatten()).backward()
    F.cross_entropy(actual.flatten(0, 1), targets.flatten()).backward()
    gates = [layer.attn_gate.weight.grad for layer in ours.gated]
    close(
        torch.cat(gates),
        torch.cat([layer.alpha_cross_attn.grad for layer in model.model.gated_cross_attn_layers]),
        1e-6,
        1e-5,
    )
    trained = {name.partition(".")[0] for name, p in ours.named_parameters() if p.grad is not None}
    assert trained == ({"gated", "perceiver"} if resampler else {"gated"})


def test_gates_at_zero_equal_the_language_model_and_a_state_equals_one_pass(tmp_path):
    ours, ids, (x, seen) = ours_of(idefics(), tmp_path), tokens(2, 12), two_images()
    whole = ours(ids, x, seen=seen).logits
    latents, state = ours.see(x), ours.start(2)
    parts = [ours(ids[:, :5], latents=latents, seen=seen[:, :5], state=state).logits]
    parts += [
        ours(ids[:, i : i + 1], latents=latents, seen=seen[:, i : i + 1], state=state, want=LAST).logits
        for i in range(5, 12)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-9, atol=1e-9)
    for layer in ours.gated:
        torch.nn.init.zeros_(layer.attn_gate.weight)
        torch.nn.init.zeros_(layer.mlp_gate.weight)
    assert torch.equal(ours(ids, x, seen=seen).logits, ours.text(ids).logits)
    assert (whole - ours.text(ids).logits).abs().max() > 0.01
    fresh = ours.spec.build(vocab_size=61).double()  # as it is made: the language model
    torch.testing.assert_close(fresh(ids, x).logits, fresh.text(ids).logits, rtol=1e-12, atol=1e-12)
    loss, units, _ = randomise(fresh).loss(
        Pictures(pixels=x[:, 0], ids=ids, targets=ids.roll(-1, 1).masked_fill(ids < 20, IGNORE))
    )
    assert loss > 0 and 0 < units < 24
    with pytest.raises(RequestError, match=r"seen: expected the shape \(2, 12, 2\)"):
        ours(ids, x, seen=seen[:, :5])
