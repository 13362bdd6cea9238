"""Decoding from a part of the vocabulary: whatever is not allowed gets no probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmanac.generate.decoding import DecodingSpec, LogitsProcessor


@dataclass(frozen=True, kw_only=True)
class Allowed(DecodingSpec):
    """Only these token ids may be generated; the rest of the logits become -inf."""

    ids: tuple[int, ...]

    def build(self, **dims: Any) -> LogitsProcessor:
        index = torch.tensor(self.ids)

        def keep(logits: Tensor) -> Tensor:
            at = index.to(logits.device)
            return torch.full_like(logits, -torch.inf).index_copy(-1, at, logits.index_select(-1, at))

        return keep
