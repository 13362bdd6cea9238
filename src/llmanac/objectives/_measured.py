"""What an objective reads to train, what it is measured on, and its metrics: all that a comparison needs of it.

    source(text)            rows to train on, as a resumable stream
    held_out(text, ...)     what `evaluate` reads, made once from held-out documents
    evaluate(model, ...)    each metric's values by item (`metrics/_items.py`)

The defaults are packed rows of tokens and the objective's own loss. `OfText` is the measure of every next-token loss.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from llmanac.core.errors import DataError
from llmanac.core.types import evaluating
from llmanac.data.pack import PADDING, PackedRow, PackedStream
from llmanac.data.tokens import TokenDataset
from llmanac.generate.runner import device_of
from llmanac.generate.windows import Piece, batches, encode, window_of, windows
from llmanac.metrics import ItemSums, Metric

LOSS = Metric("loss", "nat", "lower", "loss per unit, held out")
BITS_PER_BYTE = Metric("bits_per_byte", "bit/B", "lower", "bits per byte, held out")
COUPLED = 32  # rows of an item where a row's loss depends on the others


class TextSource(Protocol):
    """What is there once a recipe's text was prepared: its tokenizer, and the training text as tokens."""

    @property
    def tokenizer(self) -> Any: ...
    @property
    def dataset(self) -> TokenDataset: ...


class MeasuredObjective:
    """Base of all objectives in what they read and measure.

    Attributes:
        metrics: what `evaluate` measures; a comparison's verdict is on the first.
    """

    metrics: tuple[Metric, ...] = (LOSS,)

    def source(self, text: TextSource, *, length: int, rows: int, seed: int) -> Any:
        """Rows to train on, `rows` a step, of `length` targets each."""
        return PackedStream(text.dataset, length=length, rows=rows, seed=seed)

    def held_out(self, text: TextSource, documents: Sequence[str], *, length: int) -> Any:
        """What `evaluate` reads: here a packed row for every `length` tokens of a held-out document."""
        rows = []
        for document in documents:
            ids = encode(text.tokenizer, document)
            rows += [_row(ids[at : at + length + 1], length + 1) for at in range(0, len(ids) - 1, length)]
        return rows

    def evaluate(self: Any, model: Any, rows: Any) -> dict[str, ItemSums]:
        """Each metric's values by item: the loss, and what `loss` counts besides it. An item is a row of `rows`.

        An objective whose rows depend on each other (`couples_batch`) is measured on batches, which are the items.
        """
        size = COUPLED if self.couples_batch else 1
        names = [metric.name for metric in self.metrics]
        sums: dict[str, list[float]] = {name: [] for name in names}
        units: list[float] = []
        device = device_of(model)
        with evaluating(model), torch.no_grad():
            for at in range(0, len(rows), size):
                loss, count, more = self.loss(model, self.collate(rows[at : at + size]).to(device))
                found = {**more, LOSS.name: loss}
                units.append(float(count))
                for name in names:
                    sums[name].append(float(found[name]))
        return {name: ItemSums(values, units) for name, values in sums.items()}


@dataclass(frozen=True)
class HeldOutWindows:
    """Held-out documents in windows.

    Attributes:
        pieces: (inputs, targets) of a window; owners: the number of its document.
        sizes: UTF-8 bytes of each document.
        window: places of the longest window.
    """

    pieces: list[Piece]
    owners: list[int]
    sizes: list[int]
    window: int


class OfText(MeasuredObjective):
    """Bits per byte of held-out documents, an item each: nats of every token / (ln 2 * bytes)."""

    metrics: tuple[Metric, ...] = (BITS_PER_BYTE,)

    def held_out(self, text: TextSource, documents: Sequence[str], *, length: int) -> Any:
        """Windows of `length` places, each half of which was seen by the one before.

        Raises:
            DataError: no text, or a tokenizer without a token to start a document with.
        """
        pieces: list[Piece] = []
        owners: list[int] = []
        for owner, document in enumerate(documents):
            own = list(windows(encode(text.tokenizer, document), length, max(1, length // 2)))
            pieces += own
            owners += [owner] * len(own)
        sizes = [len(document.encode("utf-8")) for document in documents]
        if not sum(sizes):
            raise DataError("bits per byte: the texts are empty")
        return HeldOutWindows(pieces, owners, sizes, length)

    def evaluate(self, model: Any, rows: Any) -> dict[str, ItemSums]:
        """Raises RequestError for windows that the model cannot read."""
        window_of(model, rows.window)
        nats = [0.0] * len(rows.sizes)
        with evaluating(model), torch.no_grad():
            for chosen, batch in batches(model, rows.pieces):
                found = model.nll(batch, "none").double().sum(1).tolist()
                for piece, value in zip(chosen, found, strict=True):
                    nats[rows.owners[piece]] += value
        return {BITS_PER_BYTE.name: ItemSums([value / math.log(2) for value in nats], rows.sizes)}


def _row(ids: np.ndarray, places: int) -> PackedRow:
    """A packed row of one document, padded to `places`."""
    left = places - len(ids)
    segments = np.concatenate([np.zeros(len(ids), np.int32), np.full(left, PADDING, np.int32)])
    positions = np.concatenate([np.arange(len(ids), dtype=np.int32), np.zeros(left, np.int32)])
    return PackedRow(
        np.concatenate([ids, np.zeros(left, np.int64)]), segments, positions, segments >= 0 if left else None
    )
