"""Presence and frequency penalties: a constant, and an amount for each occurrence, taken off generated tokens' logits.

    z'_v = z_v - presence [c_v > 0] - frequency c_v         c_v: how often v was generated; the prompt does not count

Negative values favour repetition. The definition is that of OpenAI's API. Logits (B, V) in and out.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from llmanac.core.ranges import Range, within
from llmanac.generate.decoding import Array, DecodingSpec, LogitsProcessor, Sequences

CARD = {
    "title": "Presence and frequency penalties",
    "paper": "https://platform.openai.com/docs/guides/text-generation",
    "reference": "the formula in numpy",
    "aliases": {"presence-penalty": {"presence": 0.5}, "frequency-penalty": {"frequency": 0.5}},
    "test": "tests/references/test_decoding_methods.py::test_count_penalties_equal_the_formula",
}


@dataclass(frozen=True, kw_only=True)
class Spec(DecodingSpec):
    """`presence` and `frequency`, each between -2 and 2."""

    reads_text: ClassVar[bool] = True
    presence: float = 0.0
    frequency: float = 0.0

    ranges = within(Range(-2, 2), "presence frequency")

    def build(self, **dims: Any) -> LogitsProcessor:
        presence, frequency = self.presence, self.frequency

        def subtract(logits: Array, sequences: Sequences = ()) -> Array:
            out = logits.copy()
            for row, sequence in zip(out, sequences, strict=False):
                counts = Counter(sequence.ids)
                if counts:
                    amounts = [presence + frequency * count for count in counts.values()]
                    row[list(counts)] -= np.array(amounts, row.dtype)
            return out

        return subtract
