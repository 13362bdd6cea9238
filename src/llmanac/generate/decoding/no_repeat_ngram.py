"""N-gram blocking: no n tokens in a row occur twice.

    v is ruled out  iff  x_{t-n+2..t} v occurs in x_{1..t}           x: prompt and generated tokens

Where it would rule out every token, the text goes on unblocked. Logits (B, V) in and out, with `-inf` for what was
ruled out.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from llmanac.core.ranges import COUNT, within
from llmanac.generate.decoding import Array, DecodingSpec, LogitsProcessor, Sequences

CARD = {
    "title": "N-gram blocking",
    "paper": "https://arxiv.org/abs/1705.04304",
    "reference": "transformers NoRepeatNGramLogitsProcessor",
}


@dataclass(frozen=True, kw_only=True)
class Spec(DecodingSpec):
    """`n`: tokens of an n-gram, at least 1."""

    reads_text: ClassVar[bool] = True
    n: int = 3

    ranges = within(COUNT, "n")

    def build(self, **dims: Any) -> LogitsProcessor:
        n = self.n

        def block(logits: Array, sequences: Sequences = ()) -> Array:
            out = logits.copy()
            for row, sequence in zip(out, sequences, strict=False):
                again = sorted(followers([*sequence.prompt_ids, *sequence.ids], n))
                if again:
                    was = row[again]
                    row[again] = -np.inf
                    if not (row > -np.inf).any():
                        row[again] = was
            return out

        return block


def followers(tokens: list[int], n: int) -> set[int]:
    """What followed the last n - 1 tokens before."""
    if len(tokens) < n - 1:
        return set()
    last = tokens[len(tokens) - n + 1 :]
    return {tokens[i + n - 1] for i in range(len(tokens) - n + 1) if tokens[i : i + n - 1] == last}
