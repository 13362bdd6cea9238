"""Claims of rows that are counted or hold by construction, and that no other test states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from _ngrams import model_of, sentences
from _small_models import VOCABULARY, block, tokens, transformer
from torch import nn

from llmanac import train_tokenizer
from llmanac.core.registry import build
from llmanac.core.spec import make_method
from llmanac.objectives.policy_gradient import by_group


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def mixer(name: str, dim: int) -> nn.Module:
    return transformer(dim=dim, blocks=block(name), position="none").model.layers[0].self_attn


@pytest.mark.parametrize("dim", [16, 48])
def test_a_gru_has_three_quarters_of_an_lstms_parameters(dim: int) -> None:
    own = {name: parameters(mixer(name, dim)) - dim * dim for name in ("gru", "lstm")}  # less the output product
    assert 4 * own["gru"] == 3 * own["lstm"] > 0


@pytest.mark.parametrize(("heads", "width"), [(2, 8), (4, 16)])
def test_scores_have_no_matrix_one_or_two(heads: int, width: int) -> None:
    own = {
        name: parameters(build("score", name, heads=heads, head_dim=width)) for name in ("dot", "bilinear", "additive")
    }
    assert own == {"dot": 0, "bilinear": heads * width**2, "additive": heads * (2 * width**2 + width)}


def test_words_are_many_where_pairs_of_bytes_need_few() -> None:
    """Distinct words of Python's documentation, of which the other tokenizer loses nothing with 300 ids."""
    texts = [one.text for one in make_method("source", "python-docs").documents()]
    words = train_tokenizer("word", texts, vocab_size=100_000)
    pairs = train_tokenizer("bpe", texts[:5], vocab_size=300)
    assert words.vocab_size > 2 * 8192
    assert all(pairs.decode(pairs.encode(text)) == text for text in texts[:20])


def test_an_ngram_models_bytes_grow_with_its_order() -> None:
    rows = sentences(3, 400, 50)
    sizes = [model_of(rows, 50, order, "kneser-ney").nbytes for order in range(1, 6)]
    assert sizes == sorted(set(sizes))


def test_a_further_word_of_context_adds_no_embedding() -> None:
    """The table is shared by all places: only the hidden layer gets `dim` columns more."""
    fields = {"name": "feedforward", "dim": 6, "hidden": 5}
    models = [make_method("lm", {**fields, "order": order}).build(vocab_size=VOCABULARY) for order in (2, 3, 4)]
    sizes = [parameters(model) for model in models]
    assert np.diff(sizes).tolist() == [6 * 5, 6 * 5]


def test_a_cache_grows_with_each_token() -> None:
    model, held = transformer(dtype=torch.float32), []
    for length in (16, 32, 64):  # what is held has room for the next power of two
        state = model.start(1)
        model(tokens(1, length), state)
        held.append(state.nbytes / length)
    assert len(set(held)) == 1 and held[0] > 0


@pytest.mark.parametrize("kind", ["rloo", "grpo", "dr-grpo"])
def test_an_offset_of_the_reward_changes_no_advantage(kind: str) -> None:
    rewards, groups = np.array([0.1, 0.9, 0.4, 0.3, 0.3, 0.8]), [0, 0, 0, 1, 1, 1]
    found = by_group(kind, rewards, groups)
    np.testing.assert_allclose(by_group(kind, rewards + 5, groups), found, atol=1e-9)
    assert abs(found).max() > 0.1
