"""The linear head: one product with the vocabulary.

    p(v | x_<=t) = softmax(c(W h_t + b))_v          h (B, T, D), W (V, D), b (V,) or none

W may be the embedding itself (`tied` in the model's Spec): a token is then predicted by the vector that it is read by,
and a small model saves its largest matrix. c is the identity, or a soft cap c(x) = a tanh(x / a), which bounds the
logits (Gemma 2, arXiv:2408.00118). A `scale` multiplies h first (T5: D^-0.5 where tied). Press & Wolf 2017;
for `base_dim`, which with the optimizer's makes one learning rate serve all widths, Yang et al. 2022, arXiv:2203.03466.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.ranges import POSITIVE, within
from llmanac.kernels.nn.cross_entropy import PackedHead, fused_cross_entropy
from llmanac.kernels.nn.entropy import chunked_entropy
from llmanac.models.forward import Context, pick
from llmanac.models.heads import Head, HeadSpec
from llmanac.models.layers import init_normal, upcast
from llmanac.models.quantized import Quantized, product

CARD = {
    "title": "Linear head",
    "paper": "Press & Wolf 2017, arXiv:1608.05859",
    "reference": "transformers.LlamaForCausalLM, tied and untied",
}


@dataclass(frozen=True, kw_only=True)
class Spec(HeadSpec):
    """softcap: a, the bound of the logits; scale: what hidden states are multiplied by; None for neither.

    bias: a learned b, or none (GPT-J and Phi have one).
    base_dim: further multiplies them by base_dim / D, so that a rate found at that width serves wider models.
    """

    softcap: float | None = None
    scale: float | None = None
    base_dim: int | None = None
    bias: Literal["none", "learned"] = "none"

    ranges = within(POSITIVE, "softcap scale base_dim")

    def build(self, *, dim: int, vocab_size: int, **dims: Any) -> LinearHead:
        scale = self.scale if self.base_dim is None else (self.scale or 1.0) * self.base_dim / dim
        return LinearHead(dim, vocab_size, self.softcap, scale, self.bias == "learned")


class LinearHead(Head):
    """See the module."""

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        softcap: float | None = None,
        scale: float | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.softcap, self.scale = softcap, scale
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None

    def prepared(self, hidden: Tensor) -> Tensor:
        """What the product with the vocabulary reads: (B, T, D) -> (B, T, D)."""
        return hidden if self.scale is None else hidden * self.scale

    def logits(self, hidden: Tensor, context: Context, state: Any = None, last: Tensor | None = None) -> Tensor:
        hidden = self.prepared(pick(hidden, last))
        logits = upcast(self.changed(product(hidden, self.weight, self.bias), hidden))
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def nll(self, hidden: Tensor, targets: Tensor, context: Context, reduction: Literal["sum", "none"]) -> Tensor:
        own, joined = self.weight, self.prepared(hidden).flatten(0, 1)
        weight: Tensor = own
        packed = None
        if isinstance(own, Quantized) and self.change is None:
            form: Any = own.form
            packed = PackedHead(lambda x: form.multiply(x, own), lambda y: form.multiply_back(y, own))
        else:
            joined, weight = self.joined(joined)
        values = fused_cross_entropy(
            joined,
            weight,
            targets.flatten(),
            bias=self.bias,
            reduction=reduction,
            fixed=self.fixed,
            softcap=self.softcap,
            packed=packed,
        )
        return values if reduction == "sum" else values.view(targets.shape)

    def entropy(self, hidden: Tensor, context: Context) -> Tensor:
        joined, weight = self.joined(self.prepared(hidden).flatten(0, 1))
        return chunked_entropy(joined, weight, self.bias, self.softcap).view(hidden.shape[:2])

    def flops(self, keys: float) -> float:
        return 2.0 * self.weight.numel()

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if name == "bias":
            parameter.zero_()
        else:
            init_normal(parameter, 0.02, generator)
