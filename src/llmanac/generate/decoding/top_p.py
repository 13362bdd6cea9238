"""Top-p (nucleus) sampling: the smallest set of most probable tokens whose mass reaches p.

    sort p descending;  token i stays  iff  sum_{j < i} p_j < p  (so the first always stays)

The set adapts: one token where the model is sure, thousands where it is not. Only the most probable tokens are sorted
where they already hold the mass (nearly always: a sort of the full vocabulary costs ten times as much); the other rows
are sorted in full and summed from the small end, which loses no accuracy to a sum that is nearly one. Logits (B, V) in,
logits (B, V) out, with `-inf` for what was dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.generate.decoding import DecodingSpec, LogitsProcessor, Sequences

CARD = {
    "title": "Top-p (nucleus) sampling",
    "paper": "Holtzman et al. 2020, The Curious Case of Neural Text Degeneration, section 3.1",
    "reference": "transformers TopPLogitsWarper",
}


HEAD = 512  # tokens that are looked at first


@dataclass(frozen=True, kw_only=True)
class Spec(DecodingSpec):
    """`p` in [0, 1]: 0 keeps one token, 1 keeps all."""

    p: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise SpecError(f"p: {self.p} is not between 0 and 1")

    def build(self, **dims: Any) -> LogitsProcessor:
        p = self.p

        def cut(logits: Tensor, sequences: Sequences = ()) -> Tensor:
            if p == 1:
                return logits
            if logits.shape[-1] <= 2 * HEAD:
                return _sorted_whole(logits, p)
            best, order = logits.topk(HEAD, dim=-1)
            before = (best - logits.logsumexp(dim=-1, keepdim=True)).exp().cumsum(dim=-1).roll(1, dims=-1)
            reached = before[..., 0] >= p  # rolled: the first place holds the mass of all of them
            before[..., 0] = -1  # the first token always stays
            out = torch.full_like(logits, -torch.inf)
            out.scatter_(-1, order, best.masked_fill(before >= p, -torch.inf))
            rest = (~reached).nonzero()[..., 0]  # a row's own affair: its batch does not decide how it is cut
            if len(rest):
                out[rest] = _sorted_whole(logits[rest], p)
            return out

        return cut


def _sorted_whole(logits: Tensor, p: float) -> Tensor:
    ascending, order = logits.sort(dim=-1)
    drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    drop[..., -1] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)
