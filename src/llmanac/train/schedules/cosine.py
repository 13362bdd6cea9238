"""Cosine decay after a linear warm-up.

    lr_scale(s) = (s + 1) / w                                            for s < w
    lr_scale(s) = floor + (1 - floor) (1 + cos(pi (s - w) / (n - w))) / 2    after

The rate falls slowly at both ends. Its length has to be known beforehand: a run that stops early has not cooled down.

Paper: Loshchilov and Hutter 2017 (https://arxiv.org/abs/1608.03983), equation 5, without restarts.
"""

import math
from dataclasses import dataclass
from typing import Any

from llmanac.core.ranges import FRACTION, within
from llmanac.train.schedules import Schedule, ScheduleSpec, warm

CARD = {
    "title": "Cosine decay",
    "paper": "https://arxiv.org/abs/1608.03983",
    "reference": "transformers.get_cosine_schedule_with_warmup",
    "test": "tests/references/test_schedules.py::test_cosine_equals_transformers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(ScheduleSpec):
    """Attributes: warmup: fraction of the run for warm-up. floor: fraction of the rate at which the decay ends."""

    warmup: float = 0.03
    floor: float = 0.1

    ranges = within(FRACTION, "warmup floor")

    def build(self, *, steps: int, **dims: Any) -> Schedule:
        """The schedule of a run of `steps` steps."""
        first = round(self.warmup * steps)

        def lr_scale(step: float) -> float:
            if step < first:
                return warm(step, first)
            done = min(1.0, (step - first) / max(1, steps - first))
            return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2

        return lr_scale
