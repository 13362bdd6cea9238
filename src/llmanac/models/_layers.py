"""The parameterised pieces that every part shares: a linear map and an embedding that know how they are initialised.

Weights are kept in their own dtype (float32 while training); a layer computes in the dtype of its input and casts its
weights to it. So the one cast at the embedding sets the precision of the model, without autocast.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """`y = x W^T + b`, computed in the dtype of `x`.

    Args:
        inputs, outputs: widths; `weight` is (outputs, inputs).
        bias: whether there is a `b` (outputs,).
        std: standard deviation of the initial weights; by default `inputs ** -0.5`.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False, std: float | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.std = inputs**-0.5 if std is None else std
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        init_normal(parameter, self.std if name == "weight" else 0.0, generator)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Embedding(nn.Module):
    """Rows of a table: (...) integers -> (..., dim)."""

    def __init__(self, rows: int, dim: int, *, std: float = 0.02) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(rows, dim))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        init_normal(parameter, self.std, generator)


@torch.no_grad()
def init_normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    """Normal numbers with this standard deviation (zeros for 0), drawn on the CPU in float32 whatever the parameter."""
    if std == 0.0:
        parameter.zero_()
        return
    drawn = torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, std, generator=generator)
    parameter.copy_(drawn)


def linear_all(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Several linear maps of one input.

    Layers that something has replaced (an adapter, a quantised form) are called one by one.
    """
    return tuple(layer(x) for layer in layers)


def upcast(x: Tensor) -> Tensor:
    """`x` in at least float32: what norms, softmax and losses are computed in."""
    return x if x.dtype == torch.float64 else x.float()
