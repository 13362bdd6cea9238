"""The head of labels: a score for each of a few labels, of a token or of a whole text.

    s(c | h) = W norm(f(A h + a)) + b          h (D,) a token's state or a text's, A (D, D), W (C, D), b (C,)

`place` says whose h the answer is read from: the first token (BERT's [CLS]), the last (decoders), the mean of all, or
each token. Layer and norm may be missing. One label gives a number, as rerankers do for a pair of texts. Without names
of labels there is one for every token of the vocabulary. Devlin et al. 2019, section 4; Nogueira & Cho 2019,
arXiv:1901.04085 (pairs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.errors import RequestError
from llmanac.models.ffn import ACTIVATIONS
from llmanac.models.forward import Context
from llmanac.models.heads import HeadSpec
from llmanac.models.heads.linear import LinearHead
from llmanac.models.layers import Linear
from llmanac.models.norms import NormSpec

CARD = {
    "title": "Head of labels (classification, reranking)",
    "paper": "Devlin et al. 2019, arXiv:1810.04805; Nogueira & Cho 2019, arXiv:1901.04085",
    "reference": "AutoModelForSequenceClassification and AutoModelForTokenClassification in transformers",
    "test": "tests/references/test_label_heads.py::test_scores_equal_transformers",
}
FUNCTIONS = {**ACTIVATIONS, "tanh": torch.tanh}


@dataclass(frozen=True, kw_only=True)
class Spec(HeadSpec):
    """labels: their names, in the order of the scores; place: see the module.

    activation: f, None for no layer; norm: of the layer's output; biases: which of the products add one.
    """

    labels: tuple[str, ...] = ()
    place: Literal["first", "last", "mean", "each"] = "last"
    activation: Literal["relu", "gelu", "gelu-tanh", "silu", "identity", "tanh"] | None = None
    norm: NormSpec | None = None
    biases: Literal["none", "layer", "labels", "all"] = "all"

    def build(self, *, dim: int, vocab_size: int, **dims: Any) -> LabelsHead:
        return LabelsHead(self, dim, vocab_size)


class LabelsHead(LinearHead):
    """See the module."""

    def __init__(self, spec: Spec, dim: int, vocab_size: int) -> None:
        super().__init__(dim, len(spec.labels) or vocab_size)
        self.labels = spec.labels
        self.activation = FUNCTIONS[spec.activation or "identity"]
        if spec.biases in ("labels", "all"):
            self.bias = nn.Parameter(torch.zeros(len(self.weight)))
        layer = spec.activation is not None
        self.dense = Linear(dim, dim, bias=spec.biases in ("layer", "all")) if layer else None
        self.norm = None if spec.norm is None else spec.norm.build(dim=dim)

    def prepared(self, hidden: Tensor) -> Tensor:
        y: Tensor = hidden if self.dense is None else self.activation(self.dense(hidden))
        return y if self.norm is None else self.norm(y)

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> None:
        """Raises RequestError where there are labels: they are no text."""
        if self.labels:
            raise RequestError("state: this model gives labels, not text; `llmanac classify` and `retrieve` use it")

    def nll(self, hidden: Tensor, targets: Tensor, context: Context, reduction: Literal["sum", "none"]) -> Tensor:
        if int(targets.max()) >= len(self.weight):
            raise RequestError(f"targets: this model has {len(self.weight)} labels and predicts no tokens")
        return super().nll(hidden, targets, context, reduction)

    def flops(self, keys: float) -> float:
        return super().flops(keys) + (0.0 if self.dense is None else 2.0 * self.dense.weight.numel())

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if name == "bias":
            parameter.zero_()
        else:
            super().init_parameter(name, parameter, generator)
