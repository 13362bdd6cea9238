"""Low-rank adaptation: a frozen matrix plus a trained product of two thin ones.

    y = W x + s B A x        A (r, inputs), B (outputs, r); s = alpha / r, or alpha / sqrt(r) (rank-stabilized)

B starts at 0, so the model starts as it was, and A is uniform within inputs^-0.5, as in the paper's code. Only A and B
are trained: r (inputs + outputs) numbers in place of inputs x outputs, and no gradient or optimizer state of W. After
training, s B A is added to W, so that inference costs nothing more. With s = alpha / r the gradients shrink as r grows;
alpha / sqrt(r) keeps their size. Dropout applies to the x that A reads.

Shapes: x (..., inputs) -> A x (..., r) -> y (..., outputs). Names are PEFT's: `<layer>.lora_A.weight` and `lora_B`.
Hu et al. 2021; Kalajdzievski 2023 for the scaling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.adapters import AdapterSpec, Part, Transform
from llmanac.core.errors import SpecError
from llmanac.models._layers import Product, upcast

CARD = {
    "title": "Low-rank adaptation (LoRA)",
    "paper": "Hu et al. 2021, arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732",
    "reference": "the formula added to the layers of transformers.LlamaForCausalLM",
    "aliases": {"rslora": {"scaling": "rank-stabilized"}},
    "test": "tests/references/test_lora.py::test_equals_the_formula_on_a_transformers_model",
}


@dataclass(frozen=True, kw_only=True)
class Spec(AdapterSpec):
    """rank: r; alpha: size of the change; dropout: share of A's inputs dropped in training; scaling: what s is."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    scaling: Literal["standard", "rank-stabilized"] = "standard"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise SpecError(f"rank: {self.rank} must be at least 1")
        if not self.alpha > 0:
            raise SpecError(f"alpha: {self.alpha} must be above 0")
        if not 0 <= self.dropout < 1:
            raise SpecError(f"dropout: {self.dropout} is not in [0, 1)")

    @property
    def scale(self) -> float:
        """s."""
        return self.alpha / (self.rank if self.scaling == "standard" else self.rank**0.5)

    def build(self, *, seed: int = 0, **dims: Any) -> LoRA:
        return LoRA(self, seed)


class LoRA(Transform):
    """See the module."""

    spec: Spec

    def make_part(self, name: str, layer: Product) -> LowRank:
        weight = layer.weight
        # held in float32 at least: the steps of training are too small for less
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        a = torch.empty(self.spec.rank, weight.shape[1], dtype=dtype, device=weight.device)
        b = torch.empty(weight.shape[0], self.spec.rank, dtype=dtype, device=weight.device)
        return LowRank(self, Factor(a, a.shape[1] ** -0.5), Factor(b, 0.0))


class Factor(nn.Module):
    """A matrix whose initial values are uniform within +- `bound`."""

    def __init__(self, weight: Tensor, bound: float) -> None:
        super().__init__()
        self.bound = bound
        self.weight = nn.Parameter(weight)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        drawn = torch.empty(parameter.shape, dtype=torch.float32)
        parameter.copy_(drawn.uniform_(-self.bound, self.bound, generator=generator) if self.bound else drawn.zero_())


class LowRank(Part):
    """A and B of one layer."""

    def __init__(self, transform: LoRA, a: Factor, b: Factor) -> None:
        super().__init__(transform, {"lora_A": a, "lora_B": b})
        self.a, self.b, self.scale, self.dropout = a, b, transform.spec.scale, transform.spec.dropout

    def term(self, x: Tensor) -> tuple[Tensor, Tensor, float]:
        read = F.dropout(x, self.dropout, self.a.training) if self.dropout else x
        return F.linear(read, self.a.weight.to(x.dtype)), self.b.weight.to(x.dtype), self.scale

    def delta(self) -> Tensor:
        return upcast(self.b.weight @ self.a.weight) * self.scale
