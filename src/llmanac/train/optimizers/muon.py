"""Muon: a matrix's momentum is replaced by the nearest orthogonal matrix, so every direction moves equally far.

    m <- mu m + (1 - mu) g            u = (1 - mu) g + mu m              (Nesterov)
    X <- u / |u|_F, then five times   A = X X^T;  X <- a X + (b A + c A A) X
    p <- p (1 - lr wd) - lr s X       s = sqrt(max(1, rows / columns)), or 0.2 sqrt(max(rows, columns))

The quintic (a, b, c) = (3.4445, -4.7750, 2.0315) drives every singular value of X to about 1 (0.7 to 1.2: exact
is not needed). Matrices of one shape go through the iteration together, as one batch. With scale "rms" an update is as
large as AdamW's usually is, so that a learning rate tuned for AdamW serves.

Embeddings and vectors, and matrices with more than three dimensions, take AdamW with its own learning rate: a row of an
embedding sees few tokens of a batch, so orthogonalising mixes rows that have nothing to do with each other. Three
dimensions (E, rows, columns) are E matrices (experts).

State: one tensor of the matrix's shape (AdamW's two for the rest). Where ranks have parts of a matrix, each keeps the
momentum of its part; for a step u is gathered, every rank computes X, and takes its part of it.

Papers: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/); Liu et al. 2025
(https://arxiv.org/abs/2502.16982), section 2.2 for the scale "rms".
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.device import bfloat16_is_faster
from llmanac.core.ranges import NOT_NEGATIVE, PART, POSITIVE, within
from llmanac.train.optimizers import OptimizerSpec
from llmanac.train.optimizers._base import ParameterGroup, Parameters, parameters_of
from llmanac.train.optimizers.adamw import AdamW, Form, groups

CARD = {
    "title": "Muon",
    "paper": "https://kellerjordan.github.io/posts/muon/",
    "reference": "torch.optim.Muon, step for step",
    "test": "tests/references/test_optimizers.py::test_muon_equals_torch",
    "claim": "docs/evidence/optimizers/page.md",
}

QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: the steepest at 0 that still stays near 1
TINY = 1e-7  # below this norm a gradient is taken to be zero


@dataclass(frozen=True, kw_only=True)
class Spec(OptimizerSpec):
    """Choices of Muon.

    Attributes:
        lr: learning rate of matrices; `embedding_lr` is AdamW's, for all the rest.
        scale: how an update's size depends on the matrix's shape.
        precision: of the iteration; `auto` is bfloat16 where that is faster, else float32.
    """

    lr: float = 0.02
    embedding_lr: float = 3e-3
    momentum: float = 0.95
    weight_decay: float = 0.0
    iterations: int = 5
    scale: Literal["original", "rms"] = "original"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    form: Form = "auto"

    ranges = (
        within(POSITIVE, "lr embedding_lr eps iterations")
        | within(PART, "momentum beta1 beta2")
        | within(NOT_NEGATIVE, "weight_decay")
    )

    def settle(self, device: torch.device) -> Spec:
        """Measure which precision is faster here."""
        if self.precision != "auto":
            return self
        return dataclasses.replace(self, precision="bfloat16" if bfloat16_is_faster(str(device)) else "float32")

    def build(self, *, model: nn.Module | None = None, parameters: Parameters | None = None, **dims: Any) -> Muon:
        """Muon over a model's trainable parameters, or over those given as (name, tensor, role)."""
        parameters = parameters_of(model, parameters)
        muon = [(n, p) for n, p, role in parameters if role == "matrix" and p.ndim <= 3]
        names = {n for n, _ in muon}
        rest = groups([row for row in parameters if row[0] not in names], self.embedding_lr, None, 0.0, "matrices")
        own = ParameterGroup("muon", [n for n, _ in muon], [p for _, p in muon], self.lr, self.weight_decay)
        settled = self.settle(parameters[0][1].device)
        return Muon(settled, [own, *rest], torch.bfloat16 if settled.precision == "bfloat16" else torch.float32)


class Muon(AdamW):
    """The optimizer: Muon's rule for its group of matrices, AdamW's for the others."""

    def __init__(self, spec: Spec, groups: list[ParameterGroup], precision: torch.dtype) -> None:
        super().__init__(spec, groups)
        self.precision = precision

    def update(
        self, group: ParameterGroup, names: list[str], parameters: list[nn.Parameter], lr: float, scale: float
    ) -> None:
        """One step for these parameters, matrices of one shape in one batch."""
        if group.rule != "muon":
            super().update(group, names, parameters, lr, scale)
            return
        shapes: dict[torch.Size, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in zip(names, parameters, strict=True):
            shapes.setdefault(self.layout.shape(name, parameter), []).append((name, parameter))
        for shape, members in shapes.items():
            own = [n for n, _ in members]
            updates = self._momentum(own, [p.grad for _, p in members if p.grad is not None], scale)
            rows, columns = shape[-2:]
            stack = torch.stack([self.layout.whole(n, u) for n, u in zip(own, updates, strict=True)])
            moved = orthogonalise(stack.view(-1, rows, columns), self.precision, self.spec.iterations)
            if self.spec.scale == "original":
                size = lr * math.sqrt(max(1.0, rows / columns))
            else:
                size = lr * 0.2 * math.sqrt(max(rows, columns))
            targets: list[Tensor] = [p for _, p in members]
            every = zip(moved.view(len(members), *shape), members, strict=True)
            moves = [self.layout.part(n, m).to(p.dtype) for m, (n, p) in every]
            torch._foreach_mul_(targets, 1 - lr * group.weight_decay)
            torch._foreach_add_(targets, moves, alpha=-size)

    def _momentum(self, names: list[str], gradients: list[Tensor], scale: float) -> list[Tensor]:
        scaled = gradients if scale == 1.0 else list(torch._foreach_mul(gradients, scale))
        buffers = [self.buffer("momentum", n, g) for n, g in zip(names, scaled, strict=True)]
        torch._foreach_lerp_(buffers, scaled, 1 - self.spec.momentum)
        return list(torch._foreach_lerp(scaled, buffers, self.spec.momentum))


def orthogonalise(matrices: Tensor, dtype: torch.dtype, iterations: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values end between about 0.7 and 1.2.

    Args:
        matrices: (N, rows, columns).
        dtype: what to compute in.

    Returns:
        (N, rows, columns) in `dtype`.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(dtype)  # the smaller side in front: the square A is as small as can be
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=TINY)
    for _ in range(iterations):
        square = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
