"""Contrastive models against transformers: scores, losses, gradients, files in both directions."""

from __future__ import annotations

import pytest
import torch
import transformers
from _pictures import TEXT, VISION, close, ours_of, pixels, theirs
from _small_models import randomise, tokens
from huggingface_hub import ModelCard

from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make, make_method
from llmanac.data.pictures import Pictures, PictureStream, scenes
from llmanac.models.images.clip import contrastive_loss
from llmanac.models.images.load import load_multimodal
from llmanac.train import TrainSpec
from llmanac.train.loop import train

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
    torch.testing.assert_close(loss / units, expected.loss, rtol=1e-7, atol=0)  # their eager softmax is float32
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
    assert ModelCard.load(tmp_path / "ours" / "README.md").data.library_name == "transformers"


def test_under_autocast_scores_are_in_float32():
    model = make_method("multimodal", {"name": "clip", "dim": 64}).build(vocab_size=8)
    a, b = (torch.nn.functional.normalize(torch.randn(20, 64), dim=1) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        found = model.similarity(a, b)
    assert torch.equal(found, model.similarity(a, b))


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


def test_training_by_the_one_loop_finds_pairs_and_goes_on_where_it_stopped(tmp_path):
    """Scenes of two captions become pairs in 60 steps; a run of 60 equals one of 40 that is resumed."""
    seen, _ = scenes.split()
    few = [seen[1], seen[100], seen[203], seen[298]]

    def run(folder, steps):
        fields = {
            "name": "clip", "dim": 16, "end_id": scenes.END,
            "vision": {"name": "vit", "dim": 32, "layers": 1, "patch": 16},
            "text": {"name": "transformer", "dim": 32, "layers": 1, "max_length": 12, "position": "learned"},
        }  # fmt: skip
        model = make_method("multimodal", fields).build(vocab_size=len(scenes.WORDS)).initialise(1)
        source = PictureStream(
            lambda generator, rows: scenes.pictures(few, generator, rows), rows=16, seed=0, name="few"
        )
        spec = make(TrainSpec, {
            "steps": steps, "length": 12, "batch_tokens": 16 * 12, "dtype": "float32", "attention": "sdpa",
            "compile": "never", "checkpoint_every": 20, "optimizer": {"name": "adamw", "lr": 0.003},
            "schedule": "constant",
        })  # fmt: skip
        objective = make_method("objective", "own-loss").build()
        found = train(model, source, objective, spec, tmp_path / folder, seed=1, report=lambda text: None)
        return model.eval(), found

    (model, found), _ = run("a", 60), run("b", 40)
    again = tmp_path / "b" / "plan.json"
    again.write_text(again.read_text().replace('"steps": 40', '"steps": 60'))
    resumed, _ = run("b", 60)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)
    batch = scenes.pictures(few * 8, numpy_generator(5))
    chosen = model(batch.pixels, batch.ids[:4]).argmax(1)
    # the least loss of 16 rows of 4 captions is about log 4: equal captions are not told apart
    assert found.loss < 2.0 and (chosen == torch.arange(32) % 4).float().mean() > 0.6
