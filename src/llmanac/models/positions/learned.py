"""Learned absolute positions: one trained vector a position, added to the token embedding.

    x = E[token] + P[p]          P is (rows, D)

The simplest form, and GPT-2's. A position past the last row does not exist, and a row that training never reached is
noise: the loss breaks past the trained length. Radford et al. 2019; Gehring et al. 2017, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.models.layers import Embedding
from llmanac.models.positions import Position, PositionSpec

CARD = {
    "title": "Learned positions",
    "paper": "Radford et al. 2019 (GPT-2)",
    "reference": "transformers.GPT2LMHeadModel",
}


@dataclass(frozen=True, kw_only=True)
class Spec(PositionSpec):
    """rows: of vectors; by default `max_length` of the model and `offset`; offset: the row of position 0 (RoBERTa)."""

    rows: int | None = None
    offset: int = 0

    ranges = within(COUNT, "rows")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.offset < (self.rows or self.offset + 1):
            raise SpecError(f"offset: {self.offset} must be at least 0 and below rows, {self.rows}")

    def resolved(self, max_length: int) -> Spec:
        return replace(self, rows=self.rows or max_length + self.offset)

    def build(self, *, dim: int, max_length: int, **dims: Any) -> Learned:
        return Learned(self.rows or max_length + self.offset, dim, self.offset)


class Learned(Position):
    """See the module."""

    def __init__(self, rows: int, dim: int, offset: int = 0) -> None:
        super().__init__()
        self.limit, self.offset = rows - offset, offset
        self.embeddings = Embedding(rows, dim)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        # the model has checked that every position has a row (`limit`)
        return x + self.embeddings(positions + self.offset if self.offset else positions).to(x.dtype)
