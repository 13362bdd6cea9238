"""Learned positions in two dimensions: where a token is in the text, and where it is within a span that fills a blank.

    x = E[token] + P[p] + Q[q]          P, Q (rows, D)

A token of the text has q = 0. A token that is written into a blank has the blank's p, and q = 1, 2, ... within what is
written: the model never learns from positions how long the missing span is. `Batch.within` holds q.

Paper: Du et al. 2022 (GLM, https://arxiv.org/abs/2103.10360), section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from llmanac.core.ranges import COUNT, within
from llmanac.models.layers import Embedding
from llmanac.models.positions import Position, PositionSpec

CARD = {
    "title": "Learned positions in two dimensions (GLM)",
    "paper": "https://arxiv.org/abs/2103.10360",
    "reference": "the sum of the two tables, in float64",
    "test": "tests/references/test_drawn_objectives.py::test_two_dimensional_positions_are_a_sum_of_two_tables",
}


@dataclass(frozen=True, kw_only=True)
class Spec(PositionSpec):
    """rows: of either table; by default `max_length` of the model."""

    rows: int | None = None

    ranges = within(COUNT, "rows")

    def resolved(self, max_length: int) -> Spec:
        return replace(self, rows=self.rows or max_length)

    def build(self, *, dim: int, max_length: int, **dims: Any) -> Learned2d:
        return Learned2d(self.rows or max_length, dim)


class Learned2d(Position):
    """See the module."""

    dimensions: ClassVar[int] = 2

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.limit = rows
        self.embeddings, self.within = Embedding(rows, dim), Embedding(rows, dim)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.embeddings(positions).to(x.dtype)

    def embed_within(self, x: Tensor, within: Tensor | None) -> Tensor:
        if within is None:
            return x + self.within.weight[0].to(x.dtype)
        return x + self.within(within).to(x.dtype)
