"""More rows for a vocabulary that has grown: `resize_embeddings`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.core.errors import SpecError


@torch.no_grad()
def resize_embeddings(model: Any, vocab_size: int, *, parts: Sequence[Sequence[int]] | None = None) -> Any:
    """Give a model, in place, an embedding and a head of `vocab_size` rows; the rows it has stay as they are.

    A new row is the mean of all old ones (Hewitt 2021: then no new token's probability can exceed what the old ones had
    together, as a row of zeros or noise lets it), or of the rows of the tokens that it is made of.

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
    model.vocab_size = vocab_size
    return model


def _grown(weight: Tensor, rows: int, parts: Sequence[Sequence[int]] | None) -> Tensor:
    everything = weight.double().mean(dim=0)
    new = [
        weight[list(ids)].double().mean(dim=0) if len(ids) else everything
        for ids in (parts if parts is not None else [()] * (rows - weight.shape[0]))
    ]
    return torch.cat([weight, *(row.to(weight.dtype)[None] for row in new)])
