"""Prompt tuning: trained vectors that come before the embeddings of the text.

    x = [P; E[ids]]        P (n, D)

All else is frozen: n D numbers are trained, the fewest of the adapters here. The vectors are read like tokens, by every
layer and any kind of layer, so recurrent and state-space models can be tuned too. Nothing is predicted at their places.
Lester et al. 2021; its best start, the embeddings of tokens, is the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from llmanac.adapters._soft_prompt import SoftPromptEncoder, SoftPromptSpec, SoftPromptTransform
from llmanac.models.lm.transformer import Transformer

CARD = {
    "title": "Prompt tuning",
    "paper": "Lester et al. 2021, arXiv:2104.08691",
    "reference": "PEFT's PROMPT_TUNING on models of transformers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(SoftPromptSpec):
    """See the base class."""

    def build(self, *, seed: int = 0, **dims: Any) -> PromptTuning:
        return PromptTuning(self, seed)


class PromptTuning(SoftPromptTransform):
    """See the module."""

    spec: Spec

    def make(self, model: Transformer, **options: Any) -> nn.Module:
        return SoftPromptEncoder(self, self.tokens, model.spec.dim, **options)

    def of_text(self, model: Transformer, ids: Tensor) -> Tensor:
        return model.embed(ids)[0]
