"""No position information at all (NoPE).

A causal decoder is not blind to order without it: a token's state depends on how many tokens it could attend to.
Every hook of `Position` stays the identity. Kazemnejad et al. 2023, section 3.
"""

from dataclasses import dataclass
from typing import Any

from llmanac.models.positions import Position, PositionSpec

CARD = {
    "title": "No positions (NoPE)",
    "paper": "Kazemnejad et al. 2023, arXiv:2305.19466",
    "reference": "the same model with positions removed",
}


@dataclass(frozen=True, kw_only=True)
class Spec(PositionSpec):
    """Nothing to choose."""

    def build(self, **dims: Any) -> Position:
        return Position()
