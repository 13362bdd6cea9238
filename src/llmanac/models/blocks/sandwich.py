"""The sandwich block: a norm before each part and one after it, and the residual stream free of both.

    x = x + post_1(mixer(pre_1(x)))        x = x + post_2(ffn(pre_2(x)))        (B, T, D) -> (B, T, D)

The second norm bounds what a part may add, whatever its weights. What it follows does not start at 0, as it does in
other blocks: the slope of a norm at 0 is eps^-0.5, so a first step would be far too large. Ding et al. 2021 (CogView),
section 2.4; Gemma 2 (2024). OLMo 2 (2025, arXiv:2501.00656, section 3.3) has the second norms alone: each part reads
the residual stream itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from llmanac.models.blocks import Block, BlockSpec
from llmanac.models.forward import Context
from llmanac.models.layers import Linear
from llmanac.models.mixers import MixerSpec
from llmanac.models.norms import NormSpec

CARD = {
    "title": "Sandwich block (norms before and after)",
    "paper": "Ding et al. 2021, arXiv:2105.13290; Gemma Team 2024, arXiv:2408.00118",
    "reference": "Gemma2DecoderLayer and Olmo2DecoderLayer in transformers",
    "aliases": {"norm-after": {"norms": "after"}},
    "test": "tests/references/test_blocks.py::test_sandwich_equals_gemma2",
}


@dataclass(frozen=True, kw_only=True)
class Spec(BlockSpec):
    """norms: before and after each part, or after it alone."""

    cross: MixerSpec | None = None
    norms: Literal["both", "after"] = "both"

    def build(self, *, dim: int, norm: NormSpec, max_length: int, **dims: Any) -> Sandwich:
        return Sandwich(self, dim, norm, max_length)


class Sandwich(Block):
    """See the module. Names are Gemma 2's."""

    def __init__(self, spec: Spec, dim: int, norm: NormSpec, max_length: int) -> None:
        super().__init__(spec, dim, max_length)
        before = norm.build if spec.norms == "both" else nn.Identity
        self.input_layernorm, self.post_attention_layernorm = before(dim=dim), norm.build(dim=dim)
        if self.encoder_attn is not None:
            self.encoder_layernorm, self.post_encoder_layernorm = before(dim=dim), norm.build(dim=dim)
        if self.mlp is not None:
            self.pre_feedforward_layernorm, self.post_feedforward_layernorm = before(dim=dim), norm.build(dim=dim)
        for part in (self.self_attn, self.encoder_attn, self.mlp):
            start_away_from_zero(part)

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        own, source = self.states(state)
        context = self.placed(x, context)
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), context, own))
        if self.encoder_attn is not None:
            read = self.encoder_attn(self.encoder_layernorm(x), context, source)
            x = x + self.post_encoder_layernorm(read)
        if self.mlp is not None:
            x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x), context))
        return x


def start_away_from_zero(part: nn.Module | None) -> None:
    """Let linear maps that would start at 0 start as others do."""
    for layer in () if part is None else part.modules():
        if isinstance(layer, Linear) and layer.std == 0.0:
            layer.std = layer.in_features**-0.5
