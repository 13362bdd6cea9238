"""A growing cache: each row's tokens in order, every row at its own length.

New tokens of row b are written at its length, and a mask hides what is past a row's end. While all rows are of one
length (the usual case) writing is one slice and no mask is built. Capacity doubles, so appending token by token
copies O(n) in all.

Tensors with a row axis, which several states may see parts of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from llmanac.models.state import LayerState, SlotMapping
from llmanac.models.state.pool import PagedSlots

S = TypeVar("S", bound="StoredState")


class StateStore:
    """Tensors (rows, ...) that grow along their first axis by doubling: adding rows one by one copies O(n) in all."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)

    @property
    def capacity(self) -> int:
        """Rows that there is memory for."""
        return self.tensors[0].shape[0]

    def resize(self, size: int, dim: int) -> None:
        """Grow every tensor to `size` along an axis; what is new is zero, since a masked NaN would spoil a product."""
        self.tensors = [grown(t, size, dim) for t in self.tensors]


def grown(x: Tensor, size: int, dim: int) -> Tensor:
    """The same tensor with `size` places along an axis, zeros at the end."""
    if x.shape[dim] >= size:
        return x
    shape = list(x.shape)
    shape[dim] = size
    out = x.new_zeros(shape)
    out.narrow(dim, 0, x.shape[dim]).copy_(x)
    return out


class StoredState(LayerState):
    """Rows `start` to `stop` of a store.

    Args:
        tensors: each (B, ...); they become the store's.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.store = StateStore(tensors)
        self.start, self.stop = 0, self.store.capacity

    @property
    def tensors(self) -> list[Tensor]:
        """The rows of each tensor, over the same memory."""
        held = self.store.tensors
        if self.start == 0 and self.stop == held[0].shape[0]:
            return held  # slicing costs as much as a small product, for each layer of each step
        return [t[self.start : self.stop] for t in held]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.store.tensors if self.start == 0 else self.tensors))

    def _like(self: S, tensors: Sequence[Tensor]) -> S:
        """Another state of this kind over other tensors."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.store = StateStore(tensors)
        other.start, other.stop = 0, other.store.capacity
        return other

    def extend(self, rows: int) -> None:
        if self.stop + rows > self.store.capacity:
            self.store.resize(max(self.stop + rows, 2 * self.store.capacity), 0)
        for t in self.store.tensors:
            t[self.stop : self.stop + rows].zero_()
        self.stop += rows

    def arrange(self, order: Sequence[int]) -> None:
        if len(order) > self.stop:
            self.extend(len(order) - self.stop)
        moved = [(i, old) for i, old in enumerate(order) if i != old]
        if moved:
            to, source = torch.tensor(moved, device=self.store.tensors[0].device).unbind(1)
            for t in self.store.tensors:
                t.index_copy_(0, to, t.index_select(0, source))
        self.stop = len(order)

    def view(self: S, start: int, stop: int) -> S:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)  # the same store: a view that grows it grows it for all
        other.start, other.stop = self.start + start, self.start + stop
        return other

    def select(self: S, rows: Tensor) -> S:
        return self._like([t.index_select(0, rows) for t in self.tensors])

    def join(self: S, other: S) -> S:
        return self._like([torch.cat([a, b]) for a, b in zip(self.tensors, other.tensors, strict=True)])


SMALLEST = 16  # tokens of a first allocation
ROOM = 64  # tokens by which gathered rows can grow before they are copied


