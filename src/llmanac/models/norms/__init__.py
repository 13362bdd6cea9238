"""Normalisation of hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from llmanac.core.errors import SpecError
from llmanac.core.spec import Spec


@dataclass(frozen=True, kw_only=True)
class NormSpec(Spec):
    """`build(dim=) -> nn.Module` that maps (..., dim) to (..., dim)."""

    kind = "norm"

    def build(self, *args: Any, **dims: Any) -> nn.Module:
        """dim: size of the last axis, the one that is normalised."""
        raise NotImplementedError


def check_eps(eps: float) -> None:
    """Raises SpecError where `eps` is not above 0 and below 1 (it is added to a mean square)."""
    if not eps > 0:
        raise SpecError(f"eps: {eps} must be above 0")
    if eps >= 1:
        raise SpecError(f"eps: {eps} must be below 1; it is usually 1e-5 or 1e-6")
