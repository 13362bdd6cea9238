"""Rows that begin with the same tokens, with those computed once: the answers to one prompt, with gradients.

The prompt runs as one row whose keys and values are kept, with their graph; the rest of all rows runs after them. The
values and gradients are those of complete rows but for rounding.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmanac.core.types import HIDDEN, IGNORE, Batch
from llmanac.models.lm.transformer import Transformer
from llmanac.models.soft_prompt import begin
from llmanac.models.state import DecodingState, LayerState, SlotMapping
from llmanac.models.state.kv import KVCache

Span = tuple[int, int, int]  # first row, last + 1, tokens that all of these begin with
WORTH = 8  # tokens computed once too often that are worth a pass of their own


class Written(LayerState):
    """Keeps what one call gives it, with its graph."""

    kind: ClassVar[str] = "written"
    tensors: tuple[Tensor, ...] = ()

    def append(self, slots: SlotMapping, *new: Tensor) -> tuple[Tensor, ...]:
        self.tensors = new
        return (*new, slots.key_positions)


def spans(prompts: Sequence[Sequence[int]]) -> tuple[Span, ...]:
    """Neighbours with equal prompts, whose last token is left out: it is read with what it predicts."""
    starts = [i for i, prompt in enumerate(prompts) if i == 0 or prompt != prompts[i - 1]]
    ends = [*starts[1:], len(prompts)]
    return tuple((a, b, len(prompts[a]) - 1) for a, b in zip(starts, ends, strict=True))


def sharing(model: Any, found: Sequence[Span]) -> bool:
    """Whether computing prompts once saves anything, and the model's layers can be given their keys and values."""
    saved = sum((b - a - 1) * tokens for a, b, tokens in found)
    if not found or saved < WORTH * len(found) or type(model) is not Transformer or model.soft_prompt is not None:
        return False
    if any(module._forward_hooks or module._forward_pre_hooks for module in (model, *model.model.layers)):
        return False
    state = model.start(1)
    return not state.by_length and all(type(layer) is KVCache and layer.dim == 2 for layer in state.layers[:-1])


def hidden_at_targets(model: Any, batch: Batch, found: Sequence[Span]) -> Tensor:
    """The last hidden states (N, D) of the places of a batch padded on the right that have a target, in its order.

    Args:
        found: spans that cover the rows, without targets in what they share but at its end.
    """
    assert batch.ids is not None and batch.targets is not None
    parts = []
    for a, b, tokens in found:
        keep = batch.targets[a:b, tokens:] != IGNORE
        counts = keep.sum(1)
        longest = int(counts.max())
        rest = Batch(ids=batch.ids[a:b, tokens : tokens + longest], lengths=counts)
        state: Any = None
        if tokens:
            written = [Written() for _ in model.model.layers]
            model(Batch(ids=batch.ids[a : a + 1, :tokens]), DecodingState([*written, None], 1, batch.device), HIDDEN)
            past = [tuple(t[0] for t in layer.tensors) for layer in written]
            state = begin(past, rest, tokens, by_length=False)
        parts.append(model(rest, state, HIDDEN).hidden[keep[:, :longest]])
    return torch.cat(parts)
