"""Logit bias: constants added to the logits of chosen tokens.

    z'_v = z_v + b_v

100 in effect forces a token, -100 forbids it. Logits (B, V) in and out.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.errors import SpecError
from llmanac.generate.decoding import Array, DecodingSpec, LogitsProcessor, Sequences

CARD = {
    "title": "Logit bias",
    "paper": "https://platform.openai.com/docs/api-reference",
    "reference": "transformers SequenceBiasLogitsProcessor",
    "test": "tests/references/test_decoding_methods.py::test_logit_bias_equals_transformers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(DecodingSpec):
    """`ids` and `biases`: tokens and what is added to each."""

    ids: tuple[int, ...] = (0,)
    biases: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.biases) or len(set(self.ids)) != len(self.ids):
            raise SpecError(
                f"ids, biases: {len(self.ids)} ids and {len(self.biases)} biases; give each id once, with one"
            )
        if any(i < 0 for i in self.ids):
            raise SpecError("ids: a token id is not negative")

    def build(self, **dims: Any) -> LogitsProcessor:
        ids, biases = np.array(self.ids, np.int64), np.array(self.biases, np.float64)

        def add(logits: Array, sequences: Sequences = ()) -> Array:
            if int(ids.max()) >= logits.shape[-1]:
                raise SpecError(f"ids: {int(ids.max())} is not in the vocabulary of {logits.shape[-1]} tokens")
            out = logits.copy()
            out[:, ids] += biases.astype(logits.dtype)
            return out

        return add
