"""Binary cross-entropy of a score z against a target y in [0, 1], in the form that never overflows.

    p = sigmoid(z)
    loss = -(y log p + (1 - y) log(1 - p))
         = (1 - y) z + (1 + (a - 1) y) log(1 + exp(-z))          d loss / dz = p - y       (for a = 1)

The first line takes the logarithm of a rounded 0 as soon as |z| is large; in the second the only exponential is that of
-|z|, since log(1 + exp(-z)) = max(-z, 0) + log(1 + exp(-|z|)). `positive_weight` a multiplies the loss of positive
targets. Scores may have any shape; several scores a row are several yes-no questions.

Source: Cox 1958, "The regression analysis of binary sequences", section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.core.ranges import POSITIVE, within
from llmanac.objectives.losses import Loss, LossSpec, Reduction

CARD = {
    "title": "Binary cross-entropy",
    "paper": "Cox 1958",
    "reference": "torch.nn.functional.binary_cross_entropy_with_logits: value and gradient",
}


@dataclass(frozen=True, kw_only=True)
class Spec(LossSpec):
    """Attributes: reduction: "mean" is over all scores. positive_weight: what positive targets count."""

    reduction: Reduction = "mean"
    positive_weight: float = 1.0

    ranges = within(POSITIVE, "positive_weight")

    def build(self, *args: Any, **dims: Any) -> BinaryCrossEntropy:
        """The loss."""
        return BinaryCrossEntropy(self)


class BinaryCrossEntropy(Loss):
    """See the module's formula."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def __call__(self, logits: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """The loss of logits and targets of one shape.

        Args:
            weight: multiplies each score's loss; anything that broadcasts to it. The mean still divides by the number
                of scores.

        Raises:
            SpecError: shapes that differ, or integer targets.
        """
        if logits.shape != targets.shape:
            raise SpecError(f"bce: targets {tuple(targets.shape)} must have the logits' shape {tuple(logits.shape)}")
        if not targets.is_floating_point():
            raise SpecError(f"bce: targets are {targets.dtype}; give probabilities as floating-point numbers")
        values = self._values(logits, targets)
        values = values if weight is None else values * weight
        if self.spec.reduction == "none":
            return values
        return values.sum() if self.spec.reduction == "sum" else values.mean()

    def _values(self, logits: Tensor, targets: Tensor) -> Tensor:
        # logaddexp rather than max and abs: their slopes at z = 0, where every untrained model starts, are not 1/2
        softplus = torch.logaddexp(-logits, torch.zeros_like(logits))
        scale = self.spec.positive_weight
        return (1 - targets) * logits + (softplus if scale == 1.0 else (1 + (scale - 1) * targets) * softplus)

    def outputs(self, classes: int) -> int:
        """One score for two classes (how much it speaks for the second); else one a class, each against the rest."""
        return 1 if classes == 2 else classes

    def of_classes(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(B, K) and (B,) -> (B,): the sum over a row's scores."""
        if logits.shape[1] == 1:
            return self._values(logits[:, 0], classes.to(logits.dtype))
        return self._values(logits, F.one_hot(classes, logits.shape[1]).to(logits.dtype)).sum(1)
