"""AdamW: each weight moves by its gradient's running mean over its running size, and shrinks on the side.

    m <- b1 m + (1 - b1) g            v <- b2 v + (1 - b2) g^2
    p <- p (1 - lr wd) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

The division makes the step the same size whatever the gradient's scale, which is why one learning rate serves
embeddings and matrices alike. The decay is not part of g, so it is not divided by sqrt(v) (this is the W of AdamW).

State: two tensors of the parameter's shape. Three forms of the same arithmetic, by name:

    foreach     a few whole-tensor operations; any device and type
    one-pass    one loop over memory, on the CPU (`_adamw_kernel.py`)
    torch       torch's own fused kernel, for CUDA machines; equal, and never taken unless named

Papers: Kingma and Ba 2015 (https://arxiv.org/abs/1412.6980), Algorithm 1; Loshchilov and Hutter 2019
(https://arxiv.org/abs/1711.05101), Algorithm 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.core.ranges import NOT_NEGATIVE, PART, POSITIVE, within
from llmanac.train.optimizers import OptimizerSpec
from llmanac.train.optimizers._base import Coefficients, Optimizer, ParameterGroup, Parameters, parameters_of

CARD = {
    "title": "AdamW",
    "paper": "https://arxiv.org/abs/1711.05101",
    "reference": "torch.optim.AdamW, step for step",
    "aliases": {"adam": {}},
}

Form = Literal["auto", "foreach", "one-pass", "torch"]


@dataclass(frozen=True, kw_only=True)
class Spec(OptimizerSpec):
    """Choices of AdamW.

    Attributes:
        lr: base learning rate; `embedding_lr` is that of embeddings and vectors, where it differs.
        weight_decay: for matrices, or for every parameter with decay = "all".
        base_dim: the width that `lr` was found at; a matrix with n inputs takes lr * base_dim / n, so that the rate
            serves wider models (with `head.base_dim`; Yang et al. 2022, arXiv:2203.03466, table 8). None for lr itself.
        form: how the step is computed; `auto` takes one-pass on the CPU, else foreach.
    """

    lr: float = 1e-3
    embedding_lr: float | None = None
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay: Literal["matrices", "all"] = "matrices"
    base_dim: int | None = None
    form: Form = "auto"

    ranges = within(POSITIVE, "lr eps base_dim") | within(PART, "beta1 beta2") | within(NOT_NEGATIVE, "weight_decay")

    def build(self, *, model: nn.Module | None = None, parameters: Parameters | None = None, **dims: Any) -> AdamW:
        """AdamW over a model's trainable parameters, or over those given as (name, tensor, role)."""
        parameters = parameters_of(model, parameters)
        made = groups(parameters, self.lr, self.embedding_lr, self.weight_decay, self.decay)
        return AdamW(self, by_inputs(made, self.base_dim))


def groups(
    parameters: Parameters, lr: float, embedding_lr: float | None, weight_decay: float, decay: str, rule: str = "adamw"
) -> list[ParameterGroup]:
    """One group a role, with its learning rate and decay."""
    out = []
    for role in ("matrix", "embedding", "vector"):
        chosen = [(name, p) for name, p, r in parameters if r == role]
        own = lr if role == "matrix" or embedding_lr is None else embedding_lr
        decayed = weight_decay if role == "matrix" or decay == "all" else 0.0
        out.append(ParameterGroup(rule, [n for n, _ in chosen], [p for _, p in chosen], own, decayed))
    return out


def by_inputs(made: list[ParameterGroup], base_dim: int | None) -> list[ParameterGroup]:
    """The group of matrices, which is the first, divided by their inputs n, each at base_dim / n of its rate.

    The groups as they are without a base_dim.
    """
    if base_dim is None:
        return made
    first, *others = made
    rows = list(zip(first.names, first.parameters, strict=True))
    out = []
    for inputs in sorted({p.shape[-1] for _, p in rows}):
        chosen = [(n, p) for n, p in rows if p.shape[-1] == inputs]
        rate = first.lr * base_dim / inputs
        out.append(ParameterGroup(first.rule, [n for n, _ in chosen], [p for _, p in chosen], rate, first.weight_decay))
    return [*out, *others]


class AdamW(Optimizer):
    """The optimizer; see the module's formula."""

    def update(
        self, group: ParameterGroup, names: list[str], parameters: list[nn.Parameter], lr: float, scale: float
    ) -> None:
        """One AdamW step for these parameters, together for those that have done as many steps."""
        for step in sorted({self.steps[n] for n in names}):
            same = [(n, p) for n, p in zip(names, parameters, strict=True) if self.steps[n] == step]
            self._same_step(group, [n for n, _ in same], [p for _, p in same], lr, scale, step)

    def _same_step(
        self,
        group: ParameterGroup,
        names: list[str],
        parameters: list[nn.Parameter],
        lr: float,
        scale: float,
        step: int,
    ) -> None:
        spec = self.spec
        gradients = [p.grad for p in parameters if p.grad is not None]
        means = [self.buffer("mean", n, p) for n, p in zip(names, parameters, strict=True)]
        squares = [self.buffer("square", n, p) for n, p in zip(names, parameters, strict=True)]
        c = Coefficients(
            keep=1 - lr * group.weight_decay, beta1=spec.beta1, beta2=spec.beta2, size=lr / (1 - spec.beta1**step),
            root=(1 - spec.beta2**step) ** 0.5, eps=spec.eps, scale=scale,
        )  # fmt: skip
        tensors: list[list[Tensor]] = [list(parameters), gradients, means, squares]
        if spec.form == "torch":
            _torch_kernel(tensors, c, lr=lr, decay=group.weight_decay, step=step)
        elif spec.form == "foreach":
            foreach(tensors, c)
        else:
            from llmanac.train.optimizers import _adamw_kernel as kernel

            if all(kernel.takes(t) for t in parameters):
                kernel.one_pass(tensors, c)
            elif spec.form == "one-pass":
                raise SpecError(
                    "optimizer.form: one-pass needs contiguous float32 or float64 parameters on the CPU; use auto"
                )
            else:
                foreach(tensors, c)


def foreach(tensors: Sequence[list[Tensor]], c: Coefficients) -> None:
    """The plain form, one operation for all tensors; the same as `_adamw_kernel.one_pass`."""
    parameters, gradients, means, squares = tensors
    scaled = gradients if c.scale == 1.0 else torch._foreach_mul(gradients, c.scale)
    torch._foreach_mul_(means, c.beta1)
    torch._foreach_add_(means, scaled, alpha=1 - c.beta1)
    torch._foreach_mul_(squares, c.beta2)
    torch._foreach_addcmul_(squares, scaled, scaled, value=1 - c.beta2)
    below = torch._foreach_sqrt(squares)
    torch._foreach_div_(below, c.root)
    torch._foreach_add_(below, c.eps)
    torch._foreach_mul_(parameters, c.keep)
    torch._foreach_addcdiv_(parameters, means, below, value=-c.size)


def _torch_kernel(tensors: Sequence[list[Tensor]], c: Coefficients, *, lr: float, decay: float, step: int) -> None:
    parameters, gradients, means, squares = tensors
    scaled = gradients if c.scale == 1.0 else torch._foreach_mul(gradients, c.scale)
    steps = [torch.tensor(float(step), device=p.device) for p in parameters]
    torch._fused_adamw_(
        parameters, scaled, means, squares, [], steps, lr=lr, beta1=c.beta1, beta2=c.beta2,
        weight_decay=decay, eps=c.eps, amsgrad=False, maximize=False,
    )  # fmt: skip
