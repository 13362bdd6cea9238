"""A tokenizer that cuts a text anew each time: what a model reads that is to be robust to segmentations."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers._base import Special, Tokenizer


class Sampled:
    """Another tokenizer whose `encode` draws one of the segmentations; everything else is the other's own.

    `TokenDataset.write` takes it like any tokenizer. The n-th text of a stream is drawn with the seed `seed + n`, so
    two passes over the same texts are cut differently, and a stream begun anew is the same again.

    Args:
        choices: how segmentations are drawn, as the tokenizer's `sample` takes them (`dropout=0.1`).

    Raises:
        TokenizerError: a tokenizer with one segmentation, or a choice that it does not have.
    """

    def __init__(self, tokenizer: Tokenizer, *, seed: int, **choices: Any) -> None:
        tokenizer.sample("a b", seed=seed, **choices)  # says now what would be wrong later
        self._tokenizer, self._choices, self._next = tokenizer, choices, seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, *, special: Special = "never") -> list[int]:
        """Ids of one segmentation of a text. Raises TokenizerError where special tokens are asked for."""
        if special != "never" and special:
            raise TokenizerError("special: a sampled segmentation takes special tokens for plain text; leave it out")
        self._next += 1
        return self._tokenizer.sample(text, seed=self._next - 1, **self._choices)

    def encode_array(self, text: str) -> np.ndarray:
        """(tokens,) int32 ids of one segmentation."""
        return np.array(self.encode(text), np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """(tokens,) int32 ids of one segmentation of each text."""
        return [self.encode_array(text) for text in texts]

    def fingerprint(self) -> str:
        """The tokenizer's own and how it is sampled."""
        return f"{self._tokenizer.fingerprint()} sampled {sorted(self._choices.items())}"
