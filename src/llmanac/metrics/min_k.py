"""Min-K% and Min-K%++: whether a model has seen a text, from its least probable tokens.

    Min-K%    = mean of the lowest k of  ln p(x_t | before)
    Min-K%++  = mean of the lowest k of  (ln p(x_t | before) - mu_t) / sigma_t

mu_t and sigma_t are the mean and the standard deviation of ln p over the vocabulary, under p itself: a text that was
trained on is a mode of the distribution, not only probable. Higher means seen; what is a high value depends on the
model and the kind of text, so texts are compared (AUC), not judged by a threshold.
Shapes: logprobs (T, V), ids (T,) -> (T,) a token; a text's score is a number.
Shi et al. 2024, arXiv:2310.16789; Zhang et al. 2025, arXiv:2404.02936.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.ranges import SOME, within
from llmanac.metrics import MetricSpec

if TYPE_CHECKING:
    from torch import Tensor

CARD = {
    "title": "Min-K%++",
    "paper": "Zhang et al. 2025, arXiv:2404.02936; Shi et al. 2024, arXiv:2310.16789",
    "reference": "the authors' formula in torch",
    "test": "tests/references/test_inspection.py::test_min_k_equals_the_authors_formula",
    "aliases": {"min-k-plus-plus": {"norm": "vocabulary"}, "min-k-percent": {"norm": "none"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """k: the fraction of tokens that counts; norm: "vocabulary" is Min-K%++, "none" Min-K%."""

    k: float = 0.2
    norm: Literal["vocabulary", "none"] = "vocabulary"

    ranges = within(SOME, "k")

    def build(self, **dims: Any) -> Callable[[Any, Any], float]:
        import torch

        def metric(logprobs: Any, ids: Any) -> float:
            return lowest(token_scores(torch.as_tensor(logprobs), torch.as_tensor(ids), self.norm).numpy(), self.k)

        return metric


def token_scores(logprobs: Tensor, ids: Tensor, norm: str = "vocabulary") -> Tensor:
    """(..., T, V) logarithms of probabilities and (..., T) ids -> (..., T); 0 where all tokens are equally probable."""
    own = logprobs.gather(-1, ids[..., None].long())[..., 0]
    if norm == "none":
        return own
    p = logprobs.exp()
    finite = logprobs.where(p > 0, 0)
    mu = (p * finite).sum(-1)
    variance = (p * (finite - mu[..., None]) ** 2).sum(-1)
    return ((own - mu) / variance.clamp_min(1e-12).sqrt()).where(variance > 1e-12, 0)


def lowest(scores: Any, k: float = 0.2) -> float:
    """The mean of the lowest fraction k of (T,) scores, at least of one. Raises DataError for none."""
    given = np.sort(np.asarray(scores, np.float64))
    if not len(given):
        raise DataError("Min-K%: the text has no token that is predicted")
    return float(given[: max(1, int(len(given) * k))].mean())
