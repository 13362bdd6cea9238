"""Hybrid retrieval: the rankings of several retrievers joined, by reciprocal ranks or by scores.

    ranks     score(d) = sum over rankings r of  weight_r / (k + rank_r(d))        rank 1 is the best
    scores    score(d) = sum over rankings r of  weight_r (s_r(d) - min s_r) / (max s_r - min s_r)

A text that a ranking does not have gets nothing from it. Ranks need no calibration of scores of different scales
(BM25's and cosines); scores, brought to 0..1 over the places that are read, keep by how much the first text leads.
Cormack, Clarke & Büttcher 2009, Reciprocal rank fusion outperforms Condorcet and individual rank learning methods;
Bruch, Gai & Ingber 2022, arXiv:2210.11934 (scores).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
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
        lexical, dense: the two retrievers; weights: of their rankings; fusion: ranks or scores.
        k: how little the first ranks differ; depth: places of each ranking that are read.
    """

    lexical: RetrieverSpec = field(default_factory=bm25.Spec)
    dense: RetrieverSpec = field(default_factory=dense.Spec)
    weights: tuple[float, float] = (1.0, 1.0)
    fusion: Literal["ranks", "scores"] = "ranks"
    k: float = 60.0
    depth: int = 100

    ranges = within(NOT_NEGATIVE, "k weights") | within(COUNT, "depth")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.weights) != 2:
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
        found = [one.top(query, depth) for one in self.retrievers]
        if self.spec.fusion == "scores":
            return fuse_scores(found, self.spec.weights)[: max(0, k)]
        rankings = [[hit.position for hit in hits] for hits in found]
        return fuse(rankings, self.spec.k, self.spec.weights)[: max(0, k)]


def fuse(rankings: Sequence[Sequence[int]], k: float = 60.0, weights: Sequence[float] | None = None) -> list[Hit]:
    """Rankings of positions, best first, joined; best first, of equal ones the first."""
    scores: dict[int, float] = {}
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for rank, position in enumerate(ranking, 1):
            scores[position] = scores.get(position, 0.0) + weight / (k + rank)
    return _ordered(scores)


def fuse_scores(found: Sequence[Sequence[Hit]], weights: Sequence[float] | None = None) -> list[Hit]:
    """Rankings with scores, best first, joined as `fuse` does; where all scores of one are equal, each counts 1."""
    scores: dict[int, float] = {}
    for hits, weight in zip(found, weights or [1.0] * len(found), strict=True):
        low, width = (hits[-1].score, hits[0].score - hits[-1].score) if hits else (0.0, 0.0)
        for position, score in hits:
            part = (score - low) / width if width > 0 else 1.0
            scores[position] = scores.get(position, 0.0) + weight * part
    return _ordered(scores)


def _ordered(scores: dict[int, float]) -> list[Hit]:
    return [Hit(*item) for item in sorted(scores.items(), key=lambda item: (-item[1], item[0]))]
