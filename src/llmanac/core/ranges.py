"""Ranges of numbers: what the fields of a Spec may be (`Spec.ranges`)."""

import math
import re
from dataclasses import dataclass

from llmanac.core.errors import SpecError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`; `above` leaves out `low` itself, `below` leaves out `high`."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        inside = self.low <= value <= self.high and abs(value) < math.inf  # false for NaN
        return inside and not (self.above and value == self.low) and not (self.below and value == self.high)

    def __str__(self) -> str:
        least = f"{'above' if self.above else 'at least'} {self.low}"
        if self.high == math.inf:
            return least
        if not self.above and not self.below:
            return f"from {self.low} to {self.high}"
        return f"{least} and {'below' if self.below else 'at most'} {self.high}"


COUNT = Range(1)
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
FRACTION = Range(0, 1)  # of a thing, all and nothing included
SOME = Range(0, 1, above=True)  # not nothing
PART = Range(0, 1, below=True)  # not all
INSIDE = Range(0, 1, above=True, below=True)


def within(range: Range, names: str) -> dict[str, Range]:
    """The range of each field that `names` lists, as in `"heads head_dim"`: a part of `Spec.ranges`."""
    return dict.fromkeys(names.split(), range)


def seconds(text: str, field: str = "budget") -> float:
    """`"90s"`, `"5m"`, `"2h"`, `"300"` -> seconds. Raises SpecError that names the field."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(text))
    if not match or float(match[1]) <= 0:
        raise SpecError(f"{field}: {text!r} is not a time; write 90s, 5m or 2h")
    return float(match[1]) * UNITS[match[2] or "s"]
