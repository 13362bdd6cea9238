"""The steps of a forward pass that all models of blocks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from llmanac.core.errors import RequestError
from llmanac.core.types import Batch, ModelOutput, OutputRequest
from llmanac.models import _masks
from llmanac.models._call import CallLayer, CallState
from llmanac.models._context import Context
from llmanac.models._masks import AttentionMask
from llmanac.models.state import DecodingState, SlotMapping

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
        return None, _masks.of_batch(batch)
    if state.batch != rows:
        raise RequestError(f"state: holds {state.batch} rows, the batch has {rows}")
    slots = state.slots(length, batch.lengths)
    if isinstance(state, CallState):
        return slots, state.mask(batch, slots)
    return slots, _masks.of_continuation(batch, slots)


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
