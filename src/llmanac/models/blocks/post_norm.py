"""The post-norm block of the original Transformer: normalise the residual stream after each part is added.

    x = norm_1(x + mixer(x))        x = norm_2(x + ffn(x))        (B, T, D) -> (B, T, D)

Every norm is on the path from the last layer to the first, so gradients shrink or grow with depth: such models are
trained with warm-up, and are the harder to train the deeper they are. Vaswani et al. 2017, section 3.1; Xiong et al.
2020 for the comparison with pre-norm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from llmanac.models.blocks import Block, BlockSpec
from llmanac.models.ffn import FFNSpec
from llmanac.models.ffn.mlp import Spec as MLP
from llmanac.models.forward import Context
from llmanac.models.mixers import MixerSpec
from llmanac.models.norms import NormSpec

CARD = {
    "title": "Post-norm block",
    "paper": "Vaswani et al. 2017, arXiv:1706.03762",
    "reference": "torch.nn.TransformerEncoderLayer and TransformerDecoderLayer with norm_first=False",
}


@dataclass(frozen=True, kw_only=True)
class Spec(BlockSpec):
    """See the base; cross: attention to a source sequence, after the mixer, or None."""

    ffn: FFNSpec = field(default_factory=MLP)
    cross: MixerSpec | None = None

    def build(self, *, dim: int, norm: NormSpec, max_length: int, **dims: Any) -> PostNorm:
        return PostNorm(self, dim, norm, max_length)


class PostNorm(Block):
    """See the module. Each norm follows the part that it is named for."""

    def __init__(self, spec: Spec, dim: int, norm: NormSpec, max_length: int) -> None:
        super().__init__(spec, dim, max_length)
        self.post_attention_layernorm = norm.build(dim=dim)
        self.post_encoder_layernorm = None if self.encoder_attn is None else norm.build(dim=dim)
        self.post_feedforward_layernorm = None if self.mlp is None else norm.build(dim=dim)

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        own, source = self.states(state)
        context = self.placed(x, context)
        x = self.post_attention_layernorm(x + self.self_attn(x, context, own))
        if self.encoder_attn is not None:
            assert self.post_encoder_layernorm is not None
            x = self.post_encoder_layernorm(x + self.encoder_attn(x, context, source))
        if self.mlp is not None:
            assert self.post_feedforward_layernorm is not None
            x = self.post_feedforward_layernorm(x + self.mlp(x, context))
        return x
