"""A constant rate after a linear warm-up.

    lr_scale(s) = min(1, (s + 1) / w)

The baseline of every schedule, and what fine-tuning for a few steps needs.

Paper: Goyal et al. 2017 (https://arxiv.org/abs/1706.02677), section 2.2, for the warm-up.
"""

from dataclasses import dataclass
from typing import Any

from llmanac.core.ranges import FRACTION, within
from llmanac.train.schedules import Schedule, ScheduleSpec, warm

CARD = {
    "title": "Constant",
    "paper": "https://arxiv.org/abs/1706.02677",
    "reference": "transformers.get_constant_schedule_with_warmup",
    "test": "tests/references/test_schedules.py::test_constant_equals_transformers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(ScheduleSpec):
    """Attributes: warmup: fraction of the run spent on warming up."""

    warmup: float = 0.0

    ranges = within(FRACTION, "warmup")

    def build(self, *, steps: int, **dims: Any) -> Schedule:
        """The schedule of a run of `steps` steps."""
        first = round(self.warmup * steps)
        return lambda step: warm(step, first)
