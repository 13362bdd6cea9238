"""What is measured, and its values by item (a held-out document, row or example)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One measured quantity: its name, its unit, and in which direction it is better."""

    name: str
    unit: str
    better: Literal["lower", "higher"]
    title: str = ""


@dataclass(frozen=True)
class ItemSums:
    """A metric's values, item by item, as sums and the units that each sums over (bytes, tokens, 1 for an example).

    Attributes:
        sums, units: (N,) one an item. An item's value is sum / units; that of all items is the sum of both divided.
    """

    sums: Sequence[float]
    units: Sequence[float]

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def mean(self) -> float:
        """The value of all items together; NaN where nothing was measured."""
        units = math.fsum(self.units)
        return math.fsum(self.sums) / units if units else math.nan

    @property
    def values(self) -> list[float]:
        """One value an item; NaN where an item has no units."""
        return [s / u if u else math.nan for s, u in zip(self.sums, self.units, strict=True)]
