"""Gated feed-forward layers (GLU variants): one half of the widened vector gates the other.

    y = W_down (f(W_gate x) * W_up x)        (B, T, D) -> (B, T, F) -> (B, T, D)

f is SiLU in SwiGLU, GELU in GEGLU, ReLU in ReGLU. Three matrices instead of two, so F is 8/3 D (rounded to a multiple
of 32) where a plain layer has 4 D: the same parameters. Shazeer 2020, equations 5 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from llmanac.models._context import Context
from llmanac.models._layers import Linear, linear_all
from llmanac.models.ffn import Activation, FFNSpec, activate, check_width

CARD = {
    "title": "Gated feed-forward layer",
    "paper": "Shazeer 2020, arXiv:2002.05202",
    "reference": "LlamaMLP (SwiGLU) and GemmaMLP (GEGLU) in transformers",
    "aliases": {
        "swiglu": {"activation": "silu"},
        "geglu": {"activation": "gelu"},
        "geglu-tanh": {"activation": "gelu-tanh"},
        "reglu": {"activation": "relu"},
    },
}


@dataclass(frozen=True, kw_only=True)
class Spec(FFNSpec):
    """activation: f; width: F, by default 8/3 D; biases: which products add one."""

    activation: Activation = "silu"
    width: int | None = None
    biases: Literal["none", "all"] = "none"

    def __post_init__(self) -> None:
        check_width(self.width)

    def _width(self, dim: int) -> int:
        return self.width or max(32, round(8 * dim / 3 / 32) * 32)

    def resolved(self, dim: int) -> Spec:
        return replace(self, width=self._width(dim))

    def build(self, *, dim: int, **dims: Any) -> GatedMLP:
        return GatedMLP(dim, self._width(dim), self.activation, self.biases == "all")


class GatedMLP(nn.Module):
    """See the module."""

    def __init__(self, dim: int, width: int, activation: Activation, bias: bool) -> None:
        super().__init__()
        self.activation = activation
        self.gate_proj = Linear(dim, width, bias=bias)
        self.up_proj = Linear(dim, width, bias=bias)
        self.down_proj = Linear(width, dim, bias=bias, std=0.0)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """(..., D) -> (..., D)."""
        gate, up = linear_all(x, (self.gate_proj, self.up_proj))
        y: Tensor = self.down_proj(activate(self.activation, gate) * up)
        return y

    def flops(self) -> float:
        return 6.0 * self.up_proj.in_features * self.up_proj.out_features
