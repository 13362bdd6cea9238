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
    losses: Losses = field(default_factory=lambda: Losses())

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate queries or keys (B, T, H, d) by their positions; the identity for positions that do not rotate."""
        return self.position.rotate(x, self.prepared)

    def at(self, position: Position, dtype: torch.dtype) -> Context:
        """The same with this position method: the model's, or a block's own."""
        prepared = position.prepare(self.positions, dtype, self.row_lengths() if position.by_length else None)
        bias = position.bias(self.queries(), self.keys()) if position.compares else None
        return replace(self, position=position, prepared=prepared, bias=bias)

    def queries(self) -> Tensor:
        """(B or 1, T): positions of the queries as biases compare them with those of `keys`."""
        return self.positions if self.slots is None else self.mask.queries

    def keys(self) -> Tensor:
        """(B or 1, S): positions of the keys of a cache that holds a row's tokens in order."""
        return self.positions if self.slots is None else self.slots.key_positions

    def score_bias(self, q: Tensor, k: Tensor, keys: Tensor | None = None) -> Tensor | None:
        """What positions add to the scores of q (B, H, T, d) with k (B, H_kv, S, d): (B or 1, H, T, S), or None.

        Args:
            keys: (B or 1, S), where the keys are; by default those of `keys()`.
        """
        keys = self.keys() if keys is None else keys
        same = not self.position.compares or keys is self.keys()
        fixed = self.bias if self.bias is None or same else self.position.bias(self.queries(), keys)
        rule = self.mask.rule
        causal = rule is not None and rule.kind == "causal"
        content = self.position.content_bias(q, k, self.queries(), keys, causal)
        if fixed is None or content is None:
            return content if fixed is None else fixed
        return fixed + content

    def row_lengths(self) -> Tensor:
        """(B or 1, T or 1): how many tokens a token's row has, or its document in a packed row.

        With a state: the number that the row was planned for; see `DecodingState.plan`.
        """
        if self.slots is not None:
            return self.slots.planned[:, None]
        ends, real = self.positions + 1, self.real()
        if real is not None:
            ends = ends.expand(len(real), -1).where(real, 0)
        begins = self.document_starts()
        if begins is None:
            return ends.amax(1, keepdim=True)
        documents = begins.cumsum(1)
        ends = ends.expand(len(documents), -1)
        return torch.zeros_like(ends).scatter_reduce(1, documents, ends, "amax").gather(1, documents)

    def document_starts(self) -> Tensor | None:
        """(B, T) bool: tokens that begin a further document of a packed row; None where there are none."""
        if self.segments is None:
            return None
        before = torch.cat([self.segments[:, :1], self.segments[:, :-1]], dim=1)
        return self.segments != before

    def real(self) -> Tensor | None:
        """(B, T) bool: which tokens are not padding (past a row's length, or of a negative segment); None for all."""
        if self.lengths is None:
            return None if self.segments is None else self.segments >= 0
        steps = torch.arange(self.positions.shape[1], device=self.positions.device)
        return steps < self.lengths[:, None]

    def add_loss(self, name: str, value: Tensor) -> None:
        """Add a loss () to those of the forward pass; values of one name are summed."""
        self.losses.found.setdefault(name, []).append(value)

    def aux(self) -> dict[str, Tensor]:
        """The sum of the losses of each name."""
        return {name: torch.stack(values).sum() for name, values in self.losses.found.items()}


class Losses:
    """Losses of layers by name, all of one forward pass. No dict: FSDP2 gives each layer a copy of those."""

    def __init__(self) -> None:
        self.found: dict[str, list[Tensor]] = {}
