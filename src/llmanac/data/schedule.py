"""Which domain the next draw comes from: exact proportions at every moment, from a state of one count a domain.

The j-th draw of domain i (j from 0) belongs into the window from floor(j / p_i) to ceil((j + 1) / p_i): a schedule
that keeps every window has drawn, after any n, within 1 of n p_i of each domain. Of the domains whose next window is
open, the one that closes first is drawn. With shares that sum to 1 this earliest-deadline rule keeps every window
whenever any rule does, and one does (Tijdeman 1980, the chairman assignment; Liu & Layland 1973 for the optimality).
All numbers are integers, so neither rounding nor the place of an interruption can change a draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from llmanac.core.errors import DataError, SpecError

DENOMINATOR = 1 << 53  # shares given as floats are taken at this resolution


class Schedule:
    """An endless sequence of domains' names in stated proportions.

    Args:
        shares: positive weights, on any scale; Fractions and integers are taken exactly, floats to 2^-53 of their sum.

    Raises:
        SpecError: no domain, or a share that is not a positive finite number.
    """

    def __init__(self, shares: Mapping[str, float | Fraction]) -> None:
        if not shares or any(not share > 0 or share == math.inf for share in shares.values()):
            raise SpecError(f"shares: {dict(shares)} are not all positive; leave a domain out to give it nothing")
        self.names = sorted(shares)
        exact = [Fraction(shares[name]) for name in self.names]
        if any(isinstance(share, float) for share in shares.values()):
            total = sum(exact)
            exact = [Fraction(max(1, round(share / total * DENOMINATOR))) for share in exact]
        common = math.lcm(*(share.denominator for share in exact))
        weights = [int(share * common) for share in exact]
        divisor = math.gcd(*weights)
        self.weights = [weight // divisor for weight in weights]
        self.total = sum(self.weights)
        self.counts = [0] * len(self.names)
        self.drawn = 0
        self._deadlines = [self._deadline(k) for k in range(len(self.names))]

    def _deadline(self, k: int) -> int:
        return -((self.counts[k] + 1) * self.total // -self.weights[k])

    def peek(self) -> str:
        """The name that `next` will give."""
        return self.names[self._pick()]

    def _pick(self) -> int:
        after = self.drawn + 1
        best, earliest = -1, 0
        for k, weight in enumerate(self.weights):
            open_ = self.counts[k] * self.total < after * weight
            if open_ and (best < 0 or self._deadlines[k] < earliest):
                best, earliest = k, self._deadlines[k]
        return best

    def __next__(self) -> str:
        k = self._pick()
        self.counts[k] += 1
        self.drawn += 1
        self._deadlines[k] = self._deadline(k)
        return self.names[k]

    def __iter__(self) -> Schedule:
        return self

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The sequence's place, as JSON, and no tensors (see `core.types.Source`)."""
        return {"drawn": dict(zip(self.names, self.counts, strict=True)), "weights": list(self.weights)}, {}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        """Continue from a state. Raises DataError when it belongs to other domains or shares."""
        if sorted(state.get("drawn", {})) != self.names or state.get("weights") != self.weights:
            raise DataError(
                f"the state of the mixture has the domains {sorted(state.get('drawn', {}))} with the weights "
                f"{state.get('weights')}, not {self.names} with {self.weights}; resume with the same shares"
            )
        self.counts = [int(state["drawn"][name]) for name in self.names]
        self.drawn = sum(self.counts)
        self._deadlines = [self._deadline(k) for k in range(len(self.names))]
