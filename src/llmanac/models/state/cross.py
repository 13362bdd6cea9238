"""Keys and values of a source sequence (an encoder's output), computed once a row and read at every step.

Several states of one layer: a block with self-attention and cross-attention remembers both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmanac.models.state import LayerState
from llmanac.models.state.kv import StoredState, grown


class CrossState(StoredState):
    """Keys and values (B, H_kv, S, d), and which of the S places are real (B, S)."""

    kind: ClassVar[str] = "cross-attention"

    def __init__(self, batch: int, heads: int, head_dim: int, *, dtype: torch.dtype, device: torch.device) -> None:
        kv = [torch.zeros(batch, heads, 0, head_dim, dtype=dtype, device=device) for _ in range(2)]
        super().__init__([*kv, torch.zeros(batch, 0, dtype=torch.bool, device=device)])

    def fill(self, keys: Tensor, values: Tensor, real: Tensor) -> None:
        """Take the keys and values (B, H_kv, S, d) of a source of which `real` (B, S) says what is not padding."""
        size = real.shape[1]
        k, v, mask = self.store.tensors
        if size > mask.shape[1]:
            self.store.tensors = [grown(k, size, 2), grown(v, size, 2), grown(mask, size, 1)]
        k, v, mask = self.tensors
        mask.zero_()
        for tensor, new in ((k, keys), (v, values)):
            tensor.narrow(2, 0, size).copy_(new.detach())
        mask.narrow(1, 0, size).copy_(real)

    def read(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and which places are real."""
        k, v, mask = self.tensors
        return k, v, mask

    def rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """The source does not change."""

    def join(self, other: CrossState) -> CrossState:
        size = max(self.tensors[2].shape[1], other.tensors[2].shape[1])
        pairs = zip(self.tensors, other.tensors, (2, 2, 1), strict=True)
        return self._like([torch.cat([grown(a, size, dim), grown(b, size, dim)]) for a, b, dim in pairs])


class CompositeState(LayerState):
    """`parts` by name; each does what the whole is asked to do."""

    kind: ClassVar[str] = "composite"

    def __init__(self, **parts: LayerState) -> None:
        self.parts = parts

    def __getitem__(self, name: str) -> Any:
        return self.parts[name]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    def reserve(self, tokens: int) -> None:
        for part in self.parts.values():
            part.reserve(tokens)

    def mark(self, counts: Sequence[int]) -> dict[str, Any]:
        return {name: part.mark(counts) for name, part in self.parts.items()}

    def check_rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        for name, part in self.parts.items():
            part.check_rewind(None if mark is None else mark[name], lengths, counts)

    def rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        for name, part in self.parts.items():
            part.rewind(None if mark is None else mark[name], lengths, counts)

    def extend(self, rows: int) -> None:
        for part in self.parts.values():
            part.extend(rows)

    def arrange(self, order: Sequence[int]) -> None:
        for part in self.parts.values():
            part.arrange(order)

    def view(self, start: int, stop: int) -> CompositeState:
        return CompositeState(**{name: part.view(start, stop) for name, part in self.parts.items()})

    def select(self, rows: Tensor) -> CompositeState:
        return CompositeState(**{name: part.select(rows) for name, part in self.parts.items()})

    def join(self, other: CompositeState) -> CompositeState:
        return CompositeState(**{name: part.join(other.parts[name]) for name, part in self.parts.items()})
