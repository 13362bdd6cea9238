"""Position: how a model knows the position of a token. Every hook is the identity until a method overrides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llmanac.core.spec import Spec


@dataclass(frozen=True, kw_only=True)
class PositionSpec(Spec):
    """`build(dim=, heads=, head_dim=, max_length=) -> Position`; built once a model, shared by its layers."""

    kind = "position"
    any_head_dim: ClassVar[bool] = True  # whether layers with heads of different sizes may share it

    def resolved(self, max_length: int) -> PositionSpec:
        """The same with every size that was left open filled in."""
        return self

    def build(self, *args: Any, **dims: Any) -> Position:
        """dim: width of the model; heads, head_dim: of its attention; max_length: the context it is built for."""
        raise NotImplementedError


class Position(nn.Module):
    """The three places where position can enter."""

    limit: int | None = None  # positions 0 .. limit - 1 exist; None for no limit
    embedding_std: float = 0.02  # of the token embeddings as they start; what is added to them must not drown them

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Token embeddings (B, T, D) and positions (B or 1, T) -> (B, T, D)."""
        return x

    def prepare(self, positions: Tensor, dtype: torch.dtype) -> Any:
        """What `rotate` needs, computed once per forward pass for all layers."""
        return None

    def rotate(self, x: Tensor, prepared: Any) -> Tensor:
        """Queries or keys (B, T, H, d) -> the same shape."""
        return x

    def bias(self, queries: Tensor, keys: Tensor) -> Tensor | None:
        """Positions (B or 1, T) and (B or 1, S) -> (B or 1, H, T, S) to add to attention scores, or None."""
        return None
