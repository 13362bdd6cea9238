"""Rows of several streams in exact proportion: `data/pack.py`'s Mixture with `data/schedule.py`'s draws.

Mixture draws each row at random, so that after n rows a stream is off its share by about sqrt(n p (1 - p)) rows;
here it is never off by one. What the streams give is the same, and so is how a run resumes.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from llmanac.data.pack import Mixture, RowSource
from llmanac.data.schedule import Schedule


class Proportional(Mixture):
    """Rows of several streams, each row's stream by the schedule.

    Args:
        streams: the parts by name; each has `take`.
        weights: how large a part of the rows each is; any positive scale.

    Raises:
        SpecError: weights that are not positive, or that name other parts than `streams`.
    """

    def __init__(
        self, streams: Mapping[str, RowSource], weights: Mapping[str, float | Fraction], *, rows: int = 1
    ) -> None:
        super().__init__(streams, {name: float(weight) for name, weight in weights.items()}, rows=rows)
        self.schedule = Schedule(weights)

    def take(self, count: int) -> list[Any]:
        """The next `count` rows; any number may be taken at a time."""
        picks = [next(self.schedule) for _ in range(count)]
        self.drawn += count
        queues = {name: iter(self.streams[name].take(picks.count(name))) for name in sorted(set(picks))}
        return [next(queues[name]) for name in picks]

    def cursor(self) -> dict[str, Any]:
        """How many rows were drawn of each part, and every part's own cursor."""
        return {**super().cursor(), "schedule": self.schedule.cursor()}

    def seek(self, cursor: dict[str, Any]) -> None:
        """Go on from a cursor. Raises DataError when it belongs to other parts or weights."""
        self.schedule.seek(cursor.get("schedule", {}))
        super().seek(cursor)
