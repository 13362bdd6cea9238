"""What a layer may know of the tokens it is given, besides their hidden states."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from llmanac.models._masks import AttentionMask
    from llmanac.models.positions import Position
    from llmanac.models.state import SlotMapping

AttentionForm = Literal["sdpa", "plain", "blocks", "flash"]
ATTENTION_FORMS: tuple[AttentionForm, ...] = ("sdpa", "plain", "blocks", "flash")


@dataclass(frozen=True)
class Memory:
    """A source sequence as an encoder left it: `hidden` (B, S, D), and which of its places are `real` (B, S)."""

    hidden: Tensor
    real: Tensor


@dataclass(frozen=True, kw_only=True)
class Context:
    """Built once a forward pass and given to every layer.

    Attributes:
        ids: (B, T) the token ids; None where the model was given embeddings.
        positions: (B or 1, T) position of each token in its document.
        segments: (B, T) which document of a packed row a token belongs to, or None.
        mask: which keys each query sees.
        position: the position module of the model, or of the block that the context is given to.
        prepared: what the position module computed once for these tokens (RoPE: cosines and sines).
        bias: (B or 1, H, T, S) added to attention scores, or None.
        form: how attention is computed; all forms give the same values.
        slots: where these tokens go in the state; None without one.
        lengths: (B,) how many of the T tokens are real, or None for all.
        memory: the source sequence, where one was read with these tokens.
        losses: losses that layers add, by name.
    """

    ids: Tensor | None
    positions: Tensor
    mask: AttentionMask
    position: Position
    segments: Tensor | None = None
    prepared: Any = None
    bias: Tensor | None = None
    form: AttentionForm = "sdpa"
    slots: SlotMapping | None = None
    lengths: Tensor | None = None
    memory: Memory | None = None
    losses: dict[str, list[Tensor]] = field(default_factory=dict)

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate queries or keys (B, T, H, d) by their positions; the identity for positions that do not rotate."""
        return self.position.rotate(x, self.prepared)

    def at(self, position: Position, dtype: torch.dtype) -> Context:
        """The same for a block that has a position method of its own."""
        prepared = position.prepare(self.positions, dtype)
        return replace(self, position=position, prepared=prepared, bias=position.bias(self.positions, self.keys()))

    def keys(self) -> Tensor:
        """(B or 1, S): positions of the keys of a cache that holds a row's tokens in order."""
        return self.positions if self.slots is None else self.slots.key_positions

    def document_starts(self) -> Tensor | None:
        """(B, T) bool: tokens that begin a further document of a packed row; None where there are none."""
        if self.segments is None:
            return None
        before = torch.cat([self.segments[:, :1], self.segments[:, :-1]], dim=1)
        return self.segments != before

    def real(self) -> Tensor | None:
        """(B, T) bool: which tokens are not padding; None where none is."""
        if self.lengths is None:
            return None
        steps = torch.arange(self.positions.shape[1], device=self.positions.device)
        return steps < self.lengths[:, None]

    def add_loss(self, name: str, value: Tensor) -> None:
        """Add a loss () to those of the forward pass; values of one name are summed."""
        self.losses.setdefault(name, []).append(value)

    def aux(self) -> dict[str, Tensor]:
        """The sum of the losses of each name."""
        return {name: torch.stack(values).sum() for name, values in self.losses.items()}
