"""Feed-forward layers: what a block does to each token by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.spec import Spec
from llmanac.models.forward import Context

Activation = Literal["relu", "relu-squared", "gelu", "gelu-tanh", "quick-gelu", "silu", "identity"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu-squared": lambda x: F.relu(x).square(),
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick-gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "identity": lambda x: x,
}


class FFN(Protocol):
    """A module that maps (..., D) to (..., D), each token alone; losses of its own go to the context."""

    def __call__(self, x: Tensor, context: Context) -> Tensor: ...
    def flops(self) -> float:
        """Matrix-product FLOPs of one token, forward."""


@dataclass(frozen=True, kw_only=True)
class FFNSpec(Spec):
    """`build(dim=) -> FFN`, or None for no layer."""

    kind = "ffn"
    experts = cast("int | None", None)  # a field of mixtures of experts

    def resolved(self, dim: int) -> FFNSpec:
        """The same with every size that was left open filled in."""
        return self

    def build(self, *args: Any, **dims: Any) -> Any:
        """dim: width of the model."""
        raise NotImplementedError
