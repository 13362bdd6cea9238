"""The linear head: one product with the vocabulary.

    p(v | x_<=t) = softmax(c(W h_t))_v          h (B, T, D), W (V, D)

W may be the embedding itself (`tied` in the model's Spec): a token is then predicted by the vector that it is read by,
and a small model saves its largest matrix. c is the identity, or a soft cap c(x) = a tanh(x / a), which bounds the
logits (Gemma 2, arXiv:2408.00118). Press & Wolf 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.kernels.nn.cross_entropy import fused_cross_entropy
from llmanac.kernels.nn.entropy import chunked_entropy
from llmanac.models._context import Context
from llmanac.models._layers import init_normal, upcast
from llmanac.models.heads import Head, HeadSpec, pick

CARD = {
    "title": "Linear head",
    "paper": "Press & Wolf 2017, arXiv:1608.05859",
    "reference": "transformers.LlamaForCausalLM, tied and untied",
}


@dataclass(frozen=True, kw_only=True)
class Spec(HeadSpec):
    """softcap: a, the bound of the logits, None for none."""

    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.softcap is not None and not self.softcap > 0:
            raise SpecError(f"softcap: {self.softcap} must be above 0")

    def build(self, *, dim: int, vocab_size: int, **dims: Any) -> LinearHead:
        return LinearHead(dim, vocab_size, self.softcap)


class LinearHead(Head):
    """See the module."""

    def __init__(self, dim: int, vocab_size: int, softcap: float | None = None) -> None:
        super().__init__()
        self.softcap = softcap
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))

    def logits(self, hidden: Tensor, context: Context, state: Any = None, last: Tensor | None = None) -> Tensor:
        hidden = pick(hidden, last)
        logits = upcast(self.changed(F.linear(hidden, self.weight.to(hidden.dtype)), hidden))
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def nll(self, hidden: Tensor, targets: Tensor, context: Context, reduction: Literal["sum", "none"]) -> Tensor:
        joined, weight = self.joined(hidden.flatten(0, 1))
        values = fused_cross_entropy(
            joined, weight, targets.flatten(), reduction=reduction, fixed=self.fixed, softcap=self.softcap
        )
        return values if reduction == "sum" else values.view(targets.shape)

    def entropy(self, hidden: Tensor, context: Context) -> Tensor:
        return chunked_entropy(*self.joined(hidden.flatten(0, 1)), softcap=self.softcap).view(hidden.shape[:2])

    def flops(self, keys: float) -> float:
        return 2.0 * self.weight.numel()

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        init_normal(parameter, 0.02, generator)
