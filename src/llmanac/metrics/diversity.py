"""Diversity of a set of texts: how little they repeat one another, by words and by meaning.

    distinct-n = different n-grams / n-grams                     of all texts together, in (0, 1]
    self-BLEU  = mean over i of BLEU(text i; all other texts)    0 to 100, lower is more diverse
    spread     = mean over i < j of 1 - cos(v_i, v_j)            0 where all vectors point the same way

distinct-n falls and self-BLEU rises with the number of texts, so sets are compared on as many texts. BLEU is that of
sentences (effective order, exponential smoothing, 13a tokens), distinct-n counts the same tokens, lowered. Shapes: S
texts -> numbers; vectors (S, D) -> a number, from the length of the sum of unit vectors.
Li et al. 2016, arXiv:1510.03055; Zhu et al. 2018, arXiv:1802.01886.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.ranges import Range, within
from llmanac.kernels.metrics.counts import matched_ngrams
from llmanac.metrics import MetricSpec, bleu

CARD = {
    "title": "Diversity of texts (distinct-n, self-BLEU, embedding spread)",
    "paper": "Li et al. 2016, arXiv:1510.03055; Zhu et al. 2018, arXiv:1802.01886",
    "reference": "sacrebleu's sentence_score against all other texts; NLTK's ngrams; scipy's cosine distances",
}


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """orders: the largest n of distinct-n; most: texts that are compared, drawn by `seed` where there are more."""

    orders: int = 3
    most: int = 500
    seed: int = 0

    ranges = within(Range(1, 16), "orders") | within(Range(2, 10000), "most")

    def build(self, **dims: Any) -> Callable[..., Diversity]:
        def metric(texts: Sequence[str], vectors: Any = None) -> Diversity:
            drawn = sample(len(texts), self.most, self.seed)
            given = None if vectors is None else np.asarray(vectors)[drawn]
            texts = [texts[i] for i in drawn]
            distinct = {n: distinct_n(texts, n) for n in range(1, self.orders + 1)}
            return Diversity(len(texts), distinct, self_bleu(texts), None if given is None else spread(given))

        return metric


@dataclass(frozen=True)
class Diversity:
    """texts: how many were compared; distinct: by n; spread: None without vectors."""

    texts: int
    distinct: dict[int, float]
    self_bleu: float
    spread: float | None


def sample(count: int, most: int, seed: int) -> list[int]:
    """The numbers of the texts that are compared, in order."""
    return list(range(count)) if count <= most else sorted(random.Random(seed).sample(range(count), most))


def distinct_n(texts: Sequence[str], n: int) -> float:
    """The fraction of n-grams that are different; NaN where no text has n tokens."""
    found = bleu.token_ids(texts, "13a", "lower")
    grams = [
        np.lib.stride_tricks.sliding_window_view(found.ids[start:end], n)
        for start, end in found.ranges.tolist() if end - start >= n
    ]  # fmt: skip
    if not grams:
        return float("nan")
    every = np.concatenate(grams)
    return len(np.unique(every, axis=0)) / len(every)


def self_bleu(texts: Sequence[str]) -> float:
    """The mean BLEU of each text against all others. Raises DataError for fewer than two texts."""
    count = len(texts)
    if count < 2:
        raise DataError("texts: self-BLEU needs at least two")
    spec = bleu.Spec(order_rule="effective")
    found = bleu.token_ids(texts, "13a", "mixed")
    ranges, others = found.ranges, np.nonzero(~np.eye(count, dtype=bool))[1].reshape(count, count - 1)
    matches = matched_ngrams(
        found.ids, ranges, ranges[others.ravel()], np.arange(1, count + 1) * (count - 1), spec.order
    )
    lengths = np.diff(ranges)[:, 0]
    theirs = lengths[others]
    nearest = (2 * np.abs(theirs - lengths[:, None]) * (1 + int(lengths.max())) + theirs).argmin(1)
    grams = np.maximum(lengths[:, None] - np.arange(spec.order), 0)
    reference = np.take_along_axis(theirs, nearest[:, None], 1)
    sums = np.concatenate([lengths[:, None], reference, matches, grams], 1).astype(np.float64)
    return float(bleu.scores(sums, spec).mean())


def spread(vectors: Any) -> float:
    """The mean cosine distance of (S, D) vectors. Raises DataError for fewer than two, or one of length 0."""
    given = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(given, axis=1) if given.ndim == 2 else np.zeros(0)
    if len(norms) < 2 or not norms.all():
        raise DataError("vectors: a spread needs at least two, none of them of length 0")
    total, count = (given / norms[:, None]).sum(0), len(given)
    return float(1 - (total @ total - count) / (count * (count - 1)))
