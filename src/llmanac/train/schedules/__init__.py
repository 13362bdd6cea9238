"""Learning-rate schedules: a function of the step that gives the factor on the base rate."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmanac.core.spec import Spec

# Step (from 0) -> factor on the base rate. A training whose number of steps is revised asks between two steps as well.
Schedule = Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec(Spec):
    """Describes a schedule. `warmup` and `decay` are fractions of the run, whatever its number of steps."""

    kind = "schedule"

    def build(self, *args: Any, **dims: Any) -> Schedule:
        """The schedule of a run of `steps` steps."""
        raise NotImplementedError


def warm(step: float, steps: int) -> float:
    """Linear warm-up over `steps`: 1 / steps at step 0, so that no step is wasted at rate 0; 1 from then on."""
    return min(1.0, (step + 1) / steps) if steps else 1.0
