"""Temperature: the logits divided by T before the softmax.

    p_T(v) = exp(z_v / T) / sum_u exp(z_u / T),    log p_T(u) / p_T(v) = (1 / T) log p_1(u) / p_1(v)

Every pair's log-odds are scaled by exactly 1 / T: T < 1 sharpens, T > 1 flattens, T -> 0 is greedy decoding, T = 1
changes nothing. Logits (B, V) in, logits (B, V) out; each row's maximum is subtracted first, which changes no
probability and keeps a very small T from overflowing.
"""

import math
from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import SpecError
from llmanac.generate.decoding import Array, DecodingSpec, LogitsProcessor, Sequences

CARD = {
    "title": "Temperature sampling",
    "paper": "Ackley, Hinton & Sejnowski 1985, A Learning Algorithm for Boltzmann Machines",
    "reference": "transformers TemperatureLogitsWarper",
}


@dataclass(frozen=True, kw_only=True)
class Spec(DecodingSpec):
    """`temperature` T > 0."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SpecError(f"temperature: {self.temperature} is not above 0; for T = 0 use greedy")

    def build(self, **dims: Any) -> LogitsProcessor:
        temperature = self.temperature

        def scale(logits: Array, sequences: Sequences = ()) -> Array:
            return (logits - logits.max(-1, keepdims=True)) / temperature

        return scale
