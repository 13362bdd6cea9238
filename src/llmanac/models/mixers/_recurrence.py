"""What all recurrent layers share: the walk over time, documents that begin inside a row, padding, and the state.

    h_t = cell(W x_t + b, h_{t-1}),  h_0 = 0        y_t = W_o h_t        x and y (B, T, D), h (B, H)

At the first token of a packed document h starts from 0 again; at padding it stays as it is. On the CPU in float32 and
float64 the walk is a compiled kernel (`kernels/nn/recurrence.py`); `cell` is the same elsewhere.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from llmanac.core.ranges import COUNT, within
from llmanac.kernels.nn.recurrence import Cell, walk
from llmanac.kernels.nn.scan import takes
from llmanac.models.forward import Context
from llmanac.models.layers import Linear
from llmanac.models.mixers import Mixer, MixerSpec
from llmanac.models.state.recurrent import RecurrentState


@dataclass(frozen=True, kw_only=True)
class RecurrenceSpec(MixerSpec):
    """hidden: H, by default D."""

    hidden: int | None = None

    ranges = within(COUNT, "hidden")

    def resolved(self, dim: int) -> Self:
        return replace(self, hidden=self.hidden or dim)


class Recurrence(Mixer):
    """Base of the recurrent layers; a subclass sets `gates` and `memories` and defines `cell`.

    Attributes:
        kernel: what the compiled kernel calls the cell.
        gates: how many products of size H each of the two matrices makes.
        memories: how many vectors (B, H) the state has; the first is the output.
        input_proj: W_i (gates H, D) and b_i; hidden_proj: W_h (gates H, H) and b_h, rows in the order of torch.nn.
    """

    supports: ClassVar[frozenset[str]] = frozenset({"causal", "packed"})
    kernel: Cell
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
        # copies: autograd keeps what it read, and the state is overwritten below
        h = tuple(t.clone() if held else t for t in held or [x.new_zeros(len(x), self.hidden)] * self.memories)
        begins, real = context.document_starts(), context.real()
        projected, hidden = self.input_proj(x), self.hidden_proj
        # an adapter or a quantized form takes the way of single steps
        if takes(projected) and type(hidden) is Linear and hidden.change is None and hidden.bias is not None:
            y, h = walk(self.kernel, projected, hidden.weight.to(x.dtype), hidden.bias.to(x.dtype), h, begins, real)
        else:
            y, h = self.steps(projected, h, begins, real)
        if state is not None and context.slots is not None:
            state.update(*h)
        out: Tensor = self.o_proj(y)
        return out

    def steps(
        self, projected: Tensor, h: tuple[Tensor, ...], begins: Tensor | None, real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The outputs (B, T, H) and the last state, one `cell` after the other."""
        length = projected.shape[1]
        # unbind, not indexing: each index's backward would allocate the full tensor
        fresh = begins.unbind(1) if begins is not None else [None] * length
        kept = real.unbind(1) if real is not None else [None] * length
        outputs = []
        for step, new, use in zip(projected.unbind(1), fresh, kept, strict=True):
            if new is not None:
                h = tuple(part.masked_fill(new[:, None], 0) for part in h)
            following = self.cell(step, h)
            h = following if use is None else tuple(
                torch.where(use[:, None], b, a) for a, b in zip(h, following, strict=True)
            )  # fmt: skip
            outputs.append(h[0])
        return torch.stack(outputs, dim=1), h

    def flops(self, keys: float) -> float:
        return 2.0 * sum(p.weight.numel() for p in (self.input_proj, self.hidden_proj, self.o_proj))
