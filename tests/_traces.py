"""What a computation allocates, from the allocator's own events, and how that grows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmanac.lab.complexity import slope
from llmanac.lab.costs import allocated

__all__ = ["peak_bytes", "slope"]


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most bytes that a call holds at a time, besides what was there before."""
    run()
    found = allocated(run)
    assert found is not None
    return found
