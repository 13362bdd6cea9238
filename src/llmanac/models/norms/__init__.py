"""Normalisation of hidden states."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from llmanac.core.spec import Spec


@dataclass(frozen=True, kw_only=True)
class NormSpec(Spec):
    """`build(dim=) -> nn.Module` that maps (..., dim) to (..., dim)."""

    kind = "norm"

    def build(self, *args: Any, **dims: Any) -> nn.Module:
        """dim: size of the last axis, the one that is normalised."""
        raise NotImplementedError
