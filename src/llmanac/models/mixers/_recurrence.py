"""What all recurrent layers share: the walk over time, documents that begin inside a row, padding, and the state.

    h_t = cell(W x_t + b, h_{t-1}),  h_0 = 0        y_t = W_o h_t        x and y (B, T, D), h (B, H)

At the first token of a packed document h starts from 0 again; at padding it stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.models._context import Context
from llmanac.models._layers import Linear
from llmanac.models.mixers import Mixer, MixerSpec
from llmanac.models.state.recurrent import RecurrentState


@dataclass(frozen=True, kw_only=True)
class RecurrenceSpec(MixerSpec):
    """hidden: H, by default D."""

    hidden: int | None = None

    def __post_init__(self) -> None:
        if self.hidden is not None and self.hidden < 1:
            raise SpecError(f"hidden: {self.hidden} must be at least 1")


class Recurrence(Mixer):
    """Base of the recurrent layers; a subclass sets `gates` and `memories` and defines `cell`.

    Attributes:
        gates: how many products of size H each of the two matrices makes.
        memories: how many vectors (B, H) the state has; the first is the output.
        input_proj: W_i (gates H, D) and b_i; hidden_proj: W_h (gates H, H) and b_h, rows in the order of torch.nn.
    """

    supports: ClassVar[frozenset[str]] = frozenset({"causal", "packed"})
    gates: ClassVar[int]
    memories: ClassVar[int] = 1

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.input_proj = Linear(dim, self.gates * hidden, bias=True)
        self.hidden_proj = Linear(hidden, self.gates * hidden, bias=True)
        self.o_proj = Linear(hidden, dim, std=0.0)

    def cell(self, projected: Tensor, h: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One step: (B, gates H) of the input and the state -> the next state, each (B, H)."""
        raise NotImplementedError

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> RecurrentState:
        zeros = [torch.zeros(batch, self.hidden, dtype=dtype, device=device) for _ in range(self.memories)]
        return RecurrentState(zeros)

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        held = None if state is None or context.slots is None else state.tensors
        h = tuple(held) if held else tuple(x.new_zeros(len(x), self.hidden) for _ in range(self.memories))
        begins, real = context.document_starts(), context.real()
        length = x.shape[1]
        # unbind, not indexing: each index's backward would allocate the full tensor
        steps = self.input_proj(x).unbind(1)
        fresh = begins.unbind(1) if begins is not None else [None] * length
        kept = real.unbind(1) if real is not None else [None] * length
        outputs = []
        for projected, new, use in zip(steps, fresh, kept, strict=True):
            if new is not None:
                h = tuple(part.masked_fill(new[:, None], 0) for part in h)
            following = self.cell(projected, h)
            h = following if use is None else tuple(
                torch.where(use[:, None], b, a) for a, b in zip(h, following, strict=True)
            )  # fmt: skip
            outputs.append(following[0])
        if state is not None and context.slots is not None:
            state.update(*h)
        y: Tensor = self.o_proj(torch.stack(outputs, dim=1))
        return y

    def flops(self, keys: float) -> float:
        return 2.0 * sum(p.weight.numel() for p in (self.input_proj, self.hidden_proj, self.o_proj))
