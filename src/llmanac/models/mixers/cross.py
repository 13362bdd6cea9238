"""Cross-attention: queries come from the tokens, keys and values from a source sequence.

    Q = x W_q    K = m W_k    V = m W_v    y = softmax(Q K^T / sqrt(d)) V W_o        x (B, T, D), m (B, S, D)

m is an encoder's output. Every token sees all real places of the source; keys and values do not change while decoding,
so the state keeps them. Vaswani et al. 2017, section 3.2.3 (encoder-decoder attention).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.models.forward import Context
from llmanac.models.layers import Linear
from llmanac.models.masks import AttentionMask
from llmanac.models.mixers import Mixer, SharedHeadsSpec
from llmanac.models.scores import ScoreSpec
from llmanac.models.scores.scaled_dot import Spec as ScaledDot
from llmanac.models.state.cross import CrossState

CARD = {
    "title": "Cross-attention",
    "paper": "Vaswani et al. 2017, arXiv:1706.03762",
    "reference": "torch.nn.MultiheadAttention",
    "reads": "source",
    "test": "tests/references/test_encoder_decoder.py::test_cross_attention_equals_torch",
}


@dataclass(frozen=True, kw_only=True)
class Spec(SharedHeadsSpec):
    """heads: H; head_dim: d, by default D / H; kv_heads: H_kv, by default H; score compares queries with keys.

    biases says which of the products add one: none, those of q, k and v, or all four.
    """

    score: ScoreSpec = field(default_factory=ScaledDot)
    biases: Literal["none", "qkv", "all"] = "none"

    def build(self, *, dim: int, source: int | None = None, **dims: Any) -> CrossAttention:
        """source: width of what is read, where it is not the model's."""
        return CrossAttention(self, dim, source)


class CrossAttention(Mixer):
    """See the module."""

    supports: ClassVar[frozenset[str]] = frozenset({"causal", "prefix", "bidirectional", "rewind", "source"})

    def __init__(self, spec: Spec, dim: int, source: int | None = None) -> None:
        super().__init__()
        self.heads, self.head_dim = spec.head_shape(dim)
        self.kv_heads = spec.kv_heads or self.heads
        source = source or dim
        width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        bias = spec.biases != "none"
        self.q_proj = Linear(dim, width, bias=bias)
        self.k_proj = Linear(source, kv_width, bias=bias)
        self.v_proj = Linear(source, kv_width, bias=bias)
        self.o_proj = Linear(width, dim, bias=spec.biases == "all", std=0.0)
        self.score = spec.score.build(heads=self.heads, head_dim=self.head_dim)

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> CrossState:
        return CrossState(batch, self.kv_heads, self.head_dim, dtype=dtype, device=device)

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
        keys, values, real = self._source(context, state)
        mask = AttentionMask.of_source(real, length)
        read = self.score.attend(q, keys, values, mask, form=context.form)
        y: Tensor = self.o_proj(read.transpose(1, 2).reshape(batch, length, -1))
        return y

    def _source(self, context: Context, state: CrossState | None) -> tuple[Tensor, Tensor, Tensor]:
        if context.memory is None:
            if state is None or not state.read()[2].shape[1]:
                raise RequestError("source: cross-attention needs a source sequence; give Batch(source=...)")
            return state.read()
        source, real = context.memory.hidden, context.memory.real
        shape = (*source.shape[:2], -1, self.head_dim)
        keys, values = (p(source).view(shape).transpose(1, 2) for p in (self.k_proj, self.v_proj))
        if state is not None:
            state.fill(keys, values, real)
        return keys, values, real

    def flops(self, keys: float) -> float:
        """The source is counted as long as what a query sees of its own sequence, its products once a query."""
        products = sum(2.0 * p.weight.numel() for p in (self.q_proj, self.k_proj, self.v_proj, self.o_proj))
        return products + self.score.flops(keys)
