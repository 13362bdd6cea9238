"""Decoding from a part of the vocabulary: whatever is not allowed gets no probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.generate._logits import Array, nothing
from llmanac.generate.decoding import DecodingSpec, LogitsProcessor, Sequences


@dataclass(frozen=True, kw_only=True)
class Allowed(DecodingSpec):
    """Only these token ids may be generated; the rest of the logits become -inf."""

    ids: tuple[int, ...]

    def build(self, **dims: Any) -> LogitsProcessor:
        index = np.array(self.ids, np.int64)

        def keep(logits: Array, sequences: Sequences = ()) -> Array:
            kept = nothing(logits)
            kept[:, index] = logits[:, index]
            return kept

        return keep
