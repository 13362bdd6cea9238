"""The ranges of Specs' numbers, checked as a Spec is made."""

from __future__ import annotations

import math

from llmanac.core.errors import SpecError
from llmanac.core.spec import Spec

FRACTION = (0, 1)
POSITIVE = (1, math.inf)  # of integers


def check_ranges(spec: Spec, **ranges: tuple[float, float]) -> None:
    """Raise SpecError for a field outside its range, both ends included. A field that is not set (None) is in any."""
    for name, (low, high) in ranges.items():
        value = getattr(spec, name)
        if value is not None and not low <= value <= high:
            allowed = f"from {low} to {high}" if high < math.inf else f"at least {low}"
            raise SpecError(f"{name}: {value} is not {allowed}")
