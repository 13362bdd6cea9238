"""The block whose residual is what was normed: each part adds to its own input, and no path goes around the norms.

    n = norm_1(x)    x = a n + b mixer(n)        n = norm_2(x)    x = c n + d ffn(n)        (B, T, D) -> (B, T, D)

With the norm of the layer above it this is the post-norm block, whose first norm is then that of the embeddings; unlike
there, a norm follows the last block. Weights a and c above 1 keep deep models stable, as in DeepNorm (Wang et al. 2022,
arXiv:2203.00555). MiniMax-01 (2025, section 2.2.4) has both kinds of weights, BLOOM's
`apply_residual_connection_post_layernorm` none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llmanac.core.ranges import POSITIVE, within
from llmanac.models.blocks import Block, BlockSpec
from llmanac.models.forward import Context
from llmanac.models.norms import NormSpec

CARD = {
    "title": "Normed residual block",
    "paper": "MiniMax 2025, arXiv:2501.08313",
    "reference": "MiniMaxForCausalLM and BloomForCausalLM in transformers",
    "test": "tests/references/test_families.py::test_logits_equal_within_1e_6",
}


@dataclass(frozen=True, kw_only=True)
class Spec(BlockSpec):
    """mixer_residual, mixer_scale: a and b; ffn_residual, ffn_scale: c and d."""

    mixer_residual: float = 1.0
    mixer_scale: float = 1.0
    ffn_residual: float = 1.0
    ffn_scale: float = 1.0

    ranges = within(POSITIVE, "mixer_residual mixer_scale ffn_residual ffn_scale")

    def build(self, *, dim: int, norm: NormSpec, max_length: int, **dims: Any) -> NormedResidual:
        return NormedResidual(self, dim, norm, max_length)


class NormedResidual(Block):
    """See the module."""

    def __init__(self, spec: Spec, dim: int, norm: NormSpec, max_length: int) -> None:
        super().__init__(spec, dim, max_length)
        self.weights = (spec.mixer_residual, spec.mixer_scale, spec.ffn_residual, spec.ffn_scale)
        self.input_layernorm = norm.build(dim=dim)
        self.post_attention_layernorm = None if self.mlp is None else norm.build(dim=dim)

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        a, b, c, d = self.weights
        context = self.placed(x, context)
        x = self.input_layernorm(x)
        x = x * a + self.self_attn(x, context, state) * b
        if self.mlp is not None:
            assert self.post_attention_layernorm is not None
            x = self.post_attention_layernorm(x)
            x = x * c + self.mlp(x, context) * d
        return x
