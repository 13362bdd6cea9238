"""A ring of the last W tokens a row: all that attention with a window of W can see, in memory that does not grow.

The token at position p is stored in slot p mod W; the slots' positions are kept beside them (-1 for an empty slot), and
masks are built from these positions. A piece of several tokens attends to the ring as it was and to its own tokens.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.models.state import SlotMapping
from llmanac.models.state.kv import KVCache, StoredState


class RingCache(StoredState):
    """Keys and values (B, H_kv, S + W, d) of the first S and the last W positions, and the positions (B, S + W)."""

    kind: ClassVar[str] = "ring"
    grows: ClassVar[bool] = True

    def __init__(
        self, batch: int, heads: int, head_dim: int, window: int, sinks: int = 0, *, dtype: torch.dtype,
        device: torch.device,
    ) -> None:  # fmt: skip
        size = window + sinks
        kv = [torch.zeros(batch, heads, size, head_dim, dtype=dtype, device=device) for _ in range(2)]
        super().__init__([*kv, torch.full((batch, size), -1, dtype=torch.long, device=device)])
        self.window, self.sinks = window, sinks

    def extend(self, rows: int) -> None:
        super().extend(rows)
        self.tensors[-1][len(self.tensors[-1]) - rows :] = -1

    def append(self, slots: SlotMapping, *new: Tensor) -> tuple[Tensor, ...]:
        *held, ring = self.tensors
        positions = slots.positions()
        single = slots.tokens == 1 and slots.lengths is None
        if not single:  # the piece's first queries still see what its last tokens will overwrite
            before = [torch.cat([old, fresh.to(old.dtype)], dim=2) for old, fresh in zip(held, new, strict=True)]
            seen = torch.cat([ring, positions], dim=1)
        keep = slots.real()
        if slots.tokens > self.window:  # two tokens of one piece must not meet in a slot
            length = keep.sum(1, keepdim=True)
            last = torch.arange(slots.tokens, device=keep.device) >= length - self.window
            keep = keep & (last | (positions < self.sinks))
        rows, columns = keep.nonzero(as_tuple=True)
        places = positions[rows, columns]
        places = torch.where(places < self.sinks, places, self.sinks + (places - self.sinks) % self.window)
        for tensor, value in zip(held, new, strict=True):
            tensor[rows, :, places] = value[rows, :, columns].to(tensor.dtype)
        ring[rows, places] = positions[rows, columns]
        positions = slots.known.setdefault((self.kind, self.window, self.sinks), ring.clone() if single else seen)
        return (*(held if single else before), positions)

    def mark(self, counts: Sequence[int]) -> list[Tensor]:
        return [t.clone() for t in self.tensors]

    def check_rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """Raises RequestError where the ring has overwritten what a row needs and the mark does not keep it."""
        ring = self.tensors[-1]
        target = torch.tensor(lengths, device=ring.device)[:, None]
        found, _ = self._after(mark, target)
        floor = (target - self.window).clamp(min=0)  # the oldest position that must be there afterwards
        if bool((((found >= floor) & (found < target)).sum(1, keepdim=True) < target - floor).any()):
            raise RequestError(
                f"state: a ring of {self.window} tokens has overwritten what {list(lengths)} needs; rewind it to a "
                "later length, or take marks more often"
            )

    def rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """Slots written since come from the mark."""
        *held, ring = self.tensors
        found, usable = self._after(mark, torch.tensor(lengths, device=ring.device)[:, None])
        if mark is not None:
            for tensor, kept in zip(held, mark, strict=False):
                tensor.copy_(torch.where(usable[:, None, :, None], kept, tensor))
        ring.copy_(found)

    def _after(self, mark: Any, target: Tensor) -> tuple[Tensor, Tensor]:
        """The positions (B, W) that slots hold once rows end at `target` (B, 1), and which of them the mark gives."""
        ring = self.tensors[-1]
        stale = ring >= target
        if mark is None:
            return ring.masked_fill(stale, -1), torch.zeros_like(stale)
        usable = stale & (mark[-1] < target) & (mark[-1] >= 0)
        return torch.where(stale, torch.where(usable, mark[-1], -1), ring), usable

    def growing(self) -> KVCache:
        """The cache of all tokens that stands in for it in a pool of blocks."""
        keys, values, _ = self.tensors
        return KVCache([keys[:, :, :0].contiguous(), values[:, :, :0].contiguous()], dim=2)
