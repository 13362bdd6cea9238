"""Long short-term memory (LSTM): a memory cell that is added to, with gates for what enters, stays and is shown.

    i = sigmoid(W_i x + b_i + U_i h + c_i)        f = sigmoid(W_f x + b_f + U_f h + c_f)
    g = tanh(W_g x + b_g + U_g h + c_g)           o = sigmoid(W_o x + b_o + U_o h + c_o)
    m' = f m + i g        h' = o tanh(m')         x (B, D), h and m (B, H)

Where f is 1 the memory m keeps its value and its gradient over any distance; a vanilla network multiplies both by a
matrix at every step. The biases of f start at 1, so that a new network remembers. Hochreiter & Schmidhuber 1997, with
the forget gate of Gers et al. 2000; Jozefowicz et al. 2015 for its initial bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmanac.kernels.nn.recurrence import Cell
from llmanac.models.layers import Linear
from llmanac.models.mixers._recurrence import Recurrence, RecurrenceSpec

CARD = {
    "title": "Long short-term memory (LSTM)",
    "paper": "Hochreiter & Schmidhuber 1997; Gers et al. 2000",
    "reference": "torch.nn.LSTM: outputs, final states and gradients",
    "test": "tests/references/test_recurrent_layers.py::test_outputs_states_and_gradients_equal_torch",
}


@dataclass(frozen=True, kw_only=True)
class Spec(RecurrenceSpec):
    """hidden: H, by default D."""

    def build(self, *, dim: int, **dims: Any) -> LSTM:
        return LSTM(dim, self.hidden or dim)


class LSTM(Recurrence):
    """See the module. The state is h and m."""

    kernel: Cell = "lstm"
    gates: ClassVar[int] = 4
    memories: ClassVar[int] = 2

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim, hidden)
        self.input_proj = RememberingLinear(dim, 4 * hidden)

    def cell(self, projected: Tensor, h: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        before, memory = h
        i, f, g, o = (projected + self.hidden_proj(before)).chunk(4, dim=-1)
        memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(memory), memory


class RememberingLinear(Linear):
    """The input's part of the gates; the bias of the forget gate, the second quarter, starts at 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=True)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        super().init_parameter(name, parameter, generator)
        if name == "bias":
            parameter.chunk(4)[1].fill_(1.0)
