"""ORPO: fine-tuning on the chosen answers, with the odds of chosen over rejected as a further term; one stage.

    loss = -log pi(y+ | x) / |y+|  -  beta * log sigmoid(log(odds(y+) / odds(y-)))
    odds(y) = p / (1 - p),  log p = log pi(y | x) / |y|

The odds ratio pushes the rejected answer down only mildly where both are likely, so that no reference is needed.

Paper: Hong et al. 2024 (https://arxiv.org/abs/2403.07691), equations 3 to 7. The first term is over the answer, as
there; TRL takes it over the prompt too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.ranges import POSITIVE, within
from llmanac.core.types import Batch, LossSum
from llmanac.objectives._preference import Preference, PreferenceSpec, compared

CARD = {
    "title": "Odds ratio preference optimization (ORPO)",
    "paper": "https://arxiv.org/abs/2403.07691",
    "reference": "TRL's ORPOTrainer: the odds-ratio term and its gradient",
    "test": "tests/references/test_preference.py::test_loss_and_gradient_equal_trl",
    "rows": "preferences",
}


@dataclass(frozen=True, kw_only=True)
class Spec(PreferenceSpec):
    """Attributes: beta: weight of the odds ratio (lambda in the paper)."""

    needs_reference = False

    beta: float = 0.1

    ranges = within(POSITIVE, "beta")

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> ORPO:
        return ORPO(self, tokenizer, models, dims.get("reader"))


class ORPO(Preference):
    """See the module."""

    def loss(self, model: Any, batch: Batch) -> LossSum:
        own, lengths = self.log_probabilities(model, batch)
        better, worse = self.halves(own / lengths)
        odds = (better - _log_rest(better)) - (worse - _log_rest(worse))
        losses = -better - self.spec.beta * F.logsigmoid(odds)
        found = compared(self.spec.beta * better, self.spec.beta * worse)
        return losses.sum(), len(losses), {**found, "nll": -better.detach().sum()}


def _log_rest(log_p: Tensor) -> Tensor:
    """log(1 - p); also its gradient is finite where p rounds to 1."""
    return torch.log(-torch.expm1(log_p.clamp(max=-torch.finfo(log_p.dtype).tiny)))
