"""The plain feed-forward layer: widen, bend, narrow.

    y = W_down f(W_up x + b_up) + b_down        (B, T, D) -> (B, T, F) -> (B, T, D),  F = 4 D by default

f is ReLU in the original Transformer, GELU in GPT-2 (its tanh approximation), and the square of ReLU, which a search
found, in Primer. Vaswani et al. 2017, section 3.3; Hendrycks & Gimpel 2016 for GELU; So et al. 2021 (arXiv:2109.08668)
for the square.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from llmanac.core.ranges import COUNT, within
from llmanac.models.ffn import ACTIVATIONS, Activation, FFNSpec
from llmanac.models.forward import Context
from llmanac.models.layers import Linear

CARD = {
    "title": "Feed-forward layer",
    "paper": "Vaswani et al. 2017, arXiv:1706.03762",
    "reference": "OPTDecoderLayer (ReLU), GPT2MLP (GELU) and NemotronMLP (squared ReLU) in transformers",
    "aliases": {
        "relu": {"activation": "relu"},
        "relu-squared": {"activation": "relu-squared"},
        "gelu": {"activation": "gelu"},
        "gelu-tanh": {"activation": "gelu-tanh"},
    },
}


@dataclass(frozen=True, kw_only=True)
class Spec(FFNSpec):
    """activation: f; width: F, by default 4 D; biases: which products add one."""

    activation: Activation = "relu"
    width: int | None = None
    biases: Literal["none", "all"] = "none"

    ranges = within(COUNT, "width")

    def _width(self, dim: int) -> int:
        return self.width or 4 * dim

    def resolved(self, dim: int) -> Spec:
        return replace(self, width=self._width(dim))

    def build(self, *, dim: int, **dims: Any) -> MLP:
        return MLP(dim, self._width(dim), self.activation, self.biases == "all")


class MLP(nn.Module):
    """See the module."""

    def __init__(self, dim: int, width: int, activation: Activation, bias: bool) -> None:
        super().__init__()
        self.activation = activation
        self.up_proj = Linear(dim, width, bias=bias)
        self.down_proj = Linear(width, dim, bias=bias, std=0.0)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """(..., D) -> (..., D)."""
        y: Tensor = self.down_proj(ACTIVATIONS[self.activation](self.up_proj(x)))
        return y

    def flops(self) -> float:
        return 4.0 * self.up_proj.in_features * self.up_proj.out_features
