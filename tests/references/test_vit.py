"""ViT and the image encoders of CLIP and SigLIP against transformers."""

from __future__ import annotations

import pytest
import torch
from _pictures import VISION, close, ours_of, pixels, theirs
from _small_models import randomise

from llmanac.core.errors import CheckpointError, RequestError, SpecError
from llmanac.core.spec import make_method
from llmanac.models.images.load import load_multimodal


def test_logits_and_gradients_equal_transformers(tmp_path):
    model = theirs("ViTForImageClassification", "ViTConfig", **VISION, num_labels=5)
    ours, x = ours_of(model, tmp_path), pixels()
    expected, actual = model(x), ours(x)
    close(actual, expected.logits, 0.3)
    wanted = torch.tensor([0, 3, 4])
    torch.nn.functional.cross_entropy(expected.logits, wanted).backward()
    torch.nn.functional.cross_entropy(actual, wanted).backward()
    for own, other in (
        ("model.patches.weight", "vit.embeddings.patch_embeddings.projection.weight"),
        ("model.class_token.weight", "vit.embeddings.cls_token"),
        ("model.position.embeddings.weight", "vit.embeddings.position_embeddings"),
        ("classifier.bias", "classifier.bias"),
    ):
        grad = model.get_parameter(other).grad
        close(ours.get_parameter(own).grad, grad.reshape(ours.get_parameter(own).shape), 1e-5)
    assert all(p.grad is not None for p in ours.parameters())
    assert (randomise(ours, seed=1)(x) - expected.logits).abs().max() > 0.1


def test_what_we_save_transformers_loads(tmp_path):
    from transformers import ViTForImageClassification

    spec = make_method(
        "multimodal", {"name": "vit", "image": 24, "dim": 32, "layers": 2, "norm": {"name": "layernorm", "eps": 1e-12}}
    )
    ours, x = randomise(spec.build(vocab_size=4)).double().eval(), pixels()
    ours.save_pretrained(tmp_path)
    again = ViTForImageClassification.from_pretrained(tmp_path, dtype=torch.float64).eval()
    close(ours(x), again(x).logits)
    close(load_multimodal(tmp_path, dtype="float64", device="cpu")(x), ours(x))


@pytest.mark.parametrize("pool", ["class", "mean", "attention"])
@pytest.mark.parametrize("position", ["learned", "sinusoidal", "none"])
def test_pools_and_positions(pool, position):
    """Without positions the order of the patches means nothing; every parameter gets a gradient."""
    spec = make_method(
        "multimodal", {"name": "vit", "image": 16, "dim": 32, "layers": 1, "pool": pool, "position": position}
    )
    model, x = randomise(spec.build(vocab_size=3)).double(), pixels(2, 16)
    found = model(x)
    found.sum().backward()
    assert found.shape == (2, 3) and all(p.grad is not None for p in model.parameters())
    moved = torch.cat([x[..., 8:], x[..., :8]], -1)
    same = torch.allclose(model(moved), found, atol=1e-9)
    assert same == (position == "none")


def test_own_layout_and_what_is_refused(tmp_path):
    spec = make_method("multimodal", {"name": "vit", "image": 16, "dim": 32, "layers": 1, "pool": "mean"})
    model = randomise(spec.build(vocab_size=3)).double().eval()
    model.save_pretrained(tmp_path / "own")
    torch.testing.assert_close(
        load_multimodal(tmp_path / "own", dtype="float64", device="cpu")(pixels(2, 16)), model(pixels(2, 16))
    )
    with pytest.raises(RequestError, match=r"pixels: expected .* \(batch, 3, 16, 16\)"):
        model(pixels(2, 24))
    with pytest.raises(SpecError, match="patch: 7 must divide image"):
        make_method("multimodal", {"name": "vit", "patch": 7})
    config = tmp_path / "own" / "config.json"
    config.write_text(config.read_text().replace("llmanac-multimodal", "clap"))
    with pytest.raises(CheckpointError, match=r"config.json: model_type"):
        load_multimodal(tmp_path / "own")
