"""SimPO: the mean log-probability a token is the reward; no reference.

    r(x, y) = (beta / |y|) * log pi(y | x)
    loss    -log sigmoid(r(x, y+) - r(x, y-) - gamma)

Dividing by the length makes the reward what decoding maximises, and takes away the reward of long answers. gamma is the
margin that a preference should have. Nothing holds the policy to where it started but the learning rate.

Paper: Meng et al. 2024 (https://arxiv.org/abs/2405.14734), equation 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F

from llmanac.core.ranges import POSITIVE, within
from llmanac.core.types import Batch, LossSum
from llmanac.objectives._preference import Preference, PreferenceSpec, compared

CARD = {
    "title": "Simple preference optimization (SimPO)",
    "paper": "https://arxiv.org/abs/2405.14734",
    "reference": "TRL's CPOTrainer with loss_type simpo: loss and gradient",
    "test": "tests/references/test_preference.py::test_loss_and_gradient_equal_trl",
    "rows": "preferences",
}


@dataclass(frozen=True, kw_only=True)
class Spec(PreferenceSpec):
    """Attributes: beta: scale of the reward; gamma: the margin, in rewards."""

    needs_reference = False

    beta: float = 2.0
    gamma: float = 1.0

    ranges = within(POSITIVE, "beta")

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> SimPO:
        return SimPO(self, tokenizer, models, dims.get("reader"))


class SimPO(Preference):
    """See the module."""

    def loss(self, model: Any, batch: Batch) -> LossSum:
        own, lengths = self.log_probabilities(model, batch)
        better, worse = self.halves(self.spec.beta * own / lengths)
        losses = -F.logsigmoid(better - worse - self.spec.gamma)
        return losses.sum(), len(losses), compared(better, worse)
