"""What a layer may know of the tokens it is given, besides their hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

if TYPE_CHECKING:
    from llmanac.models._masks import AttentionMask
    from llmanac.models._state import SlotMapping
    from llmanac.models.positions import Position

AttentionForm = Literal["sdpa", "plain", "blocks"]
ATTENTION_FORMS: tuple[AttentionForm, ...] = ("sdpa", "plain", "blocks")


@dataclass(frozen=True, kw_only=True)
class Context:
    """Built once a forward pass and handed to every layer.

    Attributes:
        ids: (B, T) the token ids.
        mask: which keys each query sees.
        position: the model's one position module.
        prepared: what the position module worked out once for these tokens (RoPE: cosines and sines).
        bias: (B or 1, H, T, S) added to attention scores, or None.
        form: how attention is computed; all forms give the same values.
        slot_mapping: where these tokens go in the state; None without one.
        lengths: (B,) how many of the T tokens are real, or None for all.
    """

    ids: Tensor
    mask: AttentionMask
    position: Position
    prepared: Any = None
    bias: Tensor | None = None
    form: AttentionForm = "sdpa"
    slot_mapping: SlotMapping | None = None
    lengths: Tensor | None = None

    def rotate(self, x: Tensor) -> Tensor:
        """Turn queries or keys (B, T, H, d) by their positions; the identity for positions that do not rotate."""
        return self.position.rotate(x, self.prepared)
