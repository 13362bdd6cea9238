"""Heads: from the last hidden state to a distribution over the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from llmanac.core.spec import Spec
from llmanac.models.forward import Context
from llmanac.models.layers import LinearMap
from llmanac.models.state import LayerState


@dataclass(frozen=True, kw_only=True)
class HeadSpec(Spec):
    """`build(dim=, vocab_size=) -> Head`."""

    kind = "head"
    base_dim = cast("int | None", 0)  # a field of those that follow the width; 0 for the others
    labels = cast("tuple[str, ...]", ())  # a field of the head of labels

    def build(self, *args: Any, **dims: Any) -> Head:
        """dim: width of the model; vocab_size: V."""
        raise NotImplementedError


class Head(LinearMap):
    """Has a `weight` (V, D), which a tied model replaces by its embedding's; a Transform changes the head alone."""

    remembers: ClassVar[bool] = False  # whether it looks at earlier tokens, and so has a state

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> LayerState | None:
        """What the head remembers while decoding; None for a head that looks at one token alone."""
        return None

    def logits(self, hidden: Tensor, context: Context, state: Any = None, last: Tensor | None = None) -> Tensor:
        """Hidden states (B, T, D) -> (B, T, V) in float32 at least; (B, 1, V) at the index `last` (B,) where given."""
        raise NotImplementedError

    def remember(self, hidden: Tensor, context: Context, state: Any) -> None:
        """Take note of tokens whose logits nobody asked for."""

    def nll(self, hidden: Tensor, targets: Tensor, context: Context, reduction: Literal["sum", "none"]) -> Tensor:
        """Negative log-likelihood of `targets` (B, T): the sum, or (B, T) with 0 where there is no target."""
        raise NotImplementedError

    def entropy(self, hidden: Tensor, context: Context) -> Tensor:
        """Entropy in nats of each place's distribution: (B, T, D) -> (B, T), with a gradient.

        The linear head computes it in chunks; a head that looks back makes the distributions (B, T, V).
        """
        raise NotImplementedError

    def flops(self, keys: float) -> float:
        """Matrix-product FLOPs of one token, forward, where it has `keys` tokens before it on average."""
        raise NotImplementedError
