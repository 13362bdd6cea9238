"""Frozen weights in the compute dtype: the same outputs and gradients as with all weights in float32."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from _small_models import block, gradients, shifted, tokens, transformer

from llmanac.core.errors import SpecError
from llmanac.models.freeze import freeze
from llmanac.models.load import load_model

SHAPES = {
    "grouped, untied": {"tied": False, "blocks": block("grouped-query")},
    "tied, gpt2": {"norm": "layernorm", "position": "learned", "blocks": block({"name": "softmax", "biases": "all"})},
    "experts": {"blocks": block(ffn="experts")},
    "mamba": {"blocks": block("mamba", "none"), "position": "none"},
}


@pytest.mark.parametrize("name", SHAPES)
def test_outputs_and_gradients_are_the_same_numbers(name):
    whole = transformer(dtype=torch.float32, **SHAPES[name])
    whole.compute_dtype = torch.bfloat16
    for parameter, tensor in whole.named_parameters():
        tensor.requires_grad_("layers.1." in parameter and tensor.ndim == 2)
    half = freeze(deepcopy(whole))
    batch = shifted(tokens(3, 20))
    for model in (whole, half):
        model.nll(batch).backward()
    assert torch.equal(half(batch).logits, whole(batch).logits)
    assert gradients(half).keys() == gradients(whole).keys() and gradients(half)
    for parameter, gradient in gradients(half).items():
        assert gradient.dtype == torch.float32 and torch.equal(gradient, gradients(whole)[parameter]), parameter
    frozen = [p for p in half.parameters() if p.dtype == torch.bfloat16]
    assert frozen and not any(p.requires_grad for p in frozen)
    assert sum(p.nbytes for p in half.parameters()) < 0.9 * sum(p.nbytes for p in whole.parameters())


def test_a_model_that_computes_in_float32_still_does():
    """Then what is stored is rounded, once."""
    whole = transformer(dtype=torch.float32)
    half = freeze(deepcopy(whole), torch.bfloat16, trained=["*.q_proj.*"])
    assert half.dtype == torch.float32 and half.model.norm.weight.dtype == torch.float32
    assert {name for name, p in half.named_parameters() if p.requires_grad} == {
        f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2)
    }
    a, b = half(tokens(2, 20)).logits, whole(tokens(2, 20)).logits
    assert 0 < (a - b).abs().max() < 0.05 * b.abs().max()
    rounded = deepcopy(whole)
    for name, parameter in rounded.named_parameters():
        if "norm" not in name and "q_proj" not in name:
            parameter.data = parameter.data.bfloat16().float()
    assert torch.equal(a, rounded(tokens(2, 20)).logits)


def test_it_is_saved_and_loaded(tmp_path):
    half = freeze(transformer(dtype=torch.float32), torch.bfloat16, trained=["*norm*"])
    half.save_pretrained(tmp_path)
    again = load_model(tmp_path, device="cpu")
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert torch.equal(again(tokens(1, 9)).logits, half(tokens(1, 9)).logits)


def test_what_cannot_be_is_refused():
    with pytest.raises(SpecError, match=r"trained: no parameter is named \*lora\*"):
        freeze(transformer(), trained=["*lora*"])
    with pytest.raises(SpecError, match=r"dtype: torch.int8 is not a floating-point type"):
        freeze(transformer(), torch.int8)
