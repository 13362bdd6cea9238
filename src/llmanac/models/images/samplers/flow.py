"""Flow matching, by Euler's method: walk from noise to the image along the direction that the model predicts.

    x_{s'} = x_s + (s' - s) v(x_s, s),    s from 1 to 0,  v ~ e - x_0

`shift` spends more steps where there is much noise: s -> k s / (1 + (k - 1) s).
Lipman et al. 2022, arXiv:2210.02747; Esser et al. 2024, arXiv:2403.03206 for the shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.core.ranges import POSITIVE, within
from llmanac.models.images.samplers import TRAINED, Predicts, Sampler, SamplerSpec, Schedule

CARD = {
    "title": "Flow matching (Euler)",
    "paper": "Lipman et al. 2022, arXiv:2210.02747",
    "reference": "FlowMatchEulerDiscreteScheduler in diffusers, step by step",
    "test": "tests/references/test_diffusion.py::test_steps_equal_diffusers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(SamplerSpec):
    """shift: k; clip is not used."""

    shift: float = 1.0

    ranges = within(POSITIVE, "shift")

    def build(self, *, predicts: Predicts = "flow", schedule: Schedule = "cosine", **dims: Any) -> Flow:
        if predicts != "flow":
            raise SpecError(f"predicts: flow matching needs a model of the flow, not of the {predicts}")
        return Flow(self, predicts, schedule)


class Flow(Sampler):
    """See the module. `levels_of` lists s of every step, and 0."""

    def __init__(self, spec: Any, predicts: Predicts, schedule: Schedule) -> None:
        super().__init__(spec, predicts, schedule)
        last, k = 1 / TRAINED, spec.shift
        last = k * last / (1 + (k - 1) * last)
        plain = [1 - (1 - last) * i / max(1, spec.steps - 1) for i in range(spec.steps)]
        self.levels_of = [k * s / (1 + (k - 1) * s) for s in plain] + [0.0]
        self.times = [TRAINED * s for s in self.levels_of[:-1]]

    def step(self, found: Tensor, number: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return x + (self.levels_of[number + 1] - self.levels_of[number]) * found
