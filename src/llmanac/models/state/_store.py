"""Tensors with a row axis, which several states may see parts of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from llmanac.models.state import LayerState

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
