"""A growing cache: each row's tokens in order, every row at its own length.

New tokens of row b are written at its length, and a mask hides what is past a row's end. While all rows are of one
length (the usual case) writing is one slice and no mask is built. Capacity doubles, so appending token by token
copies O(n) in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmanac.models.state import SlotMapping
from llmanac.models.state._store import StoredState, grown

SMALLEST = 16  # tokens of a first allocation


class KVCache(StoredState):
    """Named tensors that grow along their token axis together: keys and values, or a pointer's memory.

    Args:
        tensors: each with rows at axis 0 and tokens at axis `dim` (1 or 2); the size there is the capacity.
    """

    kind: ClassVar[str] = "key-value"

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
