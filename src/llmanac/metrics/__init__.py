"""Metrics: formulas over plain arrays. They call no model; the caller passes what the model returned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llmanac.core.spec import Spec
from llmanac.metrics._intervals import Z as Z
from llmanac.metrics._intervals import wilson_interval as wilson_interval


@dataclass(frozen=True, kw_only=True)
class MetricSpec(Spec):
    """Base of every metric's Spec; `build()` returns the function that computes it."""

    kind: ClassVar[str] = "metric"
