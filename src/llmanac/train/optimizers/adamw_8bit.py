"""AdamW with its state in 8 bits: two bytes and a little a parameter, where float32 takes eight.

Each block of 256 values of m and of v is divided by its largest magnitude and rounded to the nearest of 256 values,
whose density falls with magnitude ("dynamic" codes: a few bits choose the power of ten, the others the fraction). A
step reads the block, does AdamW's arithmetic in float32, and rounds again. Since each block has its own scale, one
outlier costs precision in its block only.

State: uint8 codes of the parameter's shape and a float32 scale a block, for m and v. Parameters under `smallest` values
keep float32 state: they cost nothing, and they are the sensitive ones.

Paper: Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization" (https://arxiv.org/abs/2110.02861),
sections 2.1 and 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.ranges import NOT_NEGATIVE, PART, POSITIVE, within
from llmanac.train.optimizers import OptimizerSpec
from llmanac.train.optimizers._base import Optimizer, ParameterGroup, Parameters, parameters_of
from llmanac.train.optimizers.adamw import by_inputs, groups

CARD = {
    "title": "AdamW with 8-bit state",
    "paper": "https://arxiv.org/abs/2110.02861",
    "reference": "bitsandbytes.optim.AdamW8bit on the CPU, step for step",
    "test": "tests/references/test_more_optimizers.py::test_8_bit_adamw_equals_bitsandbytes",
    "claim": "docs/evidence/optimizers/page.md",
}

BLOCK = 256
SCALE = "_scale"  # of a state tensor's name, for its blocks' scales


@dataclass(frozen=True, kw_only=True)
class Spec(OptimizerSpec):
    """Choices of 8-bit AdamW; all but `smallest` are AdamW's.

    Attributes:
        lr: base learning rate; `embedding_lr` is that of embeddings and vectors, where it differs.
        weight_decay: for matrices, or for every parameter with decay = "all".
        base_dim: the width that `lr` was found at.
        smallest: parameters with fewer values keep float32 state.
    """

    lr: float = 1e-3
    embedding_lr: float | None = None
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay: Literal["matrices", "all"] = "matrices"
    base_dim: int | None = None
    smallest: int = 4096

    ranges = within(POSITIVE, "lr eps base_dim") | within(PART, "beta1 beta2") | within(NOT_NEGATIVE, "weight_decay")

    def build(self, *, model: nn.Module | None = None, parameters: Parameters | None = None, **dims: Any) -> AdamW8bit:
        """8-bit AdamW over a model's trainable parameters, or over those given as (name, tensor, role)."""
        parameters = parameters_of(model, parameters)
        made = groups(parameters, self.lr, self.embedding_lr, self.weight_decay, self.decay, "adamw-8bit")
        return AdamW8bit(self, by_inputs(made, self.base_dim))


@cache
def codes(signed: bool) -> Tensor:
    """The 256 values, sorted: for each of seven powers of ten the middles of equal parts of [0.1, 1], then 0 and 1."""
    values = [0.0, 1.0]
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (power + (not signed)) + 1, dtype=torch.float32)
        middles = 10.0 ** (power - 6) * ((edges[:-1] + edges[1:]) / 2)
        values += [*middles.tolist(), *(-middles).tolist()] if signed else middles.tolist()
    return torch.tensor(sorted(values), dtype=torch.float32)


@cache
def _edges(signed: bool) -> Tensor:
    """Between neighbouring values: what is below the edge is nearer to the lower one."""
    values = codes(signed)
    return (values[:-1] + values[1:]) / 2


def quantize(x: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """`(codes, scales)` of a float32 tensor: uint8 of its shape, and the largest magnitude of each block of 256."""
    blocks = nn.functional.pad(x.reshape(-1), (0, -x.numel() % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    safe = torch.where(scales == 0, 1.0, scales)
    found = torch.bucketize(blocks / safe[:, None], _edges(signed).to(x.device), out_int32=True)
    return found.to(torch.uint8).view(-1)[: x.numel()].view(x.shape), scales


def dequantize(found: Tensor, scales: Tensor, *, signed: bool) -> Tensor:
    """The float32 tensor that codes and scales describe."""
    values = codes(signed).to(found.device)[found.reshape(-1).int()]
    blocks = nn.functional.pad(values, (0, -values.numel() % BLOCK)).view(-1, BLOCK) * scales[:, None]
    return blocks.view(-1)[: found.numel()].view(found.shape)


class AdamW8bit(Optimizer):
    """The optimizer; see the module's formula. One parameter after the other, so one float32 copy at a time."""

    def update(
        self, group: ParameterGroup, names: list[str], parameters: list[nn.Parameter], lr: float, scale: float
    ) -> None:
        """One step for these parameters."""
        spec = self.spec
        for name, parameter in zip(names, parameters, strict=True):
            assert parameter.grad is not None
            step, gradient = self.steps[name], parameter.grad.to(self._dtype(parameter)) * scale
            mean = self._read("mean", name, parameter).mul_(spec.beta1).add_(gradient, alpha=1 - spec.beta1)
            square = self._read("square", name, parameter).mul_(spec.beta2)
            square.addcmul_(gradient, gradient, value=1 - spec.beta2)
            below = square.sqrt().div_((1 - spec.beta2**step) ** 0.5).add_(spec.eps)
            moved = parameter.to(mean.dtype) * (1 - lr * group.weight_decay)  # rounded once, where it is bfloat16
            parameter.copy_(moved.addcdiv_(mean, below, value=-lr / (1 - spec.beta1**step)))
            self._write("mean", name, mean)
            self._write("square", name, square)

    def _dtype(self, parameter: Tensor) -> torch.dtype:
        """Of the arithmetic: a float64 model's small parameters keep float64 state."""
        return parameter.dtype if parameter.dtype == torch.float64 and not self._packed(parameter) else torch.float32

    def _packed(self, parameter: Tensor) -> bool:
        return parameter.numel() >= self.spec.smallest

    def _read(self, what: str, name: str, parameter: Tensor) -> Tensor:
        found = self.state.get(f"{what}.{name}")
        if found is None:
            return torch.zeros_like(parameter, dtype=self._dtype(parameter), memory_format=torch.contiguous_format)
        if not self._packed(parameter):
            return found
        return dequantize(found, self.state[f"{what}{SCALE}.{name}"], signed=what == "mean")

    def _write(self, what: str, name: str, value: Tensor) -> None:
        key = f"{what}.{name}"
        if self._packed(value):
            self.state[key], self.state[f"{what}{SCALE}.{name}"] = quantize(value, signed=what == "mean")
        else:
            self.state[key] = value

    def state_shape(self, what: str, parameter: Tensor) -> tuple[int, ...]:
        """Scales have one value a block."""
        return (-(-parameter.numel() // BLOCK),) if what.endswith(SCALE) else tuple(parameter.shape)
