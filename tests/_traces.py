"""What a computation allocates, from the allocator's own events, and how that grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most bytes that a call holds at a time, besides what was there before."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        run()
    held = most = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The power of the size that the values grow with."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
