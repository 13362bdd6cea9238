"""The pre-norm block: normalise what goes into each part, never the residual stream itself.

    x = x + mixer(norm_1(x))        x = x + ffn(norm_2(x))        (B, T, D) -> (B, T, D)

The identity path from the last layer to the first is untouched, so gradients reach deep layers without warm-up tricks;
the post-norm block of the original Transformer puts a norm on it. Xiong et al. 2020, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.models._context import Context
from llmanac.models._state import LayerState
from llmanac.models.blocks import BlockSpec
from llmanac.models.ffn import FFNSpec
from llmanac.models.ffn.gated import Spec as Gated
from llmanac.models.mixers import MixerSpec
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.norms import NormSpec

CARD = {
    "title": "Pre-norm block",
    "paper": "Xiong et al. 2020, arXiv:2002.04745",
    "reference": "GPT2Block and LlamaDecoderLayer in transformers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(BlockSpec):
    """mixer: between tokens; ffn: within a token."""

    mixer: MixerSpec = field(default_factory=Softmax)
    ffn: FFNSpec = field(default_factory=Gated)

    @property
    def mixers(self) -> tuple[MixerSpec, ...]:
        return (self.mixer,)

    def resolved(self, dim: int) -> Spec:
        return replace(self, mixer=self.mixer.resolved(dim), ffn=self.ffn.resolved(dim))

    def build(self, *, dim: int, norm: NormSpec, **dims: Any) -> PreNorm:
        return PreNorm(self, dim, norm)


class PreNorm(nn.Module):
    """See the module."""

    def __init__(self, spec: Spec, dim: int, norm: NormSpec) -> None:
        super().__init__()
        self.input_layernorm = norm.build(dim=dim)
        self.self_attn = spec.mixer.build(dim=dim)
        self.post_attention_layernorm = norm.build(dim=dim)
        self.mlp = spec.ffn.build(dim=dim)

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> LayerState:
        return self.self_attn.start(batch, dtype=dtype, device=device)

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), context, state)
        y: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return y

    def flops(self, keys: float) -> float:
        """Matrix-product FLOPs of one token, forward, where a query sees `keys` keys on average."""
        return self.self_attn.flops(keys) + float(self.mlp.flops())
