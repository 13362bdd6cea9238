"""The head of masked language models: a layer and a norm before the product with the vocabulary.

    p(v | x) = softmax(W norm(f(A h + a)) + b)_v          h (B, T, D), A (E, D), W (V, E), b (V,)

The layer turns what the blocks need to compute into what is compared with the embeddings; W is usually the
embedding, of width E (D but in ELECTRA).
BERT adds both a and b, ModernBERT only b. Devlin et al. 2019, appendix A.2 and its code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from llmanac.models.ffn import ACTIVATIONS, Activation
from llmanac.models.heads import HeadSpec
from llmanac.models.heads.linear import LinearHead
from llmanac.models.layers import Linear
from llmanac.models.norms import NormSpec
from llmanac.models.norms.layernorm import Spec as LayerNorm

CARD = {
    "title": "Masked-language-model head",
    "paper": "Devlin et al. 2019, arXiv:1810.04805",
    "reference": "BertForMaskedLM and ModernBertForMaskedLM in transformers",
    "test": "tests/references/test_families.py::test_logits_equal_within_1e_6",
}


@dataclass(frozen=True, kw_only=True)
class Spec(HeadSpec):
    """activation: f; norm: of the layer's output; biases: which of the two products add one, a and b."""

    activation: Activation = "gelu"
    norm: NormSpec = field(default_factory=LayerNorm)
    biases: Literal["none", "layer", "vocabulary", "all"] = "all"

    def build(self, *, dim: int, vocab_size: int, width: int | None = None, **dims: Any) -> MaskedHead:
        """width: E, by default D."""
        return MaskedHead(self, dim, vocab_size, width or dim)


class MaskedHead(LinearHead):
    """See the module."""

    def __init__(self, spec: Spec, dim: int, vocab_size: int, width: int) -> None:
        super().__init__(width, vocab_size, bias=spec.biases in ("vocabulary", "all"))
        self.activation = spec.activation
        self.dense = Linear(dim, width, bias=spec.biases in ("layer", "all"))
        self.norm = spec.norm.build(dim=width)

    def prepared(self, hidden: Tensor) -> Tensor:
        y: Tensor = self.norm(ACTIVATIONS[self.activation](self.dense(hidden)))
        return y

    def flops(self, keys: float) -> float:
        return super().flops(keys) + 2.0 * self.dense.weight.numel()
