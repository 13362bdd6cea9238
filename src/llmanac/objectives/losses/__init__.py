"""Losses on scores: what a prediction costs, apart from the model and the rows that gave it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from llmanac.core.spec import Spec

Reduction = Literal["mean", "sum", "none"]


@dataclass(frozen=True, kw_only=True)
class LossSpec(Spec):
    """`build() -> Loss`."""

    kind = "loss"

    def build(self, *args: Any, **dims: Any) -> Loss:
        """The loss; it has no dimensions."""
        raise NotImplementedError


class Loss:
    """A loss of scores (logits) against targets."""

    def __call__(self, logits: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """The reduced loss, in nats."""
        raise NotImplementedError

    def outputs(self, classes: int) -> int:
        """How many scores a classifier of so many classes has under this loss."""
        raise NotImplementedError

    def of_classes(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Each row's loss (B,) for logits (B, K) and class indices (B,)."""
        raise NotImplementedError
