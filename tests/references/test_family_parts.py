"""Folders that hold more than a language model, or less: models that see, and base models without a head."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch
from _families import BASES, EAGER, LLAMA, ours_of, theirs
from _small_models import randomise, tokens
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText

from llmanac.core.errors import CheckpointError
from llmanac.core.types import OutputRequest
from llmanac.models.load import load_model
from llmanac.models.save import export_model

HIDDEN = OutputRequest(hidden=True)


@pytest.mark.parametrize("case", ["qwen3", "mistral", "llama, multi-head, tied"])
def test_files_of_a_base_model_alone(case, tmp_path):
    """Embedding models are saved without the prefix, and without the head where it is a matrix of its own."""
    model = theirs(case)
    expected = ours_of(model, tmp_path)(tokens(1, 9), want=HIDDEN).hidden
    tied = model.config.tie_word_embeddings
    model.model.save_pretrained(tmp_path)
    assert not any(name.startswith("model.") for name in load_file(tmp_path / "model.safetensors"))
    with nullcontext() if tied else pytest.warns(UserWarning, match="holds no head; it gives vectors"):
        found = load_model(tmp_path, dtype="float64", device="cpu")
    assert torch.equal(found(tokens(1, 9), want=HIDDEN).hidden, expected)


@pytest.mark.parametrize(("kind", "whole"), [("gemma3_text", "gemma3"), ("mistral", "mistral3")])
@pytest.mark.parametrize("tied", [True, False])
def test_the_language_model_of_one_that_sees(kind, whole, tied, tmp_path):
    sight = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sight |= {"image_size": 8, "patch_size": 4}
    text = {**BASES.get(kind, LLAMA), "model_type": kind, "sliding_window": 5, "tie_word_embeddings": tied}
    config = AutoConfig.for_model(whole, text_config=text, vision_config=sight, tie_word_embeddings=tied)
    model = randomise(AutoModelForImageTextToText.from_config(config, **EAGER).double()).eval()
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="vision_tower and multi_modal_projector are left out"):
        ours = load_model(tmp_path, dtype="float64", device="cpu")
    ids, expected = tokens(2, 20), model(tokens(2, 20)).logits
    assert (ours(ids).logits - expected).abs().max() < 1e-6 * expected.abs().max()
    export_model(ours, tmp_path / "text", ours.family)
    assert json.loads((tmp_path / "text" / "config.json").read_text())["model_type"] == kind
    table = json.loads((tmp_path / "config.json").read_text())
    for wrong in ({"text_config": []}, {"text_config": {**table["text_config"], "model_type": ["a"]}}):
        (tmp_path / "config.json").write_text(json.dumps({**table, **wrong}))
        with pytest.warns(UserWarning), pytest.raises(CheckpointError, match=r"(text_config|model_type) is \["):
            load_model(tmp_path, device="cpu")
