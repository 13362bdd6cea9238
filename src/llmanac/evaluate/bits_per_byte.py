"""Bits per byte: how many bits a language model needs for each byte of text, whatever its tokenizer.

    bits per byte = (sum over tokens of -ln p(token | tokens before it)) / (ln 2 * bytes of the text)

Every token of a document is scored once, the first included (it follows the start token). A document longer than the
model's window is read in overlapping windows: each window scores only its last `stride` tokens, so every token but
those of the first window sees at least `window - stride` tokens before it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmanac.core.errors import DataError
from llmanac.core.types import evaluating
from llmanac.generate.windows import BATCH_TOKENS, batches, encode, window_of
from llmanac.generate.windows import windows as windows


@dataclass(frozen=True)
class TextScore:
    """Sums over the scored texts."""

    nats: float
    tokens: int
    bytes: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / (math.log(2) * self.bytes)

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(1, self.tokens)

    @property
    def loss(self) -> float:
        """Mean nats a token."""
        return self.nats / max(1, self.tokens)


@torch.no_grad()
def score_texts(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    start: int | None = None,
) -> TextScore:
    """Score texts with any `LanguageModel`.

    Args:
        window: positions of a window; the model's limit by default.
        stride: new tokens a window scores; half the window by default.
        batch_tokens: about how many tokens go through the model at once.
        start: the token before each document, see `start_token`.

    Raises:
        DataError: no text, or a tokenizer without a start token when none is given.
        RequestError: a window longer than the model's limit.
    """
    window = window_of(model, window)
    stride = max(1, min(stride or window // 2, window))
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    size = tokens = 0
    for text in texts:
        ids = encode(tokenizer, text, start)
        size += len(text.encode("utf-8"))
        tokens += len(ids) - 1
        pieces += windows(ids, window, stride)
    if not size:
        raise DataError("bits per byte: the texts are empty")
    with evaluating(model):
        nats = sum(float(model.nll(batch, "sum")) for _, batch in batches(model, pieces, batch_tokens))
    return TextScore(nats, tokens, size)


def bits_per_byte(model: Any, tokenizer: Any, texts: Iterable[str], **how: Any) -> float:
    """Bits per byte of the texts; see `score_texts` for the choices and errors."""
    return score_texts(model, tokenizer, texts, **how).bits_per_byte
