"""Embedding lookup: the product with one-hot vectors, torch's F.embedding, and bags of words beside F.embedding_bag."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import SpecError
from llmanac.kernels.nn.embedding import bag, lookup, one_hot, one_hot_lookup, plain_bag


def drawn(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(9,), (3, 4), (), (0,), (2, 0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_hot_times_the_table_is_the_row(shape, dtype):
    """The definition, our lookup and torch's: values equal to the last bit, gradients of repeated words added up."""
    table = drawn((13, 5), dtype=dtype).requires_grad_()
    ids = torch.randint(13, shape, generator=torch.Generator().manual_seed(1))
    above = drawn((*shape, 5), 2, dtype)
    values, slopes = [], []
    for form in (lookup, one_hot_lookup, F.embedding):
        value = form(ids, table)
        values.append(value)
        slopes.append(torch.autograd.grad((value * above).sum(), table)[0])
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])
    for slope in slopes[1:]:
        torch.testing.assert_close(slopes[0], slope, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=1e-6)
    if ids.numel() > 1:
        assert not torch.equal(values[0], table.detach()[: ids.numel()].reshape(values[0].shape))


def test_one_hot_vectors_of_different_words_are_orthogonal_and_learned_ones_need_not_be():
    vectors = one_hot(torch.arange(50), 50)
    assert torch.equal(F.cosine_similarity(vectors[:, None], vectors[None], dim=-1), torch.eye(50))
    dense = drawn((50, 8))
    cosines = F.cosine_similarity(dense[:, None], dense[None], dim=-1)
    assert (cosines - torch.eye(50)).abs().max() > 0.5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 10), max_size=6), min_size=1, max_size=8), st.sampled_from(["sum", "mean"]))
def test_bags_equal_torchs(lists, pool):
    table = drawn((11, 3)).requires_grad_()
    ids = torch.tensor([i for one in lists for i in one], dtype=torch.long)
    lengths = torch.tensor([len(one) for one in lists])
    above = drawn((len(lists), 3), 3)
    found = [form(ids, lengths, table, pool) for form in (bag, plain_bag)]
    found.append(F.embedding_bag(ids, table, lengths.cumsum(0) - lengths, mode=pool))
    slopes = [torch.autograd.grad((value * above).sum(), table)[0] for value in found]
    for value, slope in zip(found[1:], slopes[1:], strict=True):
        torch.testing.assert_close(found[0], value, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(slopes[0], slope, rtol=1e-13, atol=1e-13)


def test_a_bag_of_a_short_type_takes_the_plain_form():
    table = drawn((5, 4)).to(torch.bfloat16)
    ids, lengths = torch.tensor([0, 3, 3, 1]), torch.tensor([3, 0, 1])
    assert torch.equal(bag(ids, lengths, table), plain_bag(ids, lengths, table))


@pytest.mark.parametrize("form", [lookup, one_hot_lookup])
def test_ids_that_are_none_are_named(form):
    table = drawn((5, 2))
    for ids, message in (
        (torch.tensor([5]), "5 is not a word id below 5"),
        (torch.tensor([-1]), "-1 is not a word id"),
        (torch.tensor([1.0]), "are no word ids"),
    ):
        with pytest.raises(SpecError, match=message):
            form(ids, table)
    with pytest.raises(SpecError, match="add up to 3, but there are 2"):
        bag(torch.tensor([1, 2]), torch.tensor([3]), table)
