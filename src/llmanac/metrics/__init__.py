"""What a result is worth, as a number: formulas over plain arrays. Whoever calls a model hands in what it said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from llmanac.core.spec import Spec


@dataclass(frozen=True, kw_only=True)
class MetricSpec(Spec):
    """Base of every metric's Spec; `build()` gives the function that computes it."""

    kind: ClassVar[str] = "metric"

    def build(self, **dims: Any) -> Callable[..., Any]:
        """A metric has no dimensions."""
        raise NotImplementedError
