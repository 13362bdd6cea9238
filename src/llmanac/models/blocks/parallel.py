"""The parallel block: the mixer and the feed-forward layer read the same residual stream, and both are added at once.

    x = x + mixer(norm_1(x)) + ffn(norm_2(x))        (B, T, D) -> (B, T, D)

With one norm, norm_2 is norm_1 (GPT-J, PaLM); with two each part has its own (GPT-NeoX). The two parts can be computed
at the same time, at a small cost in quality that shrinks with size. Wang & Komatsuzaki 2021 (GPT-J); Chowdhery et al.
2022 (PaLM), section 2; Black et al. 2022 (GPT-NeoX). There is no cross-attention: it reads what the mixer wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from llmanac.models.blocks import Block, BlockSpec
from llmanac.models.forward import Context
from llmanac.models.norms import NormSpec

CARD = {
    "title": "Parallel block",
    "paper": "Chowdhery et al. 2022, arXiv:2204.02311; Black et al. 2022, arXiv:2204.06745",
    "reference": "GPTNeoXLayer (two norms) and GPTJBlock (one norm) in transformers",
    "test": "tests/references/test_blocks.py::test_parallel_equals_gpt_neox",
}


@dataclass(frozen=True, kw_only=True)
class Spec(BlockSpec):
    """norms: one that both parts read, or two."""

    norms: Literal["one", "two"] = "one"

    def build(self, *, dim: int, norm: NormSpec, max_length: int, **dims: Any) -> Parallel:
        return Parallel(self, dim, norm, max_length)


class Parallel(Block):
    """See the module. Names are GPT-NeoX's."""

    def __init__(self, spec: Spec, dim: int, norm: NormSpec, max_length: int) -> None:
        super().__init__(spec, dim, max_length)
        self.input_layernorm = norm.build(dim=dim)
        two = spec.norms == "two" and self.mlp is not None
        self.post_attention_layernorm = norm.build(dim=dim) if two else None

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        context = self.placed(x, context)
        normed = self.input_layernorm(x)
        added = self.self_attn(normed, context, state)
        if self.mlp is not None:
            own = normed if self.post_attention_layernorm is None else self.post_attention_layernorm(x)
            added = added + self.mlp(own, context)
        return x + added