class KVCache(StoredState):
    """Named tensors that grow along their token axis together: keys and values, or a pointer's memory.

    Args:
        tensors: each with rows at axis 0 and tokens at axis `dim` (1 or 2); the size there is the capacity.
    """

    kind: ClassVar[str] = "key-value"
    grows: ClassVar[bool] = True

    def __init__(self, tensors: Sequence[Tensor], dim: int) -> None:
        super().__init__(tensors)
        self.dim = dim

    @property
    def capacity(self) -> int:
        """Tokens a row that there is memory for."""
        return self.store.tensors[0].shape[self.dim]

    def reserve(self, tokens: int) -> None:
        if tokens > self.capacity:
            size = max(SMALLEST, self.capacity)
            while size < tokens:
                size *= 2
            self.store.resize(size, self.dim)

    def append(self, slots: SlotMapping, *new: Tensor) -> tuple[Tensor, ...]:
        self.reserve(slots.keys)
        held = self.tensors
        for tensor, value in zip(held, new, strict=True):
            write(tensor, value, slots, self.dim)
        return (*[t.narrow(self.dim, 0, slots.keys) for t in held], slots.key_positions)

    def rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """The lengths say it all."""

    def join(self, other: KVCache) -> KVCache:
        size = max(self.capacity, other.capacity)
        pairs = zip(self.tensors, other.tensors, strict=True)
        return self._like([torch.cat([grown(a, size, self.dim), grown(b, size, self.dim)]) for a, b in pairs])

    def growing(self) -> KVCache:
        """What a pool of blocks is made for."""
        return self

    def paged(self, block_tokens: int) -> PagedLayer:
        """An empty store of blocks."""
        return PagedLayer(self, block_tokens)


def write(tensor: Tensor, new: Tensor, slots: SlotMapping, dim: int) -> None:
    """Write `new` into `tensor` along its token axis `dim` (1 or 2), each row from its own offset on."""
    if slots.start is not None:
        tensor.narrow(dim, slots.start, slots.tokens).copy_(new)
        return
    if "index" not in slots.known:  # one for all tensors of all layers
        slots.known["index"] = (torch.arange(tensor.shape[0], device=tensor.device)[:, None], slots.positions())
    rows, columns = slots.known["index"]
    if dim == 1:
        tensor[rows, columns] = new.to(tensor.dtype)
    else:
        tensor[rows, :, columns] = new.transpose(1, 2).to(tensor.dtype)


def kv_cache(batch: int, heads: int, head_dim: int, *, dtype: torch.dtype, device: torch.device) -> KVCache:
    """An empty cache of keys and values, each (B, H_kv, capacity, head_dim)."""
    return KVCache([torch.zeros(batch, heads, 0, head_dim, dtype=dtype, device=device) for _ in range(2)], dim=2)


class PagedLayer:
    """What one layer remembers, for all rows of all states of a pool; see `LayerState`."""

    def __init__(self, like: KVCache, block_tokens: int) -> None:
        self.dim = like.dim
        self.stores: list[Tensor] = []
        for tensor in like.tensors:
            shape = list(tensor.shape)
            del shape[self.dim], shape[0]
            with torch.inference_mode(False):  # so that the stores can be written in any mode
                self.stores.append(tensor.new_zeros((1, block_tokens, *shape)))

    def append(self, slots: PagedSlots, *new: Tensor) -> tuple[Tensor, ...]:
        """Write the new tokens and return each tensor, gathered, up to the longest row's end, and the key positions."""
        held = None if slots.gathered is None else slots.gathered.get(id(self))
        out: list[Tensor] = []
        for store, value in zip(self.stores, new, strict=True):
            by_token = value.detach() if self.dim == 1 else value.detach().transpose(1, 2)
            flat = store.view(-1, *store.shape[2:])
            flat.index_copy_(0, slots.places, by_token.reshape(-1, *store.shape[2:]).to(store.dtype))
            if held is not None:
                continue
            rows, blocks = slots.table.shape
            read = store.index_select(0, slots.table.flatten()).view(rows, blocks * store.shape[1], *store.shape[2:])
            read = read[:, : slots.keys]
            out.append(read if self.dim == 1 else read.transpose(1, 2))
        if held is not None:
            return held.append(slots, *new)
        if slots.gathered is not None:
            slots.gathered[id(self)] = KVCache([grown(x, slots.keys + ROOM, self.dim) for x in out], self.dim)
        return (*out, slots.key_positions)

    def resize(self, capacity: int) -> None:
        """Make room for so many blocks; what is new is zero."""
        with torch.inference_mode(False):
            for i, store in enumerate(self.stores):
                self.stores[i] = _zeros((capacity, *store.shape[1:]), store)
                self.stores[i][: len(store)].copy_(store[:capacity])

    def check_rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """Any length."""

    def rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """The lengths say it all."""

    def mark(self, counts: Sequence[int]) -> None:
        """The lengths say it all."""


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros; on the CPU from numpy, which asks for large memory pages: a row's blocks are far apart."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(math.prod(shape) * like.element_size(), np.uint8)).view(like.dtype).view(shape)
