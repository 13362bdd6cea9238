"""Rows of an embedding, and of the head that is tied to it, with values of their own: PEFT's `trainable_token_indices`.

E' = E + O (R - O^T E)      O (V, k) has a 1 where a row is one of the k tokens; R (k, D) is trained, initially O^T E
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.adapters._linear import LinearTerm, LinearTransform
from llmanac.models.layers import Changeable, Embedding, upcast
from llmanac.models.quantized import lookup


class TokenRows(nn.Module):
    """R, as `weight`."""

    ids: Tensor  # (k,)

    def __init__(self, layer: Changeable, ids: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("ids", torch.tensor(ids, device=layer.weight.device), persistent=False)
        self._of = [layer]  # in a list, so that the layer is no child
        self.weight = nn.Parameter(upcast(self.own()).clone())

    def own(self) -> Tensor:
        """The rows of the model itself."""
        return lookup(self.ids, self._of[0].weight.detach())

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.copy_(self.own())


class TokenTerm(LinearTerm):
    """What the rows do to the embedding, or to a head.

    Args:
        follows: see `LinearTerm`.
    """

    def __init__(self, transform: LinearTransform, rows: TokenRows, follows: bool = False) -> None:
        super().__init__(transform, {} if follows else {"lora_tokens": rows})
        self.rows, self.follows = rows, follows
        layer: Any = rows._of[0]
        self.looks_up = isinstance(layer, Embedding) and not follows
        self.tokens = layer.weight.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        width = self.rows.weight.shape[1]
        return (width, self.tokens) if self.looks_up else (self.tokens, width)

    def term(self, x: Tensor) -> tuple[Tensor, Tensor, float]:
        change, ids = self.rows.weight - self.rows.own(), self.rows.ids
        if self.looks_up:
            return (x[..., None] == ids).to(change.dtype), change.t(), 1.0
        places = torch.arange(self.tokens, device=ids.device)[:, None] == ids
        return F.linear(x, change.to(x.dtype)), places.to(x.dtype), 1.0

    def merged(self, weight: Tensor) -> Tensor:
        values = self.rows.weight.to(weight.dtype)
        if self.looks_up:
            return weight.index_copy(1, self.rows.ids, values.t())
        return weight.index_copy(0, self.rows.ids, values)
