"""Stochastic gradient descent: each weight moves against its gradient, with or without momentum.

    g <- g + wd p
    m <- mu m + (1 - dampening) g          (m = g at the first step)
    p <- p - lr m                          or, with Nesterov's form, p - lr (g + mu m)

Momentum averages over about 1 / (1 - mu) steps. The step is proportional to the gradient, so parameters whose gradients
differ in size by orders of magnitude (embeddings of rare tokens and matrices, in a language model) cannot share one
learning rate; this is what Adam's division repairs. The decay is part of g (L2 regularization).

State: one tensor of the parameter's shape, none without momentum.

Papers: Robbins and Monro 1951 (https://doi.org/10.1214/aoms/1177729586); Sutskever et al. 2013, section 2
(https://proceedings.mlr.press/v28/sutskever13.html), for momentum and Nesterov's form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.core.ranges import NOT_NEGATIVE, PART, POSITIVE, within
from llmanac.train.optimizers import OptimizerSpec
from llmanac.train.optimizers._base import Optimizer, ParameterGroup, Parameters, parameters_of
from llmanac.train.optimizers.adamw import groups

CARD = {
    "title": "Stochastic gradient descent",
    "paper": "https://proceedings.mlr.press/v28/sutskever13.html",
    "reference": "torch.optim.SGD, step for step",
    "aliases": {"nesterov": {"form": "nesterov"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(OptimizerSpec):
    """Choices of SGD.

    Attributes:
        lr: base learning rate; `embedding_lr` is that of embeddings and vectors, where it differs.
        momentum: mu, in [0, 1); 0 keeps no state.
        form: heavy-ball moves by m, nesterov by g + mu m.
        weight_decay: for matrices, or for every parameter with decay = "all".
    """

    lr: float = 0.1
    embedding_lr: float | None = None
    momentum: float = 0.9
    dampening: float = 0.0
    form: Literal["heavy-ball", "nesterov"] = "heavy-ball"
    weight_decay: float = 0.0
    decay: Literal["matrices", "all"] = "matrices"

    ranges = within(POSITIVE, "lr") | within(PART, "momentum dampening") | within(NOT_NEGATIVE, "weight_decay")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "nesterov" and (self.momentum == 0 or self.dampening):
            raise SpecError("form: nesterov needs momentum above 0 and dampening 0")

    def build(self, *, model: nn.Module | None = None, parameters: Parameters | None = None, **dims: Any) -> SGD:
        """SGD over a model's trainable parameters, or over those given as (name, tensor, role)."""
        parameters = parameters_of(model, parameters)
        return SGD(self, groups(parameters, self.lr, self.embedding_lr, self.weight_decay, self.decay, "sgd"))


class SGD(Optimizer):
    """The optimizer; see the module's formula."""

    def update(
        self, group: ParameterGroup, names: list[str], parameters: list[nn.Parameter], lr: float, scale: float
    ) -> None:
        """One step for these parameters."""
        spec = self.spec
        moves: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        if scale != 1.0:
            moves = list(torch._foreach_mul(moves, scale))
        if group.weight_decay:
            moves = list(torch._foreach_add(moves, list(parameters), alpha=group.weight_decay))
        if spec.momentum:
            gradients = moves
            moves = [self._momentum(n, g) for n, g in zip(names, gradients, strict=True)]
            if spec.form == "nesterov":
                moves = list(torch._foreach_add(gradients, moves, alpha=spec.momentum))
        torch._foreach_add_(list(parameters), moves, alpha=-lr)

    def _momentum(self, name: str, gradient: Tensor) -> Tensor:
        key = f"momentum.{name}"
        if key not in self.state:  # the first step takes the gradient undampened
            self.state[key] = gradient.clone(memory_format=torch.contiguous_format)
        else:
            self.state[key].mul_(self.spec.momentum).add_(gradient, alpha=1 - self.spec.dampening)
        return self.state[key]
