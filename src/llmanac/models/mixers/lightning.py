"""Lightning attention: linear attention that forgets, with an output gate in place of a divisor.

    S_t = e^(-rate_h) S_{t-1} + k_t v_t^T        o_t = q_t S_t        [q; k; v] = silu(W x)
    y = W_o (sigmoid(W_g x) * norm([o_1 .. o_H]))        rate_h = slope 2^(-8 h / H),  h = 1 .. H

x (B, T, D), q, k and v (B, H, T, d), S (B, H, d, d). Each head forgets at a rate of its own, so positions need no other
mark, and none is used. Work grows with T and decoding keeps S alone. Qin et al. 2024, arXiv:2401.04658 (computed in
chunks, as there); the layer is that of MiniMax-01, arXiv:2501.08313.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
from llmanac.kernels.nn.linear_attention import linear_attention
from llmanac.models.forward import Context
from llmanac.models.layers import Linear, upcast
from llmanac.models.mixers import HeadsSpec, Mixer
from llmanac.models.norms import NormSpec
from llmanac.models.norms.rmsnorm import Spec as RMSNorm
from llmanac.models.state.recurrent import RecurrentState

CARD = {
    "title": "Lightning attention",
    "paper": "Qin et al. 2024, arXiv:2401.04658; MiniMax 2025, arXiv:2501.08313",
    "reference": "MiniMaxLightningAttention in transformers",
    "test": "tests/references/test_linear_attention.py::test_lightning_equals_minimax",
}


@dataclass(frozen=True, kw_only=True)
class Spec(HeadsSpec):
    """heads: H; head_dim: d, by default D / H; slope: scale of all rates.

    norm: of what all heads read; chunk: tokens that are compared pair by pair. MiniMax has a slope that falls from 1 in
    the first layer to 0 in the last.
    """

    scores: ClassVar[bool] = False

    slope: float = 1.0
    norm: NormSpec = field(default_factory=RMSNorm)
    chunk: int = 64

    ranges = within(COUNT, "chunk") | within(NOT_NEGATIVE, "slope")

    def head_shape(self, dim: int) -> None:
        return None  # nothing compares queries with keys

    def build(self, *, dim: int, **dims: Any) -> Lightning:
        return Lightning(self.resolved(dim), dim)


class Lightning(Mixer):
    """See the module. Parameters have the names of MiniMax checkpoints."""

    supports: ClassVar[frozenset[str]] = frozenset({"causal", "packed"})

    def __init__(self, spec: Spec, dim: int) -> None:
        super().__init__()
        assert spec.head_dim
        self.heads, self.head_dim, self.slope, self.chunk = spec.heads, spec.head_dim, spec.slope, spec.chunk
        width = spec.heads * spec.head_dim
        self.qkv_proj = Linear(dim, 3 * width)
        self.output_gate = Linear(dim, width)
        self.norm = spec.norm.build(dim=width)
        self.out_proj = Linear(width, dim, std=0.0)

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> RecurrentState:
        """S in float32 or more."""
        memory = torch.float64 if dtype == torch.float64 else torch.float32
        shape = (batch, self.heads, self.head_dim, self.head_dim)
        return RecurrentState([torch.zeros(shape, dtype=memory, device=device)])

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        batch, length, _ = x.shape
        heads = upcast(F.silu(self.qkv_proj(x))).view(batch, length, -1, 3 * self.head_dim)
        q, k, v = (part.transpose(1, 2) for part in heads.chunk(3, dim=-1))
        real, times = context.real(), None
        if real is not None:
            k, times = k * real[:, None, :, None], real.cumsum(1)
        held = None if state is None or context.slots is None else state.tensors[0]
        read, held = linear_attention(
            q, k, v, chunk=self.chunk, state=held, segments=context.segments, rates=self.rates(x.device), times=times
        )  # fmt: skip
        if state is not None and context.slots is not None:
            state.update(held)
        o = self.norm(read.transpose(1, 2).reshape(batch, length, -1).to(x.dtype))
        y: Tensor = self.out_proj(torch.sigmoid(self.output_gate(x)) * o)
        return y

    def rates(self, device: torch.device) -> Tensor:
        """(H,) float64."""
        steps = torch.arange(1, self.heads + 1, dtype=torch.float64, device=device)
        return self.slope * 2.0 ** (-8.0 * steps / self.heads)

    def flops(self, keys: float) -> float:
        """Pairs inside a chunk, and S read and written once a token."""
        products = sum(2.0 * p.weight.numel() for p in (self.qkv_proj, self.output_gate, self.out_proj))
        near = min(keys, float(self.chunk))
        return products + 4.0 * self.heads * self.head_dim * (near + self.head_dim)
