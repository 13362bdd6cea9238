"""The linear head: one product with the vocabulary.

    p(v | x_<=t) = softmax(W h_t)_v          h (B, T, D), W (V, D)

W may be the embedding itself (`tied` in the model's Spec): a token is then predicted by the vector that it is read by,
and a small model saves its largest matrix. Press & Wolf 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.kernels.nn.cross_entropy import fused_cross_entropy
from llmanac.kernels.nn.entropy import chunked_entropy
from llmanac.models._context import Context
from llmanac.models._layers import init_normal, upcast
from llmanac.models._quantized import product
from llmanac.models.heads import Head, HeadSpec, pick

CARD = {
    "title": "Linear head",
    "paper": "Press & Wolf 2017, arXiv:1608.05859",
    "reference": "transformers.LlamaForCausalLM, tied and untied",
}


@dataclass(frozen=True, kw_only=True)
class Spec(HeadSpec):
    """Nothing to choose."""

    def build(self, *, dim: int, vocab_size: int, **dims: Any) -> LinearHead:
        return LinearHead(dim, vocab_size)


class LinearHead(Head):
    """See the module."""

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))

    def logits(self, hidden: Tensor, context: Context, state: Any = None, last: Tensor | None = None) -> Tensor:
        hidden = pick(hidden, last)
        return upcast(self.changed(product(hidden, self.weight), hidden))

    def nll(self, hidden: Tensor, targets: Tensor, context: Context, reduction: Literal["sum", "none"]) -> Tensor:
        joined, weight = self.joined(hidden.flatten(0, 1))
        values = fused_cross_entropy(joined, weight, targets.flatten(), reduction=reduction, fixed=self.fixed)
        return values if reduction == "sum" else values.view(targets.shape)

    def entropy(self, hidden: Tensor, context: Context) -> Tensor:
        return chunked_entropy(*self.joined(hidden.flatten(0, 1))).view(hidden.shape[:2])

    def flops(self, keys: float) -> float:
        return 2.0 * self.weight.numel()

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        init_normal(parameter, 0.02, generator)
