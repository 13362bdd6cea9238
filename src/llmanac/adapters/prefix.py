"""Prefix tuning: trained keys and values that come before those of the text, in every layer.

    K_l = [P_l^k; k(x)],  V_l = [P_l^v; v(x)]      P_l^k, P_l^v (H_kv, n, d) for each layer l

All else is frozen: n x 2 L H_kv d numbers are trained. The keys are not turned by positions, and the text's positions
count from n, as if n tokens had been read: so a prefix is the state that a text of n tokens could have left. With
`projection` the rows are made by two layers from narrow vectors while they are trained (section 4.3 of the paper).

The rows (n, 2 L H_kv d) hold layer by layer keys, then values, as PEFT's `prompt_embeddings` do. A layer without keys
(a recurrent one) gets none; a model without any attention is refused. Li & Liang 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.adapters._soft_prompt import (
    Projected,
    SoftPromptEncoder,
    SoftPromptSpec,
    SoftPromptTransform,
    state_without,
)
from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.models.lm.transformer import Transformer
from llmanac.models.state.kv import KVCache
from llmanac.models.state.ring import RingCache

CARD = {
    "title": "Prefix tuning",
    "paper": "Li & Liang 2021, arXiv:2101.00190",
    "reference": "PEFT's PREFIX_TUNING on models of transformers, through the cache",
}


@dataclass(frozen=True, kw_only=True)
class Spec(SoftPromptSpec):
    """projection: width of the layer between narrow vectors and rows while they are trained; None for no such layer.

    With one, `start` has no meaning: the vectors and layers begin at random.
    """

    projection: int | None = None

    ranges = within(COUNT, "projection")

    def build(self, *, seed: int = 0, **dims: Any) -> PrefixTuning:
        return PrefixTuning(self, seed)


class PrefixTuning(SoftPromptTransform):
    """See the module.

    Attributes:
        shapes: of one token in what each layer's state remembers, ((heads, width), ...); None for a layer without keys.
    """

    spec: Spec
    shapes: list[tuple[tuple[int, int], ...] | None]

    def make(self, model: Transformer, **options: Any) -> nn.Module:
        self.shapes = [_shapes(layer) for layer in model.start(1).layers[:-1]]
        width = sum(math.prod(shape) for shapes in self.shapes for shape in shapes or ())
        if not width:
            raise SpecError("prefix: this model has no attention, so no keys that a prefix could come before")
        if self.spec.projection is None:
            return SoftPromptEncoder(self, self.tokens, width, **options)
        return Projected(self.tokens, model.spec.dim, self.spec.projection, width, **options)

    def past(self, dtype: torch.dtype) -> list[tuple[Tensor, ...] | None]:
        rows, found, at = self.rows(dtype), [], 0
        for shapes in self.shapes:
            tensors = []
            for heads, width in shapes or ():
                part = rows[:, at : at + heads * width]
                tensors.append(part.view(-1, heads, width).transpose(0, 1))
                at += heads * width
            found.append(tuple(tensors) or None)
        return found

    def columns(self) -> Tensor:
        """Where each of our numbers of a row is in a row of PEFT's: keys that turn in pairs leave as halves here."""
        found, at = [], 0
        for layer, shapes in zip(self.model.model.layers, self.shapes, strict=True):
            position = self.model.model.position if layer.position is None else layer.position
            for number, (heads, width) in enumerate(shapes or ()):
                order = torch.arange(width)
                if number == 0 and position.layout == "pairs":
                    turned = position.turned
                    order = torch.cat([order[:turned:2], order[1:turned:2], order[turned:]])
                found += [at + head * width + order for head in range(heads)]
                at += heads * width
        return torch.cat(found)

    def of_text(self, model: Transformer, ids: Tensor) -> Tensor:
        layers = state_without(self, model, ids).layers
        held = [layer.tensors for layer, shapes in zip(layers, self.shapes, strict=False) if shapes]
        count = ids.shape[1]
        found = []
        for tensors in held:
            for tensor in tensors[:2]:
                rows = tensor[0, :, :count]
                if rows.shape[1] < count:  # a ring keeps the last ones
                    rows = rows[:, torch.arange(count, device=rows.device) % rows.shape[1]]
                found.append(rows.transpose(0, 1).flatten(1))
        return torch.cat(found, 1)


def _shapes(state: Any) -> tuple[tuple[int, int], ...] | None:
    """Of one token in a layer's growing state."""
    if not isinstance(state, (KVCache, RingCache)):
        return None
    return tuple((int(t.shape[1]), int(t.shape[3])) for t in state.tensors[:2])
