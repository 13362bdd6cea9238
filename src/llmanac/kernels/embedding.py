"""Embedding lookup: a word's vector is its row of a table, which is what a one-hot vector times the table gives.

    x_i = e(id_i) W = W[id_i]                 e(id) (V,) one-hot, W (V, D)
    dL/dW[v] = sum over i with id_i = v of dL/dx_i

One-hot vectors of distinct words are orthogonal, so they say nothing about which words are alike; the rows of W are
free to. Multiplying costs V D a word, picking the row D. `lookup` is the fast form, `one_hot_lookup` the plain one that
it equals; `bag` sums or averages the rows of each of several word lists in one pass.

Papers: Bengio et al. 2003, "A Neural Probabilistic Language Model", section 2.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.errors import SpecError


def one_hot(ids: Tensor, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(...) integers below `size` -> (..., size) with a single 1 each. Raises SpecError for an id out of range."""
    _check(ids, size)
    return torch.zeros(*ids.shape, size, dtype=dtype, device=ids.device).scatter_(-1, ids[..., None], 1.0)


def one_hot_lookup(ids: Tensor, table: Tensor) -> Tensor:
    """The plain form: the product of one-hot vectors with the table (V, D); V D work and V numbers a word."""
    return one_hot(ids, len(table), table.dtype) @ table


def lookup(ids: Tensor, table: Tensor) -> Tensor:
    """(...) integers and a table (V, D) -> (..., D), the rows; equal to `one_hot_lookup` in value and gradient.

    Raises:
        SpecError: ids that are no integers or not below V.
    """
    _check(ids, len(table))
    out: Tensor = _Lookup.apply(ids, table)
    return out


def bag(ids: Tensor, lengths: Tensor, table: Tensor, pool: Literal["sum", "mean"] = "sum") -> Tensor:
    """Word lists, one after the other, to one vector each.

    Args:
        ids: (N,) the words of all lists; lengths: (B,) how many each list has, with sum N.
        table: (V, D).

    Returns:
        (B, D): the sum or the mean of each list's rows; 0 for an empty list.

    Raises:
        SpecError: lengths that do not add up to N, or an id out of range.
    """
    _check(ids, len(table))
    if int(lengths.sum()) != len(ids):
        raise SpecError(f"bag: lengths add up to {int(lengths.sum())}, but there are {len(ids)} ids")
    starts = torch.cumsum(lengths, 0) - lengths
    return F.embedding_bag(ids, table, starts, mode=pool)


def _check(ids: Tensor, size: int) -> None:
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise SpecError(f"ids: {ids.dtype} are no word ids; give integers")
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= size):
        wrong = ids[(ids < 0) | (ids >= size)].flatten()[0]
        raise SpecError(f"ids: {int(wrong)} is not a word id below {size}")


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.rows = len(table)
        return table.index_select(0, ids.flatten()).view(*ids.shape, table.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (above,) = grads
        (ids,) = ctx.saved_tensors
        flat = above.reshape(-1, above.shape[-1])
        return None, flat.new_zeros(ctx.rows, flat.shape[1]).index_add(0, ids.flatten(), flat)
