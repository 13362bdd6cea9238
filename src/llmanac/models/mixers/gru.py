"""Gated recurrent unit (GRU): a reset gate decides what of the past enters, an update gate how much of it stays.

    r = sigmoid(W_r x + b_r + U_r h + c_r)        z = sigmoid(W_z x + b_z + U_z h + c_z)
    n = tanh(W_n x + b_n + r (U_n h + c_n))       h' = (1 - z) n + z h        x (B, D), h (B, H)

Where z is 1 the state passes unchanged, and so does its gradient. Three matrices where an LSTM has four. Cho et al.
2014, section 2.3, in cuDNN's form (the reset gate is applied after the product), which torch.nn.GRU has too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmanac.kernels.nn.recurrence import Cell
from llmanac.models.mixers._recurrence import Recurrence, RecurrenceSpec

CARD = {
    "title": "Gated recurrent unit (GRU)",
    "paper": "Cho et al. 2014, arXiv:1406.1078",
    "reference": "torch.nn.GRU: outputs and gradients",
    "test": "tests/references/test_recurrent.py::test_gru_equals_torch",
}


@dataclass(frozen=True, kw_only=True)
class Spec(RecurrenceSpec):
    """hidden: H, by default D."""

    def build(self, *, dim: int, **dims: Any) -> GRU:
        return GRU(dim, self.hidden or dim)


class GRU(Recurrence):
    """See the module."""

    kernel: Cell = "gru"
    gates: ClassVar[int] = 3

    def cell(self, projected: Tensor, h: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (before,) = h
        input_r, input_z, input_n = projected.chunk(3, dim=-1)
        hidden_r, hidden_z, hidden_n = self.hidden_proj(before).chunk(3, dim=-1)
        r, z = torch.sigmoid(input_r + hidden_r), torch.sigmoid(input_z + hidden_z)
        n = torch.tanh(input_n + r * hidden_n)
        return (torch.lerp(n, before, z),)
