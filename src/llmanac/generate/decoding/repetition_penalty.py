"""Repetition penalty: the logits of tokens that the text has already are divided by a factor.

    z'_v = z_v / r  if z_v > 0,  z_v r  if z_v < 0        for every v of the prompt or of what was generated

With r > 1 both lower the token. The penalty does not depend on how often the token occurred; it may also suppress words
that must be repeated (names, numbers). Logits (B, V) in and out.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from llmanac.core.ranges import POSITIVE, within
from llmanac.generate.decoding import Array, DecodingSpec, LogitsProcessor, Sequences

CARD = {
    "title": "Repetition penalty",
    "paper": "https://arxiv.org/abs/1909.05858",
    "reference": "transformers RepetitionPenaltyLogitsProcessor",
}


@dataclass(frozen=True, kw_only=True)
class Spec(DecodingSpec):
    """`penalty`: r, above 0; 1 changes nothing."""

    reads_text: ClassVar[bool] = True
    penalty: float = 1.2

    ranges = within(POSITIVE, "penalty")

    def build(self, **dims: Any) -> LogitsProcessor:
        penalty = self.penalty

        def divide(logits: Array, sequences: Sequences = ()) -> Array:
            out = logits.copy()
            for row, sequence in zip(out, sequences, strict=False):
                seen = list({*sequence.prompt_ids, *sequence.ids})
                values = row[seen]
                row[seen] = np.where(values > 0, values / penalty, values * penalty)
            return out

        return divide
