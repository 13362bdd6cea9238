"""The types shared by models, objectives, decoding and evaluation. See docs/architecture.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

IGNORE = -100  # a target that carries no loss; the value that every peer uses

MaskKind = Literal["causal", "prefix", "bidirectional"]
Want = Literal["all", "last", "hidden"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a model reads.

    Attributes:
        ids: (B, T) token ids.
        targets: (B, T) the token to predict at each position, `IGNORE` where there is none.
        positions: (B, T) position of each token in its own document; `None` counts from the state's length.
        segments: (B, T) which document of a packed row a token belongs to; attention never crosses segments.
        lengths: (B,) how many tokens of each row are real; `None` means all of them (padding is on the right).
        mask: what a token may attend to: the past, the row, or the prefix and then the past.
        prefix: (B,) prefix length of each row, for `mask="prefix"`.
    """

    ids: Tensor
    targets: Tensor | None = None
    positions: Tensor | None = None
    segments: Tensor | None = None
    lengths: Tensor | None = None
    mask: MaskKind = "causal"
    prefix: Tensor | None = None

    @classmethod
    def padded(
        cls, rows: Sequence[Any], targets: Sequence[Any] | None = None, *, device: torch.device | str | None = None
    ) -> Batch:
        """Rows of token ids (lists or arrays of any lengths), padded on the right with 0; their targets with `IGNORE`.

        `lengths` is set only where they differ.
        """
        lengths = torch.tensor([len(row) for row in rows])
        shape = (len(rows), int(lengths.max()))

        def filled(values: Sequence[Any], padding: int) -> Tensor:
            out = np.full(shape, padding, np.int64)
            for line, row in zip(out, values, strict=True):
                line[: len(row)] = row
            return torch.from_numpy(out)

        batch = cls(
            ids=filled(rows, 0),
            targets=None if targets is None else filled(targets, IGNORE),
            lengths=None if int(lengths.min()) == shape[1] else lengths,
        )
        return batch if device is None else batch.to(torch.device(device))

    def to(self, device: torch.device) -> Batch:
        """The same batch with every tensor on `device`."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    @property
    def last(self) -> Tensor:
        """(B,) where the last real token of each row is."""
        if self.lengths is None:
            return torch.full((len(self.ids),), self.ids.shape[1] - 1, device=self.ids.device)
        return (self.lengths - 1).clamp(min=0)

    @property
    def units(self) -> int:
        """How many targets carry loss."""
        if self.targets is None:
            return 0
        return int((self.targets != IGNORE).sum())


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a model returns: `logits` (B, T, V) or (B, 1, V), or only `hidden` (B, T, D), depending on `want`."""

    logits: Tensor | None = None
    hidden: Tensor | None = None


class State(Protocol):
    """What decoding remembers, one row a sequence.

    Attributes:
        lengths: (B,) tokens seen by each row.
    """

    lengths: Tensor

    @property
    def nbytes(self) -> int: ...
    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more tokens a row, so that appending does not reallocate."""

    def select(self, rows: Tensor) -> State:
        """A state of the given rows (repeats allowed: this is how beams and samples fork)."""

    def join(self, other: State) -> State:
        """The rows of both states in one."""

    def rewind(self, lengths: Tensor) -> None:
        """Forget every row's tokens past its new length (B,)."""


@runtime_checkable
class LanguageModel(Protocol):
    """All that decoding, evaluation and serving use; an n-gram model is one too."""

    vocab_size: int
    max_length: int | None  # the context it was built for; None where there is no limit

    def start(self, batch: int) -> State:
        """An empty state for `batch` rows."""

    def forward(self, batch: Batch | Tensor, state: State | None = None, want: Want = "all") -> Output:
        """Logits (or hidden states) for a batch; with a state, for the tokens that follow what the state holds."""

    def nll(self, batch: Batch, reduction: Literal["sum", "none"] = "sum") -> Tensor:
        """Negative log-likelihood in nats of `batch.targets`: the sum, or (B, T) with 0 where there is no target."""


@runtime_checkable
class Objective(Protocol):
    """A loss. Only the trainer divides by `units`, over micro-batches and ranks."""

    def collate(self, rows: Sequence[Any]) -> Batch: ...
    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, int, dict[str, float]]:
        """`(sum of losses, how many units it sums over, metrics)`."""


@runtime_checkable
class Source(Protocol):
    """A resumable stream: iterate it, ask for its `cursor` at any time, `seek` to one to go on from there."""

    def __next__(self) -> Any: ...
    def cursor(self) -> dict[str, Any]: ...
    def seek(self, cursor: dict[str, Any]) -> None: ...
