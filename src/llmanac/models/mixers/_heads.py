"""What mixers with several heads have in common: how many heads there are, and how wide each is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.models.mixers import MixerSpec


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
