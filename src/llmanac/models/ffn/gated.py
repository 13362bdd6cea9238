"""Gated feed-forward layers (GLU variants): one half of the widened vector gates the other.

    y = W_down (f(W_gate x) * W_up x)        (B, T, D) -> (B, T, F) -> (B, T, D)

f is SiLU in SwiGLU, GELU in GEGLU, ReLU in ReGLU. Three matrices instead of two, so F is 8/3 D (rounded to a multiple
of 32) where a plain layer has 4 D: the same parameters. Shazeer 2020, equations 5 and 6.

gpt-oss bounds both halves, and adds 1 to the half that is gated, so that a gate passes something from the start:
y = W_down (f(min(g, a)) * (clamp(u, -a, a) + 1)) with f the sigmoid form of GELU (OpenAI 2025, arXiv:2508.10925).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.ranges import COUNT, POSITIVE, within
from llmanac.kernels.nn.takes import fused, operation, remade
from llmanac.models.ffn import ACTIVATIONS, Activation, FFNSpec
from llmanac.models.forward import Context
from llmanac.models.layers import Linear, linear_all

CARD = {
    "title": "Gated feed-forward layer",
    "titles": {
        "reglu": "ReGLU feed-forward layer",
        "geglu-tanh": "GeGLU feed-forward layer (GELU by tanh)",
        "clamped-swiglu": "SwiGLU feed-forward layer with clamped parts",
    },
    "paper": "Shazeer 2020, arXiv:2002.05202",
    "reference": "LlamaMLP (SwiGLU) and GemmaMLP (GEGLU) in transformers",
    "aliases": {
        "swiglu": {"activation": "silu"},
        "geglu": {"activation": "gelu"},
        "geglu-tanh": {"activation": "gelu-tanh"},
        "reglu": {"activation": "relu"},
        "clamped-swiglu": {"activation": "quick-gelu", "limit": 7.0, "shift": 1.0, "biases": "all"},
    },
}


@dataclass(frozen=True, kw_only=True)
class Spec(FFNSpec):
    """activation: f; width: F, by default 8/3 D; biases: which products add one.

    limit: a, which neither half may exceed (what is gated: in size), None for no limit; shift: added to what is gated.
    """

    activation: Activation = "silu"
    width: int | None = None
    biases: Literal["none", "all"] = "none"
    limit: float | None = None
    shift: float | None = None

    ranges = within(COUNT, "width") | within(POSITIVE, "limit")

    def _width(self, dim: int) -> int:
        return self.width or max(32, round(8 * dim / 3 / 32) * 32)

    def resolved(self, dim: int) -> Spec:
        return replace(self, width=self._width(dim))

    def build(self, *, dim: int, **dims: Any) -> GatedMLP:
        return GatedMLP(dim, self._width(dim), self.activation, self.biases == "all", self.limit, self.shift)


class GatedMLP(nn.Module):
    """See the module."""

    def __init__(
        self,
        dim: int,
        width: int,
        activation: Activation,
        bias: bool,
        limit: float | None = None,
        shift: float | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.limit, self.shift = activation, limit, shift
        self.gate_proj = Linear(dim, width, bias=bias)
        self.up_proj = Linear(dim, width, bias=bias)
        self.down_proj = Linear(width, dim, bias=bias, std=0.0)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """(..., D) -> (..., D)."""
        gate, up = linear_all(x, (self.gate_proj, self.up_proj))
        if self.limit is not None:
            gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        up = up if self.shift is None else up + self.shift
        y: Tensor = self.down_proj(self._gated(gate, up))
        return y

    def _gated(self, gate: Tensor, up: Tensor) -> Tensor:
        if self.activation == "silu" and gate.dtype == up.dtype:
            if torch.compiler.is_compiling():
                found = operation("gated", gate)
                if found is not None:
                    return found(gate, up)
            elif fused(gate, up):
                from llmanac.kernels.nn.pointwise import GatedSiLU, gated  # what is not trained needs no numba

                y: Tensor = GatedSiLU.apply(gate, up)
                return remade(y, gated, gate, up)
        return ACTIVATIONS[self.activation](gate) * up

    def flops(self) -> float:
        return 6.0 * self.up_proj.in_features * self.up_proj.out_features
