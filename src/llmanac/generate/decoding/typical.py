"""Locally typical sampling: tokens whose surprise is nearest to the expected surprise, until their mass reaches p.

    H = -sum_v p(v) log p(v);  sort by |-log p(v) - H| ascending;  token i stays  iff  sum_{j < i} p_j < p,
    and so does every token as near to H as the last of these

Very probable tokens may be dropped where the distribution is flat: text then carries about as much information a token
as the model expects. Logits (B, V) in, logits (B, V) out, with `-inf` for what was dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.generate.decoding import DecodingSpec, LogitsProcessor, Sequences

CARD = {
    "title": "Locally typical sampling",
    "paper": "https://arxiv.org/abs/2202.00666",
    "reference": "transformers TypicalLogitsWarper",
    "test": "tests/references/test_decoding_methods.py::test_typical_equals_transformers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(DecodingSpec):
    """`p` in (0, 1]: 1 keeps all."""

    p: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise SpecError(f"p: {self.p} is not above 0 and at most 1")

    def build(self, **dims: Any) -> LogitsProcessor:
        p = self.p

        def cut(logits: Tensor, sequences: Sequences = ()) -> Tensor:
            if p == 1:
                return logits
            logs = logits.log_softmax(-1)
            mass = logs.exp()
            entropy = -torch.where(mass > 0, mass * logs, 0.0).sum(-1, keepdim=True)
            distance = (-logs - entropy).abs()
            nearest, order = distance.sort(dim=-1, stable=True)
            last = (mass.gather(-1, order).cumsum(-1) < p).sum(-1, keepdim=True)
            furthest = nearest.gather(-1, last.clamp(max=nearest.shape[-1] - 1))
            return logits.masked_fill(distance > furthest, -torch.inf)

        return cut
