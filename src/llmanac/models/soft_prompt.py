"""What an adapter puts before the tokens of every row: keys and values of each layer, or vectors like embeddings.

Its n places come first in the row: the tokens after them count their positions from n. Without a state a forward pass
reads them each time, with gradients; a state takes them in when a row's first tokens are read, and keeps them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.core.types import HIDDEN, Batch
from llmanac.models.masks import AttentionMask, CallLayer, CallState, of_soft_prompt
from llmanac.models.state import DecodingState, SlotMapping, StateRow


class SoftPrompt(Protocol):
    """What `Transformer.soft_prompt` may be.

    Attributes:
        tokens: n; enabled: whether the model computes with it.
    """

    tokens: int
    enabled: bool

    def past(self, dtype: torch.dtype) -> list[tuple[Tensor, ...] | None] | None:
        """The tensors (heads, n, width) that each layer's state takes for n tokens, None for a layer without keys.

        None alone for a prompt of vectors.
        """

    def vectors(self, dtype: torch.dtype) -> Tensor:
        """(n, D), where there is no `past`."""


class Before(CallLayer):
    """The keys and values of a soft prompt, which come before those of any call; it remembers nothing."""

    kind: ClassVar[str] = "prefix"

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors

    def append(self, slots: SlotMapping, *new: Tensor) -> tuple[Tensor, ...]:
        rows = len(new[0])
        pairs = zip(self.tensors, new, strict=True)
        return (*[torch.cat([own.expand(rows, -1, -1, -1), x], 2) for own, x in pairs], slots.key_positions)


class SoftPromptState(CallState):
    """The state of rows that hold a soft prompt and nothing else."""

    def mask(self, batch: Batch, slots: SlotMapping) -> AttentionMask:
        return of_soft_prompt(batch, slots)


def begin(past: Sequence[tuple[Tensor, ...] | None], batch: Batch, tokens: int, *, by_length: bool) -> SoftPromptState:
    """The state of a batch whose rows begin with keys and values."""
    rows, length = batch.shape
    counts = [length] * rows
    if by_length and batch.lengths is not None:
        counts = batch.lengths.tolist()
    made = [StateRow(tokens, soft_tokens=tokens, planned=tokens + count) for count in counts]
    return SoftPromptState([*[None if part is None else Before(part) for part in past], None], made, batch.device)


def after(batch: Batch, tokens: int) -> Batch:
    """The batch whose tokens have `tokens` places before them: its positions and prefixes count from there."""
    found = batch
    if batch.positions is not None:
        found = replace(found, positions=batch.positions + tokens)
    return found if batch.prefix is None else replace(found, prefix=batch.prefix + tokens)


def with_vectors(batch: Batch, vectors: Tensor, embedded: Tensor) -> tuple[Batch, Tensor | None]:
    """The batch (B, n + T) of vectors (n, D) and embedded tokens (B, T, D), without targets.

    Returns:
        it, and where its tokens are, (B, T): None where they are the last ones. In packed rows the vectors come before
        each document.
    """
    rows, tokens = len(embedded), len(vectors)
    if batch.segments is not None:
        return _packed(batch, vectors, embedded)
    made = after(batch, tokens)
    positions = made.positions
    if positions is not None:
        first = torch.arange(tokens, device=positions.device).expand(len(positions), -1)
        positions = torch.cat([first, positions], 1)
    made = replace(
        made,
        ids=None,
        embeddings=torch.cat([vectors.expand(rows, -1, -1), embedded], 1),
        targets=None,
        positions=positions,
        lengths=None if batch.lengths is None else batch.lengths + tokens,
    )
    return made, None


def _packed(batch: Batch, vectors: Tensor, embedded: Tensor) -> tuple[Batch, Tensor]:
    """The same where rows hold documents one after the other."""
    if batch.mask == "prefix":
        raise RequestError('segments: packed rows with trained vectors before documents take no mask="prefix"')
    segments, tokens = batch.segments, len(vectors)
    assert segments is not None
    begins = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True) & (segments >= 0)
    count = begins.cumsum(1)  # documents that have begun
    place = torch.arange(segments.shape[1], device=segments.device) + tokens * count
    rows, starts = begins.nonzero(as_tuple=True)
    into = rows[:, None], place[rows, starts][:, None] - tokens + torch.arange(tokens, device=rows.device)
    shape = (len(segments), segments.shape[1] + tokens * int(count[:, -1].max()))

    def spread(values: Tensor, first: Tensor, fill: int) -> Tensor:
        """`values` (B, T) where the tokens go, `first` (documents, n) before them."""
        return values.new_full(shape, fill).scatter(1, place, values).index_put(into, first)

    index = place[:, :, None].expand_as(embedded)
    x = embedded.new_zeros(*shape, embedded.shape[2]).scatter(1, index, embedded)
    of_vectors = segments[rows, starts][:, None].expand(-1, tokens)
    positions = batch.positions
    if positions is not None:
        steps = torch.arange(tokens, device=rows.device).expand(len(rows), -1).to(positions.dtype)
        positions = spread(positions.expand(len(segments), -1) + tokens, steps, 0)
    made = replace(
        batch,
        ids=None,
        embeddings=x.index_put(into, vectors.expand(len(rows), -1, -1)),
        targets=None,
        segments=spread(segments, of_vectors, -1),
        positions=positions,
        lengths=None if batch.lengths is None else batch.lengths + tokens * count[:, -1],
    )
    return made, place


def own(x: Tensor, first: int, places: Tensor | None) -> Tensor:
    """The tokens (B, T, D) among the places of a row (B, n + T, D)."""
    return x[:, first:] if places is None else x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))


@torch.no_grad()
def prime(model: Any, soft_prompt: SoftPrompt, state: DecodingState, length: int = 0) -> None:
    """Let rows that have read nothing take in a soft prompt; rows that hold it, or its beginning, take in the rest.

    Args:
        length: tokens that are read next, for positions that depend on a row's length.
    """
    for start, stop, count in _runs(state, soft_prompt.tokens):
        part = state.view(start, stop)
        for row in part.rows:
            row.soft_tokens = soft_prompt.tokens
            row.plan = max(row.plan, soft_prompt.tokens + length) if row.count == 0 else row.plan
        past, missing = soft_prompt.past(model.dtype), soft_prompt.tokens - count
        if past is None:
            vectors = soft_prompt.vectors(model.dtype)[count:].expand(stop - start, -1, -1)
            model(Batch(embeddings=vectors), part, HIDDEN)
            continue
        slots = part.slots(missing)
        for layer, tensors in zip(part.layers, [*past, None], strict=True):
            if layer is not None and tensors is not None:
                layer.append(slots, *[t[:, count:].expand(stop - start, -1, -1, -1) for t in tensors])
        part.advance(missing)


def _runs(state: DecodingState, tokens: int) -> Iterator[tuple[int, int, int]]:
    """Neighbouring rows that hold the same part of a soft prompt, but not all: first, last + 1, how many tokens."""
    counts = [row.count if row.count < tokens else tokens for row in state.rows]
    start = 0
    for end in range(1, len(counts) + 1):
        if end == len(counts) or counts[end] != counts[start]:
            if counts[start] < tokens:
                yield start, end, counts[start]
            start = end
