"""Cases of image models: transformers' model with large random weights, ours read from its files, random pictures."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from _small_models import randomise
from torch import Tensor

from llmanac.models.images.load import load_multimodal

VISION = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 56, "image_size": 24,
    "patch_size": 8,
}  # fmt: skip
TEXT = {
    "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 56,
    "max_position_embeddings": 40,
}  # fmt: skip


def theirs(model: str, config: str, seed: int = 0, **choices: Any) -> Any:
    """A float64 model of transformers with weights of deviation 0.2."""
    made = getattr(transformers, config)(**{"attn_implementation": "sdpa", **choices})
    built = getattr(transformers, model)(made)
    return randomise(built, seed).double().eval()


def ours_of(model: Any, folder: Any) -> Any:
    model.save_pretrained(folder)
    return load_multimodal(folder, dtype="float64", device="cpu")


def pixels(count: int = 3, size: int = 24, seed: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, least: float = 0.05, most: float = 1e-6) -> None:
    """Equal within `most` of the largest value; the values differ by `least`."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    assert expected.std() > least
    assert (actual - expected).abs().max() <= most * expected.abs().max()


def gradients_agree(ours: Any, model: Any, sources: Any, tolerance: float = 1e-6) -> None:
    """The gradient of every parameter of ours equals that of theirs."""
    found = {name: p.grad for name, p in model.named_parameters()}
    for name, parameter in ours.named_parameters():
        expected = sources(name, found)
        scale = expected.abs().max().clamp(min=1e-3)
        assert (parameter.grad.reshape(-1) - expected.reshape(-1)).abs().max() <= tolerance * scale, name
