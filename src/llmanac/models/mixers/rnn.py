"""The vanilla recurrent network (Elman network): the state is a squashed linear map of the input and the last state.

    h' = f(W x + b + U h + c),  f tanh or relu        x (B, D), h (B, H)

The gradient over k steps is a product of k matrices U^T diag(f'): where their singular values are below 1 it vanishes
exponentially, above 1 it may explode (Bengio et al. 1994; Pascanu et al. 2013). Elman 1990; Mikolov et al. 2010 for
language models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from llmanac.models.mixers._recurrence import Recurrence, RecurrenceSpec

CARD = {
    "title": "Vanilla recurrent network (RNN)",
    "paper": "Elman 1990; Mikolov et al. 2010",
    "reference": "torch.nn.RNN: outputs, final states and gradients",
    "test": "tests/references/test_recurrent_layers.py::test_outputs_states_and_gradients_equal_torch",
    "aliases": {"rnn-relu": {"activation": "relu"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(RecurrenceSpec):
    """hidden: H, by default D; activation: f."""

    activation: Literal["tanh", "relu"] = "tanh"

    def build(self, *, dim: int, **dims: Any) -> RNN:
        return RNN(dim, self.hidden or dim, self.activation)


class RNN(Recurrence):
    """See the module."""

    gates: ClassVar[int] = 1

    def __init__(self, dim: int, hidden: int, activation: Literal["tanh", "relu"]) -> None:
        super().__init__(dim, hidden)
        self.kernel = "rnn" if activation == "tanh" else "rnn-relu"
        self.activation = torch.tanh if activation == "tanh" else torch.relu

    def cell(self, projected: Tensor, h: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.activation(projected + self.hidden_proj(h[0])),)
