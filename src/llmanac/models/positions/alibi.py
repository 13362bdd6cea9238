"""Attention with linear biases (ALiBi): a key's score falls with its distance, at a rate of each head's own.

    score(i, j) = q_i . k_j / sqrt(d) - m_h |i - j|        m_h = 2^(-max_exponent h / H),  h = 1 .. H

Nothing is learned, and no length is out of range. Where H is not a power of two, the slopes are those of the next
smaller power followed by every second one of the next larger. The bias is (B or 1, H, T, S). BLOOM adds m_h j and MPT
m_h (j - T + 1): under a causal mask both differ from this by a constant a query, which softmax does not see; their
slopes are the same. Press et al. 2022, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmanac.core.ranges import POSITIVE, within
from llmanac.models.positions import Position, PositionSpec

CARD = {
    "title": "Linear biases (ALiBi)",
    "paper": "Press et al. 2022, arXiv:2108.12409",
    "reference": "build_alibi_tensor of BLOOM and build_mpt_alibi_tensor of MPT in transformers",
    "test": "tests/references/test_relative_positions.py::test_alibi_equals_bloom_and_mpt",
    "claim": "docs/evidence/extrapolation/page.md",
}


@dataclass(frozen=True, kw_only=True)
class Spec(PositionSpec):
    """max_exponent: the last head's slope is 2 to minus this (`alibi_bias_max` of MPT)."""

    any_heads: ClassVar[bool] = False

    max_exponent: float = 8.0

    ranges = within(POSITIVE, "max_exponent")

    def build(self, *, heads: int, **dims: Any) -> LinearBias:
        return LinearBias(heads, self.max_exponent)


class LinearBias(Position):
    """See the module."""

    compares = True

    def __init__(self, heads: int, max_exponent: float) -> None:
        super().__init__()
        self.slopes = slopes(heads, max_exponent)

    def bias(self, queries: Tensor, keys: Tensor) -> Tensor:
        distances = (queries[:, :, None] - keys[:, None, :]).abs()
        rates = torch.tensor(self.slopes, dtype=torch.float32, device=distances.device)
        return distances[:, None] * -rates[:, None, None]


def slopes(heads: int, max_exponent: float) -> list[float]:
    """m of each head."""
    power = 1 << (heads.bit_length() - 1)  # the largest power of two that is not above `heads`
    first = [2 ** (-max_exponent * h / power) for h in range(1, power + 1)]
    between = [2 ** (-max_exponent * h / (2 * power)) for h in range(1, 2 * power, 2)]
    return first + between[: heads - power]
