"""Gated short convolution: each channel is a product of a gate, and of the last few gated inputs with fixed weights.

    [b; c; u] = W_in x        v = conv(b * u)        y = W_out (c * v)

x and y (B, T, D); b, c, u and v (B, T, D); conv is depthwise and causal over `kernel` tokens. A layer reaches only
kernel - 1 tokens back, and decoding keeps those, whatever the length: a model has attention in some other layers.

Liquid AI 2025, LFM2 technical report, arXiv:2511.23404, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from llmanac.core.ranges import COUNT, within
from llmanac.models.forward import Context
from llmanac.models.layers import Linear
from llmanac.models.mixers import Mixer, MixerSpec
from llmanac.models.mixers.mamba import Convolution, last_inputs
from llmanac.models.state.recurrent import RecurrentState

CARD = {
    "title": "Gated short convolution",
    "paper": "Liquid AI 2025, arXiv:2511.23404",
    "reference": "Lfm2ShortConv in transformers",
    "test": "tests/references/test_short_conv.py::test_it_equals_transformers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(MixerSpec):
    """kernel: tokens of the convolution; biases: of both products and of the convolution."""

    kernel: int = 3
    biases: Literal["none", "all"] = "none"

    ranges = within(COUNT, "kernel")

    def build(self, *, dim: int, **dims: Any) -> ShortConv:
        return ShortConv(self, dim)


class ShortConv(Mixer):
    """See the module."""

    supports: ClassVar[frozenset[str]] = frozenset({"causal", "packed"})

    def __init__(self, spec: Spec, dim: int) -> None:
        super().__init__()
        self.kernel, self.dim, biased = spec.kernel, dim, spec.biases == "all"
        self.in_proj = Linear(dim, 3 * dim, bias=biased)
        self.conv1d = Convolution(dim, spec.kernel, bias=biased)
        self.out_proj = Linear(dim, dim, bias=biased, std=0.0)

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> RecurrentState:
        return RecurrentState([torch.zeros(batch, self.dim, self.kernel - 1, dtype=dtype, device=device)])

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        held = None if state is None or context.slots is None else state.tensors[0]
        b, c, u = self.in_proj(x).transpose(1, 2).chunk(3, dim=1)
        v = b * u
        before = v.new_zeros(*v.shape[:2], self.kernel - 1) if held is None else held.to(v.dtype)
        stream = torch.cat([before, v], dim=-1)
        if state is not None and context.slots is not None:
            state.update(last_inputs(stream, context.slots.lengths, self.kernel - 1))
        y: Tensor = self.out_proj((c * self.conv1d(stream, context.segments)).transpose(1, 2))
        return y

    def flops(self, keys: float) -> float:
        """The two products and the convolution."""
        return 2.0 * sum(p.weight.numel() for p in (self.in_proj, self.out_proj, self.conv1d))
