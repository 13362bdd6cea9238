"""Metrics: formulas over plain arrays. They call no model; the caller passes what the model returned."""

from dataclasses import dataclass
from typing import ClassVar

from llmanac.core.spec import Spec
from llmanac.metrics._battles import OUTCOMES as OUTCOMES
from llmanac.metrics._battles import Battles as Battles
from llmanac.metrics._items import ItemSums as ItemSums
from llmanac.metrics._items import Metric as Metric
from llmanac.metrics._porter import stem as stem
from llmanac.metrics._texts import utf8_bytes as utf8_bytes
from llmanac.metrics._texts import words as words
from llmanac.metrics.statistics.intervals import Z as Z
from llmanac.metrics.statistics.intervals import share_interval as share_interval
from llmanac.metrics.statistics.intervals import wilson_interval as wilson_interval


@dataclass(frozen=True, kw_only=True)
class MetricSpec(Spec):
    """Base of every metric's Spec; `build()` returns the function that computes it."""

    kind: ClassVar[str] = "metric"
