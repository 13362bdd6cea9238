"""Sinusoidal positions: fixed sines and cosines of geometric wavelengths, added to the token embeddings.

    PE[p, 2i] = sin(p / theta^(2i/D))      PE[p, 2i+1] = cos(p / theta^(2i/D))      x = sqrt(D) E[token] + PE[p]

PE is (T, D). PE[p + k] is a linear function of PE[p], so a fixed offset looks the same everywhere; nothing is learned
and no position is out of range. The factor sqrt(D) is the paper's own (section 3.4), and goes with embeddings that
start at D^-0.5: together they make tokens as large as the sines, which would drown smaller ones. Vaswani et al. 2017,
section 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmanac.core.ranges import POSITIVE, within
from llmanac.models.layers import upcast
from llmanac.models.positions import Position, PositionSpec

CARD = {
    "title": "Sinusoidal positions",
    "paper": "Vaswani et al. 2017, arXiv:1706.03762",
    "reference": "the paper's formula; CTRL in transformers up to its order of sines and cosines",
}


@dataclass(frozen=True, kw_only=True)
class Spec(PositionSpec):
    """theta: base of the wavelengths, which run from 2 pi to 2 pi theta.

    order: of the numbers of a position: sines and cosines take turns, or all sines come first (Marian).
    """

    theta: float = 10_000.0
    order: Literal["turns", "halves"] = "turns"

    ranges = within(POSITIVE, "theta")

    def build(self, *, dim: int, **dims: Any) -> Sinusoidal:
        return Sinusoidal(dim, self.theta, self.order)


def sinusoids(positions: Tensor, dim: int, theta: float, order: Literal["turns", "halves"] = "turns") -> Tensor:
    """Positions (...) -> (..., dim), in float64 so that far positions keep their digits."""
    pairs = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device)
    angles = positions.double()[..., None] * theta ** (-pairs / dim)
    if order == "halves":
        return torch.cat([angles.sin(), angles.cos()[..., : dim // 2]], dim=-1)
    both = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return both[..., :dim]


class Sinusoidal(Position):
    """See the module."""

    def __init__(self, dim: int, theta: float, order: Literal["turns", "halves"] = "turns") -> None:
        super().__init__()
        self.dim, self.theta, self.order = dim, theta, order
        self.embedding_std = dim**-0.5

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x * self.dim**0.5 + sinusoids(positions, self.dim, self.theta, self.order).to(upcast(x).dtype).to(
            x.dtype
        )
