"""Position: how a model knows the position of a token. Every hook does nothing until a method overrides it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from llmanac.core.spec import Spec

Project = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class PositionSpec(Spec):
    """`build(dim=, heads=, head_dim=, max_length=) -> Position`; built once a model, shared by its layers."""

    kind = "position"
    any_head_dim: ClassVar[bool] = True  # whether layers with heads of different sizes may share it
    any_heads: ClassVar[bool] = True  # whether layers with different numbers of heads may share it
    needs_heads: ClassVar[bool] = False  # whether its parameters are of use in attention alone
    scales: ClassVar[bool] = False  # whether `scaling` is a field of it
    scaling = cast(Any, None)

    def resolved(self, max_length: int) -> PositionSpec:
        """The same with every size that was left open filled in."""
        return self

    def build(self, *args: Any, **dims: Any) -> Position:
        """dim: width of the model; heads, head_dim: of its attention; max_length: the context it is built for.

        encoder: given, and true, where it is built for a stack that sees both sides.
        """
        raise NotImplementedError


class Position(nn.Module):
    """The places where position can enter: embeddings (`embed`), queries and keys (`rotate`), scores (the biases)."""

    layout: str = "halves"  # of what turns together, see `rope`
    limit: int | None = None  # positions 0 .. limit - 1 exist; None for no limit
    embedding_std: float = 0.02  # of the token embeddings as they start; what is added to them must not drown them
    compares: bool = False  # whether a bias compares positions of queries with positions of keys
    dimensions: ClassVar[int] = 1  # 2 where a token's place within a span is told apart (`embed_within`)
    by_length: bool = False  # whether `prepare` depends on the length of a token's row

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Token embeddings (B, T, D) and positions (B or 1, T) -> (B, T, D)."""
        return x

    def embed_within(self, x: Tensor, within: Tensor | None) -> Tensor:
        """Token embeddings (B, T, D) and `Batch.within` (B, T), None for all 0 -> (B, T, D)."""
        return x

    def prepare(self, positions: Tensor, dtype: torch.dtype, lengths: Tensor | None = None) -> Any:
        """What `rotate` needs, computed once per forward pass for all layers.

        Args:
            positions: (B or 1, T); dtype: of queries and keys.
            lengths: (B or 1, T or 1) tokens of each token's row or document, where `by_length`; None takes the
                largest position of the row.
        """
        return None

    def lasts(self, tokens: int) -> int:
        """Where `by_length`: up to how many tokens a row of `tokens` may grow until it has to be read again."""
        raise NotImplementedError

    def rotate(self, x: Tensor, prepared: Any) -> Tensor:
        """Queries or keys (B, T, H, d) -> the same shape."""
        return x

    def bias(self, queries: Tensor, keys: Tensor) -> Tensor | None:
        """Positions (B or 1, T) and (B or 1, S) -> (B or 1, H, T, S) to add to attention scores, or None."""
        return None

    def content_bias(
        self, q: Tensor, k: Tensor, queries: Tensor, keys: Tensor, causal: bool, project: Project
    ) -> Tensor | None:
        """The same for a bias that depends on the vectors too; called by each layer.

        Args:
            q, k: (B, H, T, d) and (B, H_kv, S, d), normed and turned.
            queries, keys: their positions (B or 1, T) and (B or 1, S).
            causal: whether no query sees a key after it.
            project: what the layer's products make of vectors (N, D): queries (H, N, d) and keys (H_kv, N, d).

        Returns:
            (B, H, T, S) in the units of the scores (scaled), or None.
        """
        return None

    def flops(self, keys: float) -> float:
        """Matrix-product FLOPs that it adds to one token of each attention layer; see `Mixer.flops`."""
        return 0.0
