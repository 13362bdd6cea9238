"""Feng et al. 2024 against the formula in numpy, walked token by token."""

from __future__ import annotations

import numpy as np
import torch
from _small_models import VOCABULARY, block, tokens, transformer

from llmanac.core.types import Batch


def model_of(mixer):
    return transformer(dim=12, position="none", tied=False, blocks=block(mixer, "none"))


def normed(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def logits_of(model, ids):
    """One document: embedding, layers of x + W_o minGRU(norm(x)), norm, head."""
    value = {name: p.detach().numpy() for name, p in model.named_parameters()}
    x = value["model.embed_tokens.weight"][ids]
    for layer in range(2):
        w = {k.removeprefix(f"model.layers.{layer}."): v for k, v in value.items()}
        inputs, h = normed(x, w["input_layernorm.weight"], model.model.norm.eps), 0.0
        steps = []
        for token in inputs:
            z = sigmoid(w["self_attn.gate_proj.weight"] @ token)
            h = (1 - z) * h + z * (w["self_attn.candidate_proj.weight"] @ token)
            steps.append(w["self_attn.o_proj.weight"] @ h)
        x = x + np.array(steps)
    return normed(x, value["model.norm.weight"], model.model.norm.eps) @ value["lm_head.weight"].T


def test_logits_equal_the_formula():
    """Rows of different lengths, packed documents, and a state read in pieces."""
    model, ids = model_of({"name": "min-gru", "hidden": 17}), tokens(3, 21)
    lengths = [21, 8, 1]
    found = model(Batch(ids=ids, lengths=torch.tensor(lengths))).logits.detach().numpy()
    for row, n in enumerate(lengths):
        np.testing.assert_allclose(found[row, :n], logits_of(model, ids[row, :n].numpy()), rtol=0, atol=1e-12)

    packed = model(Batch(ids=ids[:1], segments=torch.tensor([[0] * 9 + [1] * 12]))).logits[0].detach().numpy()
    np.testing.assert_allclose(packed[:9], logits_of(model, ids[0, :9].numpy()), rtol=0, atol=1e-12)
    np.testing.assert_allclose(packed[9:], logits_of(model, ids[0, 9:].numpy()), rtol=0, atol=1e-12)
    assert abs(packed[9:] - found[0, 9:]).max() > 1e-3

    state = model.start(1)
    pieces = [model(ids[:1, a:b], state).logits for a, b in ((0, 1), (1, 6), (6, 21))]
    np.testing.assert_allclose(torch.cat(pieces, 1)[0].detach().numpy(), found[0], rtol=0, atol=1e-12)


def test_it_is_not_a_model_without_memory():
    """The last logits depend on the first token, and differ from those of the mixer set to nothing."""
    model, ids = model_of("min-gru"), tokens(1, 9)
    last, other = model(ids).logits[0, -1], ids.clone()
    other[0, 0] = (ids[0, 0] + 1) % VOCABULARY
    assert (model(other).logits[0, -1] - last).abs().max() > 1e-4
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    assert (model(ids).logits[0, -1] - last).abs().max() > 1e-3
