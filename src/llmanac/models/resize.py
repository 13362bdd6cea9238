"""More rows for a vocabulary that has grown: `resize_embeddings`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.core.errors import SpecError


@torch.no_grad()
def resize_embeddings(model: Any, vocab_size: int, *, parts: Sequence[Sequence[int]] | None = None) -> Any:
    """Give a model, in place, an embedding and a head of `vocab_size` rows; the rows it has stay as they are.

    A new row is the mean of all old ones, so that a new token starts with no more probability than the old ones have on
    average (its logit is the mean of theirs, and exp is convex: Hewitt 2021), or the mean of the rows of the tokens
    that it is made of.

    Args:
        model: a `Transformer`; `embed_tokens` and the head (which may be one tensor) have (V, D) weights.
        vocab_size: the new number of rows, at least the old.
        parts: for each new row, the old ids whose mean it starts at; an empty one takes the mean of all.

    Raises:
        SpecError: fewer rows than there are, or `parts` of another number or of ids that are not old.
    """
    old = model.vocab_size
    if vocab_size < old:
        raise SpecError(f"vocab_size: {vocab_size} is less than the model's {old}; ids cannot be taken away")
    if parts is not None and len(parts) != vocab_size - old:
        raise SpecError(f"parts: {len(parts)} given for {vocab_size - old} new rows")
    for i, ids in enumerate(parts or ()):
        if any(not 0 <= id < old for id in ids):
            raise SpecError(f"parts.{i}: {list(ids)} holds an id outside the model's {old}")
    embedding, head = model.model.embed_tokens, model.lm_head
    tied = head.weight is embedding.weight
    embedding.weight = nn.Parameter(_grown(embedding.weight, vocab_size, parts), embedding.weight.requires_grad)
    head.weight = (
        embedding.weight if tied else nn.Parameter(_grown(head.weight, vocab_size, parts), head.weight.requires_grad)
    )
    if head.bias is not None:
        head.bias = nn.Parameter(_grown(head.bias, vocab_size, parts), head.bias.requires_grad)
    model.vocab_size = vocab_size
    return model


def _grown(weight: Tensor, rows: int, parts: Sequence[Sequence[int]] | None) -> Tensor:
    everything = weight.double().mean(dim=0)
    out = torch.cat([weight, everything.to(weight.dtype).expand(rows - len(weight), -1)])
    for row, ids in enumerate(parts or (), len(weight)):
        if len(ids):
            out[row] = weight[list(ids)].double().mean(dim=0)
    return out
