"""Contrastive models against transformers: scores, losses, gradients, files in both directions."""

from __future__ import annotations

import pytest
import torch
import transformers
from _pictures import TEXT, VISION, close, ours_of, pixels, theirs
from _small_models import randomise, tokens

from llmanac.data.pictures import Pictures
from llmanac.multimodal.clip import contrastive_loss
from llmanac.multimodal.load import load_multimodal

CASES = {
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {"text_config": {**TEXT, "eos_token_id": 2}, "vision_config": VISION, "projection_dim": 24},
    ),
    "clip-end": (
        "CLIPModel",
        "CLIPConfig",
        {"text_config": {**TEXT, "eos_token_id": 7}, "vision_config": VISION, "projection_dim": 24},
    ),
    "align": (
        "AlignModel",
        "AlignConfig",
        {
            "text_config": {**TEXT, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
            "vision_config": {
                "image_size": 48,
                "width_coefficient": 0.1,
                "depth_coefficient": 0.4,
                "hidden_dim": 32,
                "drop_connect_rate": 0.0,
            },
            "projection_dim": 32,
            "attn_implementation": "eager",  # the only one it has
        },
    ),
    "siglip": (
        "SiglipModel",
        "SiglipConfig",
        {"text_config": {**TEXT, "projection_size": 32}, "vision_config": VISION},
    ),
}


def texts():
    ids = tokens(3, 9)
    ids[:, 5] = 7
    return ids


@pytest.mark.parametrize("case", CASES)
def test_logits_and_loss_equal_transformers(case, tmp_path):
    name, config, choices = CASES[case]
    model = theirs(name, config, **choices)
    ours, x, ids = ours_of(model, tmp_path / "theirs"), pixels(size=48 if case == "align" else 24), texts()
    expected = model(input_ids=ids, pixel_values=x, return_loss=True)
    close(ours(x, ids), expected.logits_per_image, 0.01)
    loss, units, _ = ours.loss(Pictures(pixels=x, ids=ids))
    torch.testing.assert_close(loss / units, expected.loss, rtol=1e-9, atol=1e-9)
    expected.loss.backward()
    (loss / units).backward()
    assert all(p.grad is not None for p in ours.parameters())
    if case == "align":
        stem, other = ours.vision.embeddings.convolution.weight, model.vision_model.embeddings.convolution.weight
        torch.testing.assert_close(stem.grad, other.grad, rtol=1e-6, atol=1e-9)
        return
    torch.testing.assert_close(
        ours.vision.model.patches.weight.grad,
        model.vision_model.embeddings.patch_embedding.weight.grad,
        rtol=1e-6,
        atol=1e-8,
    )
    torch.testing.assert_close(
        ours.text.model.embed_tokens.weight.grad,
        model.text_model.embeddings.token_embedding.weight.grad,
        rtol=1e-6,
        atol=1e-8,
    )
    ours.save_pretrained(tmp_path / "ours")
    again = getattr(transformers, name).from_pretrained(tmp_path / "ours", dtype=torch.float64).eval()
    close(again(input_ids=ids, pixel_values=x).logits_per_image, expected.logits_per_image, 0.01)
    assert (randomise(ours, seed=1)(x, ids) - expected.logits_per_image).abs().max() > 0.01
    load_multimodal(tmp_path / "ours", device="cpu")


def test_equal_texts_are_not_each_others_negatives():
    scores = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    same = torch.eye(4, dtype=torch.bool)
    pairs = torch.arange(4)
    plain = (torch.nn.functional.cross_entropy(scores, pairs) + torch.nn.functional.cross_entropy(scores.T, pairs)) / 2
    torch.testing.assert_close(contrastive_loss(scores, same), plain)
    same[0, 2] = same[2, 0] = True
    by_row = [torch.log_softmax(s, 1) for s in (scores, scores.T)]
    expected = 0.0
    for log in by_row:
        terms = [-(log[0, 0] + log[0, 2]) / 2, -log[1, 1], -(log[2, 0] + log[2, 2]) / 2, -log[3, 3]]
        expected = expected + sum(terms) / 8
    torch.testing.assert_close(contrastive_loss(scores, same), expected)
    sigmoid = -sum(
        torch.nn.functional.logsigmoid((1 if same[i, j] else -1) * scores[i, j]) for i in range(4) for j in range(4)
    )
    torch.testing.assert_close(contrastive_loss(scores, same, "sigmoid"), sigmoid / 4)
