"""Which domain the next draw comes from: exact proportions at every moment, from a state of one count a domain.

The j-th draw of domain i (j from 0) belongs into the window from floor(j / p_i) to ceil((j + 1) / p_i): a schedule
that keeps every window has drawn, after any n, within 1 of n p_i of each domain. Of the domains whose next window is
open, the one that closes first is drawn. With shares that sum to 1 this earliest-deadline rule keeps every window
whenever any rule does, and one does (Tijdeman 1980, the chairman assignment; Liu & Layland 1973 for the optimality).
All numbers are integers, so neither rounding nor the place of an interruption can change a draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


class ByteSchedule(Schedule):
    """Proportions of bytes: the next draw is from the domain whose next document has its middle earliest.

    With b_i bytes drawn from domain i and s_i in its next document, that is the smallest (b_i + s_i / 2) / p_i. Every
    b_i is within half a document of p_i times a common level, however many are drawn.

    Args:
        sizes: by domain, the bytes of its documents in the order they are drawn, over and over.
    """

    def __init__(self, shares: Mapping[str, float | Fraction], sizes: Mapping[str, Sequence[int]]) -> None:
        super().__init__(shares)
        self.bytes = [0] * len(self.names)
        self._sizes = [sizes[name] for name in self.names]
        self._middles = [self._middle(k) for k in range(len(self.names))]

    def _size(self, k: int) -> int:
        return int(self._sizes[k][self.counts[k] % len(self._sizes[k])])

    def _middle(self, k: int) -> int:
        return 2 * self.bytes[k] + self._size(k)

    def _pick(self) -> int:
        best = 0
        for k, weight in enumerate(self.weights):
            if self._middles[k] * self.weights[best] < self._middles[best] * weight:
                best = k
        return best

    def __next__(self) -> str:
        k = self._pick()
        self.bytes[k] += self._size(k)
        self.counts[k] += 1
        self.drawn += 1
        self._middles[k] = self._middle(k)
        return self.names[k]

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {**super().state()[0], "bytes": list(self.bytes)}, {}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        super().restore(state, tensors)
        self.bytes = [int(size) for size in state["bytes"]]
        self._middles = [self._middle(k) for k in range(len(self.names))]
