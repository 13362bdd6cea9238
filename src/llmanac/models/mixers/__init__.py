"""Mixers: how a block moves information between tokens. (B, T, D) -> (B, T, D), with a state for decoding.

Those with several heads have in common how many heads there are, and how wide each is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.core.spec import Spec
from llmanac.models.forward import Context
from llmanac.models.state import LayerState


@dataclass(frozen=True, kw_only=True)
class MixerSpec(Spec):
    """`build(dim=) -> Mixer`."""

    kind = "mixer"
    scores: ClassVar[bool] = True  # whether a position method may add to its attention scores
    sinks = cast("int | None", None)  # a field of softmax attention
    mixes_channels: ClassVar[bool] = False  # whether it needs no feed-forward layer after it

    def build(self, *args: Any, **dims: Any) -> Mixer:
        """dim: width of the model."""
        raise NotImplementedError

    def resolved(self, dim: int) -> MixerSpec:
        """The same with every size that was left open filled in."""
        return self

    def head_shape(self, dim: int) -> tuple[int, int] | None:
        """(query heads, head_dim) in a model of width `dim`; None for a mixer that has no attention heads."""
        return None


class Mixer(nn.Module):
    """What every mixer offers.

    Attributes:
        supports: masks (`causal`, `prefix`, `bidirectional`), `packed` rows, `rewind` of its state to any length after
            a mark (a window: as far as the mark and its last tokens reach), `page` (its state can be kept in blocks),
            `source` (it reads an encoder's output). The contract tests what is named, and that the rest is refused.
    """

    supports: ClassVar[frozenset[str]] = frozenset({"causal"})

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> LayerState:
        """An empty state for `batch` rows."""
        raise NotImplementedError

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        """(B, T, D) -> (B, T, D); with a state, for tokens that follow what it holds, and it then holds them too."""
        raise NotImplementedError

    def flops(self, keys: float) -> float:
        """Matrix-product FLOPs of one token, forward, where a query sees `keys` keys on average."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class HeadsSpec(MixerSpec):
    """heads: H; head_dim: d, by default D / H."""

    heads: int = 4
    head_dim: int | None = None

    ranges = within(COUNT, "heads head_dim")

    def head_width(self, dim: int) -> int:
        """Numbers of a head in a model of width `dim`. Raises SpecError where the heads do not divide it."""
        if self.head_dim is None and dim % self.heads:
            raise SpecError(f"heads: {self.heads} must divide dim, {dim}; or set head_dim")
        return self.head_dim or dim // self.heads

    def head_shape(self, dim: int) -> Any:
        return self.heads, self.head_width(dim)

    def resolved(self, dim: int) -> Self:
        return replace(self, head_dim=self.head_width(dim))


@dataclass(frozen=True, kw_only=True)
class SharedHeadsSpec(HeadsSpec):
    """kv_heads: H_kv heads of keys and values, each read by H / H_kv heads of queries; by default H."""

    kv_heads: int | None = None

    ranges = within(COUNT, "kv_heads")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise SpecError(f"kv_heads: {self.kv_heads} must divide heads, {self.heads}")

    def resolved(self, dim: int) -> Self:
        return replace(super().resolved(dim), kv_heads=self.kv_heads or self.heads)
