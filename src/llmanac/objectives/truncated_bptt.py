"""Truncated backpropagation through time: the state runs on through a document, gradients go back a few steps.

A row is read in chunks of k tokens. Each chunk starts from the state that the one before it left, as a constant:

    loss = - sum_t log p(x_t | x_1 ... x_{t-1}),     d loss / d (state at a chunk's start) = 0

The model conditions on everything, learns from dependencies of at most k tokens, and one chunk's activations are in
memory at a time: long rows cost time but no memory. For a recurrent model this is the usual way to train; a model with
attention sees the keys and values of earlier chunks as constants (Transformer-XL's segment recurrence).

A loss that layers have of their own (the balance of experts) is that of each chunk, weighted by its tokens.

Shapes: packed rows of n tokens -> a row for each document, ids (B, longest - 1), targets the same.

Paper: Williams and Peng 1990, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
Trajectories", with k1 = k2; Mikolov 2012 for language models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.core.ranges import COUNT, within
from llmanac.core.types import Batch, LossSum
from llmanac.data.pack import PADDING, PackedRow
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives._base import NextToken, collate_ragged

CARD = {
    "use": "-s objective=truncated-bptt -s objective.steps=64",
    "title": "Truncated backpropagation through time",
    "paper": "https://doi.org/10.1162/neco.1990.2.4.490",
    "reference": "torch.nn.RNN in a loop that detaches its state: gradients",
    "test": "tests/references/test_truncated_bptt.py::test_gradients_equal_a_loop_that_detaches",
}


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    """Attributes: steps: the longest distance, in tokens, that a gradient goes back."""

    steps: int = 64

    ranges = within(COUNT, "steps")

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> TruncatedBPTT:
        """The objective; it needs no tokenizer."""
        return TruncatedBPTT(self.steps)


class TruncatedBPTT(NextToken):
    """The objective; see the module's formula."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def collate(self, rows: Sequence[Any]) -> Batch:
        """A row for each document of at least two tokens: a state belongs to one document."""
        found = [
            piece
            for row in rows
            for piece in (documents(row) if isinstance(row, PackedRow) else self.encode_all([row]))
        ]
        return collate_ragged(found or [(np.zeros(2, np.int64), np.zeros(2, np.bool_))])

    def losses(self, model: Any, batch: Batch) -> Iterator[LossSum]:
        """The loss of each chunk. The trainer computes its gradients before it asks for the next."""
        assert batch.ids is not None and batch.targets is not None
        count, length = batch.shape
        state = model.start(count)
        if state.by_length:  # positions that depend on a row's length see all of it
            state.plan([length] * count if batch.lengths is None else batch.lengths.tolist())
        for at in range(0, length, self.steps):
            if at:  # an independent state without history
                with torch.no_grad():
                    state = state.select(torch.arange(count, device=batch.device))
            ids, targets = (t[:, at : at + self.steps] for t in (batch.ids, batch.targets))
            lengths = None if batch.lengths is None else (batch.lengths - at).clamp(0, ids.shape[1])
            yield self.sums(model, Batch(ids=ids, targets=targets, lengths=lengths), state)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """The sum of all chunks, in one graph."""
        total: Tensor | float = 0.0
        units: Tensor | int = 0
        metrics: dict[str, Any] = {}
        for loss, count, more in self.losses(model, batch):
            total, units = total + loss, units + count
            metrics = {name: metrics.get(name, 0.0) + value for name, value in more.items()}
        assert isinstance(total, Tensor)
        return total, units, metrics


def documents(row: PackedRow) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """`(ids, loss mask)` of each document of a packed row."""
    edges = np.flatnonzero(np.diff(row.segments)) + 1
    for part in np.split(np.arange(len(row.ids)), edges):
        if len(part) > 1 and row.segments[part[0]] != PADDING:
            yield row.ids[part].astype(np.int64), None if row.loss is None else row.loss[part]
