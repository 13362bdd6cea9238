"""Lion: each weight moves by the sign of a running mean of gradients, so every step has one size.

    p <- p (1 - lr wd) - lr sign(b1 m + (1 - b1) g)
    m <- b2 m + (1 - b2) g

The mean that is stepped by (b1) forgets faster than the one that is kept (b2). A sign is a larger step than
Adam's for most weights, so learning rates are 3 to 10 times smaller than AdamW's, and decays as much larger.

State: one tensor of the parameter's shape, half of AdamW's.

Paper: Chen et al. 2023 (https://arxiv.org/abs/2302.06675), Algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.ranges import NOT_NEGATIVE, PART, POSITIVE, within
from llmanac.train.optimizers import OptimizerSpec
from llmanac.train.optimizers._base import Optimizer, ParameterGroup, Parameters, parameters_of
from llmanac.train.optimizers.adamw import by_inputs, groups

CARD = {
    "title": "Lion",
    "paper": "https://arxiv.org/abs/2302.06675",
    "reference": "lion-pytorch, step for step",
    "test": "tests/references/test_more_optimizers.py::test_lion_equals_lion_pytorch",
    "claim": "docs/evidence/optimizers/page.md",
}


@dataclass(frozen=True, kw_only=True)
class Spec(OptimizerSpec):
    """Choices of Lion.

    Attributes:
        lr: base learning rate; `embedding_lr` is that of embeddings and vectors, where it differs.
        weight_decay: for matrices, or for every parameter with decay = "all".
        base_dim: the width that `lr` was found at, as AdamW's: a sign, too, is as large whatever the gradient's size.
    """

    lr: float = 3e-4
    embedding_lr: float | None = None
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.3
    decay: Literal["matrices", "all"] = "matrices"
    base_dim: int | None = None

    ranges = within(POSITIVE, "lr base_dim") | within(PART, "beta1 beta2") | within(NOT_NEGATIVE, "weight_decay")

    def build(self, *, model: nn.Module | None = None, parameters: Parameters | None = None, **dims: Any) -> Lion:
        """Lion over a model's trainable parameters, or over those given as (name, tensor, role)."""
        parameters = parameters_of(model, parameters)
        made = groups(parameters, self.lr, self.embedding_lr, self.weight_decay, self.decay, "lion")
        return Lion(self, by_inputs(made, self.base_dim))


class Lion(Optimizer):
    """The optimizer; see the module's formula."""

    def update(
        self, group: ParameterGroup, names: list[str], parameters: list[nn.Parameter], lr: float, scale: float
    ) -> None:
        """One step for these parameters."""
        spec = self.spec
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        if scale != 1.0:
            gradients = list(torch._foreach_mul(gradients, scale))
        means = [self.buffer("mean", n, p) for n, p in zip(names, parameters, strict=True)]
        moves = torch._foreach_mul(means, spec.beta1)
        torch._foreach_add_(moves, gradients, alpha=1 - spec.beta1)
        torch._foreach_sign_(moves)
        if group.weight_decay:
            torch._foreach_mul_(list(parameters), 1 - lr * group.weight_decay)
        torch._foreach_add_(list(parameters), moves, alpha=-lr)
        torch._foreach_mul_(means, spec.beta2)
        torch._foreach_add_(means, gradients, alpha=1 - spec.beta2)
