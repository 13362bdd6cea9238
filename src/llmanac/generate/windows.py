"""Texts longer than a model's window, scored in overlapping windows.

Every token of a document is a target once, the first included (it follows the start token). A window scores only its
last `stride` tokens, so every token but those of the first window sees at least `window - stride` tokens before it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from llmanac.core.errors import DataError, RequestError
from llmanac.core.types import IGNORE, Batch
from llmanac.models.pairs import start_token

WINDOW = 1024  # for a model without a limit
BATCH_TOKENS = 8192  # that go through the model at once

Piece = tuple[np.ndarray, np.ndarray]


def windows(ids: np.ndarray, window: int, stride: int) -> Iterator[Piece]:
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


def window_of(model: Any, window: int | None) -> int:
    """The window that was asked for, or the model's limit. Raises RequestError for one beyond the limit."""
    limit = model.max_length
    window = window or limit or WINDOW
    if limit is not None and window > limit:
        raise RequestError(f"window: {window} places, but the model reads at most {limit}")
    return window


def encode(tokenizer: Any, text: str, start: int | None = None) -> np.ndarray:
    """The ids of a document after its start token. Raises DataError where there is none."""
    first = start_token(tokenizer) if start is None else start
    if first is None:
        raise DataError("bits per byte: this tokenizer has no bos or eos token to start a document with; give start=")
    return np.concatenate([[first], np.asarray(tokenizer.encode_array(text), np.int64)])


def batches(model: Any, pieces: Sequence[Piece], batch_tokens: int = BATCH_TOKENS) -> Iterator[tuple[list[int], Batch]]:
    """`(which pieces, batch)` on the model's device: pieces (inputs, targets) of similar length share a padded batch.

    Every piece comes once; a batch has about `batch_tokens` positions, and at least one piece.
    """
    from llmanac.generate.runner import device_of

    device = device_of(model)
    order, at = sorted(range(len(pieces)), key=lambda i: -len(pieces[i][0])), 0
    while at < len(order):
        longest = len(pieces[order[at]][0])
        chosen = order[at : at + max(1, batch_tokens // longest)]
        at += len(chosen)
        yield chosen, Batch.padded([pieces[i][0] for i in chosen], [pieces[i][1] for i in chosen], device=device)
