"""Embedding lookup: a word's vector is its row of a table, which is what a one-hot vector times the table gives.

    x_i = e(id_i) W = W[id_i]                 e(id) (V,) one-hot, W (V, D)
    dL/dW[v] = sum over i with id_i = v of dL/dx_i

One-hot vectors of distinct words are orthogonal, so they say nothing about which words are alike; the rows of W are
free to. Multiplying costs V D a word, picking the row D. `lookup` is the fast form, `one_hot_lookup` the plain one that
it equals; `bag` sums or averages the rows of each of several word lists in one pass.

Papers: Bengio et al. 2003, "A Neural Probabilistic Language Model", section 2.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba types its functions itself)

from typing import Any, Literal

import torch
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.kernels.text import cached


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
        (B, D): the sum or the mean of each list's rows; 0 for an empty list. On the CPU in float32 or float64 by one
        loop over memory, else by `plain_bag`, which it equals.

    Raises:
        SpecError: lengths that do not add up to N, or an id out of range.
    """
    _check(ids, len(table))
    if int(lengths.sum()) != len(ids) or (len(lengths) and int(lengths.min()) < 0):
        raise SpecError(f"bag: lengths add up to {int(lengths.sum())}, but there are {len(ids)} ids")
    if table.device.type != "cpu" or table.dtype not in (torch.float32, torch.float64):
        return plain_bag(ids, lengths, table, pool)
    out: Tensor = _Bag.apply(ids.long(), lengths.long(), table, pool == "mean")
    return out


def plain_bag(ids: Tensor, lengths: Tensor, table: Tensor, pool: Literal["sum", "mean"] = "sum") -> Tensor:
    """The plain form of `bag`: look every word up, then add the vectors of each list."""
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=ids.device), lengths)
    out = table.new_zeros(len(lengths), table.shape[1]).index_add(0, rows, lookup(ids, table))
    return out if pool == "sum" else out / lengths.clamp(min=1)[:, None].to(out.dtype)


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


class _Bag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, lengths: Tensor, table: Tensor, mean: bool) -> Tensor:
        ctx.save_for_backward(ids, lengths)
        ctx.shape, ctx.mean = table.shape, mean
        out = table.new_zeros(len(lengths), table.shape[1])
        rows = table.detach().contiguous()
        _add_rows(ids.contiguous().numpy(), lengths.contiguous().numpy(), rows.numpy(), out.numpy(), mean)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (above,) = grads
        ids, lengths = ctx.saved_tensors
        table = above.new_zeros(ctx.shape)
        above = above.contiguous()
        _add_back(ids.contiguous().numpy(), lengths.contiguous().numpy(), above.numpy(), table.numpy(), ctx.mean)
        return None, None, table, None


@cached
def _add_rows(ids, lengths, table, out, mean):
    """out[i] = sum (or mean) of the table's rows for list i."""
    at = 0
    for i in range(len(lengths)):
        for j in range(at, at + lengths[i]):
            for d in range(table.shape[1]):
                out[i, d] += table[ids[j], d]
        if mean and lengths[i] > 1:
            for d in range(table.shape[1]):
                out[i, d] /= lengths[i]
        at += lengths[i]


@cached
def _add_back(ids, lengths, above, table, mean):
    """Every word's row of the gradient takes what came down to its lists."""
    at = 0
    for i in range(len(lengths)):
        share = 1.0 / lengths[i] if mean and lengths[i] > 1 else 1.0
        for j in range(at, at + lengths[i]):
            for d in range(table.shape[1]):
                table[ids[j], d] += above[i, d] * share
        at += lengths[i]
