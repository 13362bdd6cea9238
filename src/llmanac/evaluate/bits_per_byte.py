"""Bits per byte: how many bits a language model needs for each byte of text, whatever its tokenizer.

    bits per byte = (sum over tokens of -ln p(token | tokens before it)) / (ln 2 * bytes of the text)

Every token of a document is scored once, the first included (it follows the start token). A document longer than the
model's window is read in overlapping windows: each window scores only its last `stride` tokens, so every token but
those of the first window sees at least `window - stride` tokens before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmanac.core.errors import DataError, RequestError
from llmanac.core.types import IGNORE, Batch
from llmanac.generate.engine import evaluating
from llmanac.generate.scheduler import device_of
from llmanac.models._pairs import start_token

WINDOW = 1024  # for a model without a limit


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


def windows(ids: np.ndarray, window: int, stride: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(inputs, targets) for ids (T,), each of at most `window` positions; targets not scored here are `IGNORE`.

    Over all windows, each of `ids[1:]` is a target exactly once.
    """
    done = 1
    while done < len(ids):
        stop = min(len(ids), window + 1 if done == 1 else done + stride)
        start = max(0, stop - 1 - window)
        targets = ids[start + 1 : stop].astype(np.int64)
        targets[: done - start - 1] = IGNORE
        yield ids[start : stop - 1], targets
        done = stop


@torch.no_grad()
def score_texts(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_tokens: int = 8192,
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
    limit = getattr(model, "max_length", None)
    window = window or limit or WINDOW
    if limit is not None and window > limit:
        raise RequestError(f"window: {window} places, but the model reads at most {limit}")
    stride = max(1, min(stride or window // 2, window))
    first = start_token(tokenizer) if start is None else start
    if first is None:
        raise DataError("bits per byte: this tokenizer has no bos or eos token to start a document with; give start=")
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    size = tokens = 0
    for text in texts:
        ids = np.concatenate([[first], np.asarray(tokenizer.encode_array(text), np.int64)])
        size += len(text.encode("utf-8"))
        tokens += len(ids) - 1
        pieces += windows(ids, window, stride)
    if not size:
        raise DataError("bits per byte: the texts are empty")
    with evaluating(model):
        nats = sum(float(model.nll(batch, "sum")) for _, batch in batches(model, pieces, batch_tokens))
    return TextScore(nats, tokens, size)


def batches(
    model: Any, pieces: Sequence[tuple[np.ndarray, np.ndarray]], batch_tokens: int
) -> Iterator[tuple[list[int], Batch]]:
    """`(which pieces, batch)` on the model's device: pieces (inputs, targets) of similar length share a padded batch.

    Every piece comes once; a batch has about `batch_tokens` positions, and at least one piece.
    """
    device = device_of(model)
    order, at = sorted(range(len(pieces)), key=lambda i: -len(pieces[i][0])), 0
    while at < len(order):
        longest = len(pieces[order[at]][0])
        chosen = order[at : at + max(1, batch_tokens // longest)]
        at += len(chosen)
        yield chosen, Batch.padded([pieces[i][0] for i in chosen], [pieces[i][1] for i in chosen], device=device)


def bits_per_byte(model: Any, tokenizer: Any, texts: Iterable[str], **how: Any) -> float:
    """Bits per byte of the texts; see `score_texts` for the choices and errors."""
    return score_texts(model, tokenizer, texts, **how).bits_per_byte
