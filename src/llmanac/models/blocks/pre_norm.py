"""The pre-norm block: normalise what goes into each part, never the residual stream itself.

    x = x + mixer(norm_1(x))        x = x + ffn(norm_2(x))        (B, T, D) -> (B, T, D)

The identity path from the last layer to the first is untouched, so gradients reach deep layers without warm-up tricks;
the post-norm block of the original Transformer puts a norm on it. Xiong et al. 2020, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from llmanac.core.ranges import POSITIVE, within
from llmanac.models.blocks import Block, BlockSpec
from llmanac.models.forward import Context
from llmanac.models.mixers import MixerSpec
from llmanac.models.norms import NormSpec

CARD = {
    "title": "Pre-norm block",
    "paper": "Xiong et al. 2020, arXiv:2002.04745",
    "reference": "GPT2Block and LlamaDecoderLayer in transformers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(BlockSpec):
    """first_norm: whether `norm_1` is there; the first block of a model that norms its embeddings may do without.

    branch_scale: what each part is multiplied by before it is added (Granite).
    """

    cross: MixerSpec | None = None
    first_norm: Literal["model", "none"] = "model"
    branch_scale: float = 1.0

    ranges = within(POSITIVE, "branch_scale")

    def build(self, *, dim: int, norm: NormSpec, max_length: int, **dims: Any) -> PreNorm:
        return PreNorm(self, dim, norm, max_length)


class PreNorm(Block):
    """See the module."""

    def __init__(self, spec: Spec, dim: int, norm: NormSpec, max_length: int) -> None:
        super().__init__(spec, dim, max_length)
        self.branch_scale = spec.branch_scale
        self.input_layernorm = nn.Identity() if spec.first_norm == "none" else norm.build(dim=dim)
        self.encoder_layernorm = None if self.encoder_attn is None else norm.build(dim=dim)
        self.post_attention_layernorm = None if self.mlp is None else norm.build(dim=dim)
        self.order(
            "input_layernorm", "self_attn", "encoder_layernorm", "encoder_attn", "post_attention_layernorm", "mlp"
        )

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        own, source = self.states(state)
        context = self.placed(x, context)
        x = self._add(x, self.self_attn(self.input_layernorm(x), context, own))
        if self.encoder_attn is not None:
            assert self.encoder_layernorm is not None
            x = self._add(x, self.encoder_attn(self.encoder_layernorm(x), context, source))
        if self.mlp is not None:
            assert self.post_attention_layernorm is not None
            x = self._add(x, self.mlp(self.post_attention_layernorm(x), context))
        return x

    def _add(self, x: Tensor, part: Tensor) -> Tensor:
        return x + (part if self.branch_scale == 1 else part * self.branch_scale)
