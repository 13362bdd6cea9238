"""Blocks: a mixer, a feed-forward layer, and the placement of norms and residual connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmanac.core.spec import Spec
from llmanac.models.mixers import MixerSpec


@dataclass(frozen=True, kw_only=True)
class BlockSpec(Spec):
    """`build(dim=, norm=) -> nn.Module` with a `self_attn` mixer, called with (x, context, state)."""

    kind = "block"

    @property
    def mixers(self) -> tuple[MixerSpec, ...]:
        """The mixers inside, in order."""
        raise NotImplementedError

    def resolved(self, dim: int) -> BlockSpec:
        """The same block with every size that was left open filled in, for a model of width `dim`."""
        return self

    def build(self, *args: Any, **dims: Any) -> Any:
        """dim: width of the model; norm: the NormSpec that the model uses."""
        raise NotImplementedError
