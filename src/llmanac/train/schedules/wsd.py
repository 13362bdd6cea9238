"""Warm-up, stable, decay: the full rate for most of the run, then a straight line down.

    lr_scale(s) = (s + 1) / w                                   for s < w
    lr_scale(s) = 1                                             until s = n - d
    lr_scale(s) = floor + (1 - floor) (n - s) / d                   after

Every checkpoint of the stable part can be gone on from, and any number of tokens can be ended with a short decay: the
length of the run need not be known when it starts.

Papers: Hu et al. 2024 (https://arxiv.org/abs/2404.06395), section 4.3; Hagele et al. 2024
(https://arxiv.org/abs/2405.18392) for the linear decay.
"""

from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import SpecError
from llmanac.core.ranges import FRACTION, within
from llmanac.train.schedules import Schedule, ScheduleSpec, warm

CARD = {
    "title": "Warm-up, stable, decay",
    "paper": "https://arxiv.org/abs/2404.06395",
    "reference": "transformers.get_wsd_schedule",
    "test": "tests/references/test_schedules.py::test_wsd_equals_transformers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(ScheduleSpec):
    """Attributes: warmup, decay: fractions of the run. floor: the fraction of the rate where the decay ends."""

    warmup: float = 0.03
    decay: float = 0.4
    floor: float = 0.0

    ranges = within(FRACTION, "warmup decay floor")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup + self.decay > 1 + 1e-9:
            raise SpecError("warmup and decay: together more than the whole run")

    def build(self, *, steps: int, **dims: Any) -> Schedule:
        """The schedule of a run of `steps` steps."""
        first, last = round(self.warmup * steps), round(self.decay * steps)

        def lr_scale(step: float) -> float:
            left = (steps - step) / last if last else 1.0
            return min(warm(step, first), self.floor + (1 - self.floor) * max(0.0, min(1.0, left)))

        return lr_scale
