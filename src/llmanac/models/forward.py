"""A forward pass: what layers know of the tokens they are given, and the steps that all models of blocks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from llmanac.core.errors import RequestError
from llmanac.core.types import Batch, ModelOutput, OutputRequest
from llmanac.models import masks
from llmanac.models.masks import AttentionMask, CallLayer, CallState
from llmanac.models.state import DecodingState, SlotMapping

if TYPE_CHECKING:
    from llmanac.models.masks import AttentionMask
    from llmanac.models.positions import Position, Project
    from llmanac.models.state import SlotMapping

AttentionForm = Literal["sdpa", "plain", "blocks", "flash"]
ATTENTION_FORMS: tuple[AttentionForm, ...] = ("sdpa", "plain", "blocks", "flash")


@dataclass(frozen=True)
class SourceMemory:
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
    memory: SourceMemory | None = None
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

    def score_bias(self, q: Tensor, k: Tensor, project: Project, keys: Tensor | None = None) -> Tensor | None:
        """What positions add to the scores of q (B, H, T, d) with k (B, H_kv, S, d): (B or 1, H, T, S), or None.

        Args:
            project: see `Position.content_bias`.
            keys: (B or 1, S), where the keys are; by default those of `keys()`.
        """
        keys = self.keys() if keys is None else keys
        same = not self.position.compares or keys is self.keys()
        fixed = self.bias if self.bias is None or same else self.position.bias(self.queries(), keys)
        rule = self.mask.rule
        causal = rule is not None and rule.kind == "causal"
        content = self.position.content_bias(q, k, self.queries(), keys, causal, project)
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


Recompute = Literal["none", "blocks"]


def check_targets(batch: Batch, want: OutputRequest) -> None:
    """Raises RequestError where nll is wanted and the batch has no targets of its shape."""
    if want.nll is None:
        return
    if batch.targets is None:
        raise RequestError("targets: nll needs a batch with targets")
    if tuple(batch.targets.shape) != batch.shape:
        shapes = f"{tuple(batch.targets.shape)} for ids of {batch.shape}"
        raise RequestError(f"targets: {shapes}; every id needs its target (IGNORE where there is none)")


def check_request(
    layers: Sequence[Any],
    head: Any,
    batch: Batch,
    state: Any,
    want: OutputRequest,
    *,
    reads_source: bool,
    typed: bool = False,
    dimensions: int = 1,
) -> None:
    """All that can be refused is refused before a layer has run, so that a state is never half advanced.

    Raises:
        RequestError: what the model, its head or its layers cannot do.
    """
    batch.check()
    check_targets(batch, want)
    check_supported(layers, batch)
    if state is not None and len(state.layers) != len(layers) + 1:
        raise RequestError(
            f"state: has {len(state.layers) - 1} layers, the model {len(layers)}; start one with this model"
        )
    wrong = [n for n in want.layers if not 0 <= n <= len(layers)]
    if wrong:
        raise RequestError(f"layers: {wrong[0]} is not a block; there are 1 to {len(layers)}, and 0 for the embeddings")
    if head.remembers and batch.ids is None:
        raise RequestError("embeddings: a pointer head copies tokens, so it needs their ids")
    if head.remembers and state is not None and (want.nll is not None or want.entropy):
        raise RequestError("nll, entropy: this head looks back, so it scores complete rows only; leave the state out")
    if batch.source is not None and not reads_source:
        raise RequestError("source: this model has no encoder and no cross-attention; leave it out")
    if batch.token_types is not None and not typed:
        raise RequestError("token_types: this model has none; leave them out")
    if batch.within is not None and dimensions != 2:
        raise RequestError("within: this model's positions have one dimension; leave it out, or use learned-2d")
    if batch.prefix is not None and batch.mask != "prefix":
        raise RequestError('prefix: is read with mask="prefix" only')


def check_supported(layers: Iterable[Any], batch: Batch) -> None:
    """Raises RequestError where a layer's mixer cannot do what the batch asks for."""
    needs = {batch.mask} | ({"packed"} if batch.segments is not None else set())
    for layer in layers:
        missing = needs - layer.supports
        if missing:
            what = "segments (packed rows)" if "packed" in missing else f"mask={batch.mask!r}"
            raise RequestError(f"{what}: not supported by {type(layer).__name__}'s mixer; it is causal only")


def documents(segments: Tensor) -> Tensor:
    """Segments (B, T) with a number of its own for each run; padding stays negative."""
    begins = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0))
    return torch.where(segments < 0, segments, begins.cumsum(1))


def place(batch: Batch, state: DecodingState | None) -> tuple[SlotMapping | None, AttentionMask]:
    """Where the batch's tokens go in the state, and which keys they see."""
    rows, length = batch.shape
    if state is None:
        return None, masks.of_batch(batch)
    if state.batch != rows:
        raise RequestError(f"state: holds {state.batch} rows, the batch has {rows}")
    slots = state.slots(length, batch.lengths)
    if isinstance(state, CallState):
        return slots, state.mask(batch, slots)
    return slots, masks.of_continuation(batch, slots)


def run_layers(
    layers: Iterable[Any],
    x: Tensor,
    context: Context,
    states: Sequence[Any] | None,
    wanted: tuple[int, ...] = (),
    recompute: Recompute = "none",
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The residual stream after the last block, and what it was after the `wanted` ones (0: before the first).

    With `recompute` of blocks, the backward pass keeps what enters each block and computes the rest of it again.
    """
    kept = {0: x} if 0 in wanted else {}
    for count, layer in enumerate(layers, 1):
        state = None if states is None else states[count - 1]
        if recompute == "blocks" and torch.is_grad_enabled() and (state is None or isinstance(state, CallLayer)):
            x = checkpoint(layer, x, context, state, use_reentrant=False)
        else:
            x = layer(x, context, state)
        if count in wanted:
            kept[count] = x
    return x, tuple(kept[n] for n in wanted)


def read_head(
    head: Any, hidden: Tensor, batch: Batch, context: Context, state: Any, want: OutputRequest
) -> ModelOutput:
    """What the head makes of the final hidden states (B, T, D); see `OutputRequest`."""
    logits = nll = entropy = None
    if want.logits is not None:
        logits = head.logits(hidden, context, state, batch.last if want.logits == "last" else None)
    else:
        head.remember(hidden, context, state)
    if want.nll is not None:
        assert batch.targets is not None
        nll = head.nll(hidden, batch.targets, context, want.nll)
    if want.entropy:
        entropy = head.entropy(hidden, context)
    return ModelOutput(logits=logits, hidden=hidden if want.hidden else None, nll=nll, entropy=entropy)


def pick(hidden: Tensor, last: Tensor | None) -> Tensor:
    """(B, T, D) -> (B, 1, D) at the index `last` of each row; all of it for None."""
    if last is None:
        return hidden
    return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1]))
