"""Direct preference optimization: preferences train the policy itself; no reward model, no samples.

    r(x, y) = beta * log(pi(y | x) / ref(y | x))                  the reward that pi is optimal for
    dpo     -(1 - e) log sigmoid(r(x, y+) - r(x, y-)) - e log sigmoid(r(x, y-) - r(x, y+))
    ipo     (r'(x, y+) - r'(x, y-) - 1 / (2 beta))^2,             r' the mean log-ratio a token

log pi(y | x) is the sum over the answer's tokens, its end included. e is the share of preferences that are expected to
be wrong. IPO's target is a margin, so that certain preferences do not drive the policy ever further from the reference.

Shapes: log-probabilities (2 n,), n pairs; the loss is the sum over pairs.

Papers: Rafailov et al. 2023 (https://arxiv.org/abs/2305.18290), equation 7; Azar et al. 2023
(https://arxiv.org/abs/2310.12036), equation 17, a token as its authors use it; Mitchell 2023 for e.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F

from llmanac.core.errors import SpecError
from llmanac.core.ranges import POSITIVE, Range, within
from llmanac.core.types import Batch, LossSum
from llmanac.objectives._preference import Preference, PreferenceSpec, compared

CARD = {
    "title": "Direct preference optimization (DPO)",
    "paper": "https://arxiv.org/abs/2305.18290",
    "reference": "TRL's DPOTrainer: loss and gradient, sigmoid and ipo",
    "test": "tests/references/test_preference.py::test_loss_and_gradient_equal_trl",
    "rows": "preferences",
    "aliases": {"ipo": {"loss": "ipo"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(PreferenceSpec):
    """Attributes:
    loss: sigmoid (DPO) or ipo; beta: how strongly the policy is held to the reference.
    label_smoothing: e, for sigmoid.
    """

    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0

    ranges = within(POSITIVE, "beta") | within(Range(0, 0.5, below=True), "label_smoothing")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_smoothing and self.loss != "sigmoid":
            raise SpecError("label_smoothing: only of the sigmoid loss")

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> DPO:
        """models: {"reference": a frozen model}; left out where an adapter is trained, which is then disabled."""
        return DPO(self, tokenizer, models, dims.get("reader"))


class DPO(Preference):
    """See the module."""

    def loss(self, model: Any, batch: Batch) -> LossSum:
        spec = self.spec
        own, lengths = self.log_probabilities(model, batch)
        ratios = own - self.reference(model, batch)
        if spec.loss == "ipo":
            better, worse = self.halves(ratios / lengths)
            losses = (better - worse - 1 / (2 * spec.beta)).square()
            return losses.sum(), len(losses), compared(better, worse)
        better, worse = self.halves(spec.beta * ratios)
        margin = better - worse
        losses = -(1 - spec.label_smoothing) * F.logsigmoid(margin) - spec.label_smoothing * F.logsigmoid(-margin)
        return losses.sum(), len(losses), compared(better, worse)
