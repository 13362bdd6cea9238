"""What decoding remembers: one growing buffer of keys and values a layer, each row at its own length.

Rows may hold different numbers of tokens: new tokens of row b are written at `lengths[b]`, and a mask hides what is
past a row's end. While every row is as long as the others (the usual case) writing is one slice and no mask is built.
Capacity grows by doubling, so appending token by token costs O(n) copies in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from llmanac.core.errors import RequestError

SMALLEST = 16  # tokens of a first allocation


@dataclass(frozen=True)
class SlotMapping:
    """Where the next tokens of a forward pass go.

    Attributes:
        offsets: (B,) where each row's new tokens begin.
        start: the same as one number where all rows agree, else None.
        tokens: T, new tokens a row (a padded batch counts its padding).
        keys: S, the keys that attention reads: the longest row with the new tokens in.
    """

    offsets: Tensor
    start: int | None
    tokens: int
    keys: int

    def write(self, buffer: Tensor, new: Tensor, dim: int) -> None:
        """Write `new` into `buffer` along its token axis `dim` (1 or 2); the batch axis is 0."""
        if self.start is not None:
            buffer.narrow(dim, self.start, self.tokens).copy_(new)
            return
        rows = torch.arange(buffer.shape[0], device=buffer.device)[:, None]
        columns = self.offsets[:, None] + torch.arange(self.tokens, device=buffer.device)
        if dim == 1:
            buffer[rows, columns] = new.to(buffer.dtype)
        else:
            buffer[rows, :, columns] = new.transpose(1, 2).to(buffer.dtype)


class LayerState(Protocol):
    """What one layer (or the head) remembers; rows are sequences."""

    @property
    def nbytes(self) -> int: ...
    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` tokens a row in all."""

    def select(self, rows: Tensor) -> Any: ...
    def join(self, other: Any) -> Any: ...


class KVCache:
    """Named buffers that grow along their token axis together; the base of the KV cache and of the pointer's memory.

    Args:
        shapes: for each buffer its shape with the token axis at `dim` (the size given there is the capacity).
    """

    def __init__(self, tensors: Sequence[Tensor], dim: int) -> None:
        self.tensors = list(tensors)
        self.dim = dim

    @property
    def capacity(self) -> int:
        return self.tensors[0].shape[self.dim]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors)

    def reserve(self, tokens: int) -> None:
        if tokens <= self.capacity:
            return
        size = max(SMALLEST, self.capacity)
        while size < tokens:
            size *= 2
        self.tensors = [_grown(t, size, self.dim) for t in self.tensors]

    def append(self, slot_mapping: SlotMapping, *new: Tensor) -> list[Tensor]:
        """Write the new tokens and return each buffer up to the longest row's end."""
        self.reserve(slot_mapping.keys)
        for buffer, value in zip(self.tensors, new, strict=True):
            slot_mapping.write(buffer, value, self.dim)
        return [t.narrow(self.dim, 0, slot_mapping.keys) for t in self.tensors]

    def select(self, rows: Tensor) -> KVCache:
        return KVCache([t.index_select(0, rows) for t in self.tensors], self.dim)

    def join(self, other: KVCache) -> KVCache:
        size = max(self.capacity, other.capacity)
        pairs = zip(self.tensors, other.tensors, strict=True)
        return KVCache([torch.cat([_grown(a, size, self.dim), _grown(b, size, self.dim)]) for a, b in pairs], self.dim)


def _grown(x: Tensor, size: int, dim: int) -> Tensor:
    if x.shape[dim] == size:
        return x
    shape = list(x.shape)
    shape[dim] = size
    grown = x.new_zeros(shape)  # zeros, not garbage: a masked NaN would still spoil a product
    grown.narrow(dim, 0, x.shape[dim]).copy_(x)
    return grown


def kv_cache(batch: int, heads: int, head_dim: int, *, dtype: torch.dtype, device: torch.device) -> KVCache:
    """An empty cache of keys and values, each (B, H_kv, capacity, head_dim)."""
    return KVCache([torch.zeros(batch, heads, 0, head_dim, dtype=dtype, device=device) for _ in range(2)], dim=2)


class DecodingState:
    """The state of a model. See `core.types.State`.

    Attributes:
        lengths: (B,) int64, tokens that each row has seen.
        layers: one LayerState a layer, and one for the head where it remembers something (else None).
    """

    def __init__(self, layers: Sequence[LayerState | None], lengths: Tensor, *, longest: int = 0, level: bool = True):
        self.layers = list(layers)
        self.lengths = lengths
        self._longest = longest  # the longest row, known on the host so that no step waits for the device
        self._level = level  # whether every row is as long as the others

    @property
    def nbytes(self) -> int:
        """Bytes held, unused capacity included."""
        return sum(layer.nbytes for layer in self.layers if layer is not None)

    @property
    def batch(self) -> int:
        return self.lengths.shape[0]

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more tokens a row."""
        for layer in self.layers:
            if layer is not None:
                layer.reserve(self._longest + tokens)

    def slot_mapping(self, tokens: int) -> SlotMapping:
        """Where the next `tokens` tokens of every row go."""
        start = self._longest if self._level else None
        return SlotMapping(self.lengths, start, tokens, self._longest + tokens)

    def advance(self, tokens: int, lengths: Tensor | None = None) -> None:
        """Count `tokens` new tokens a row, or `lengths` (B,) of them where rows were padded."""
        if lengths is None:
            self.lengths = self.lengths + tokens
            self._longest += tokens
        else:
            self._set(self.lengths + lengths.to(self.lengths))

    def select(self, rows: Tensor) -> DecodingState:
        """A state of these rows (indices, repeats allowed); nothing is shared with this one."""
        rows = rows.to(self.lengths.device)
        layers = [None if layer is None else layer.select(rows) for layer in self.layers]
        chosen = DecodingState(layers, self.lengths.index_select(0, rows), longest=self._longest, level=self._level)
        if not self._level:
            chosen._set(chosen.lengths)
        return chosen

    def join(self, other: DecodingState) -> DecodingState:
        """The rows of both, these first.

        Raises:
            RequestError: the two states belong to models of different depth.
        """
        if len(self.layers) != len(other.layers):
            raise RequestError(
                f"state: cannot join a state of {len(self.layers)} parts with one of {len(other.layers)}; "
                "both must come from the same model"
            )
        layers = [None if a is None or b is None else a.join(b) for a, b in zip(self.layers, other.layers, strict=True)]
        joined = DecodingState(layers, torch.cat([self.lengths, other.lengths]))
        joined._set(joined.lengths)
        return joined

    def mark(self) -> Tensor:
        """The lengths now, to `rewind` to."""
        return self.lengths.clone()

    def rewind(self, lengths: Tensor) -> None:
        """Forget each row's tokens past `lengths` (B,).

        Raises:
            RequestError: a row would become longer than it is, or negative.
        """
        lengths = lengths.to(self.lengths)
        if lengths.shape != self.lengths.shape or bool(((lengths > self.lengths) | (lengths < 0)).any()):
            raise RequestError(
                f"state: cannot rewind rows of {self.lengths.tolist()} tokens to {lengths.tolist()}; "
                "give every row a length between 0 and its own"
            )
        self._set(lengths.clone())

    def _set(self, lengths: Tensor) -> None:
        self.lengths = lengths
        if len(lengths) == 0:
            self._longest, self._level = 0, True
            return
        self._longest = int(lengths.max())
        self._level = bool((lengths == lengths[0]).all())
