"""Optimizers: each updates parameters in groups by role, and its state is tensors by name (never a pickle)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from llmanac.core.spec import Spec


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec(Spec):
    """Describes an optimizer. `build(model=...)` gives one over every trainable parameter of the model."""

    kind = "optimizer"
    base_dim = cast("int | None", 0)  # a field of those whose rate follows the width; 0 for the others

    def settle(self, device: Any) -> OptimizerSpec:
        """The same with everything settled that is left to measuring; what a run writes down before its first step."""
        return self

    def build(self, *args: Any, **dims: Any) -> Any:
        """Build over `model`'s parameters, or over `parameters`, a list of (name, tensor, role)."""
        raise NotImplementedError
