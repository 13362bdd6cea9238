"""Hybrid retrieval: the rankings of several retrievers joined by reciprocal rank fusion.

    score(d) = sum over rankings r of  weight_r / (k + rank_r(d))        rank 1 is the best; no rank adds nothing

Only ranks count, so that scores of different scales (BM25's and cosines) need no calibration.
Cormack, Clarke & Büttcher 2009, Reciprocal rank fusion outperforms Condorcet and individual rank learning methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmanac.core.errors import SpecError
from llmanac.retrieve import Hit, RetrieverSpec, bm25, dense

CARD = {
    "title": "Hybrid retrieval by reciprocal rank fusion",
    "paper": "Cormack, Clarke & Büttcher 2009, SIGIR",
    "reference": "the formula, written out over complete rankings",
    "test": "tests/references/test_dense.py::test_fusion_equals_the_formula",
}


@dataclass(frozen=True, kw_only=True)
class Spec(RetrieverSpec):
    """Choices of the fusion.

    Attributes:
        lexical, dense: the two retrievers; weights: of their rankings.
        k: how little the first ranks differ; depth: places of each ranking that are read.
    """

    lexical: RetrieverSpec = field(default_factory=bm25.Spec)
    dense: RetrieverSpec = field(default_factory=dense.Spec)
    weights: tuple[float, float] = (1.0, 1.0)
    k: float = 60.0
    depth: int = 100

    def __post_init__(self) -> None:
        if self.k < 0 or self.depth < 1:
            raise SpecError(f"k, depth: k must be 0 or more and depth 1 or more, got k={self.k}, depth={self.depth}")
        if len(self.weights) != 2 or min(self.weights) < 0:
            raise SpecError(f"weights: expected two numbers of 0 or more, got {self.weights}")

    def build(self, *, texts: Sequence[str] = (), **dims: Any) -> Hybrid:
        return Hybrid([self.lexical.build(texts=texts), self.dense.build(texts=texts, **dims)], self)


class Hybrid:
    """Retrievers over the same texts, joined. `top` as each of them has it."""

    def __init__(self, retrievers: Sequence[Any], spec: Spec | None = None) -> None:
        self.retrievers, self.spec = list(retrievers), spec or Spec()

    def __len__(self) -> int:
        return len(self.retrievers[0])

    def top(self, query: str, k: int = 5) -> list[Hit]:
        """The `k` best texts of the joined ranking, best first; of equal ones the first."""
        depth = max(k, self.spec.depth)
        rankings = [[hit.position for hit in one.top(query, depth)] for one in self.retrievers]
        return fuse(rankings, self.spec.k, self.spec.weights)[: max(0, k)]


def fuse(rankings: Sequence[Sequence[int]], k: float = 60.0, weights: Sequence[float] | None = None) -> list[Hit]:
    """Rankings of positions, best first, joined; best first, of equal ones the first."""
    scores: dict[int, float] = {}
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for rank, position in enumerate(ranking, 1):
            scores[position] = scores.get(position, 0.0) + weight / (k + rank)
    return [Hit(*item) for item in sorted(scores.items(), key=lambda item: (-item[1], item[0]))]
