"""DDIM: the noise that was found is put back at the next, lower level; without new noise the path is a fixed one.

    x_{t-1} = sqrt(a') x_0 + sqrt(1 - a' - s^2) e + s z,    s = eta sqrt((1 - a') / (1 - a) (1 - a / a'))

A denoiser trained for T steps is sampled in few; `eta` 1 is DDPM's noise. Song, Meng & Ermon 2020, arXiv:2010.02502.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llmanac.core.ranges import FRACTION, within
from llmanac.models.images.samplers import Predicts, Sampler, SamplerSpec, Schedule

CARD = {
    "title": "DDIM sampler",
    "paper": "Song, Meng & Ermon 2020, arXiv:2010.02502",
    "reference": "DDIMScheduler in diffusers, step by step",
    "test": "tests/references/test_diffusion.py::test_steps_equal_diffusers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(SamplerSpec):
    """eta: how much noise is new."""

    eta: float = 0.0

    ranges = within(FRACTION, "eta")

    def build(self, *, predicts: Predicts = "noise", schedule: Schedule = "cosine", **dims: Any) -> DDIM:
        return DDIM(self, predicts, schedule)


class DDIM(Sampler):
    """See the module."""

    def noisy(self, number: int) -> bool:
        return bool(self.spec.eta)

    def step(self, found: Tensor, number: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        a, after = self.levels(number)
        clean, e = self.image(found, x, a)
        s = self.spec.eta * ((1 - after) / (1 - a) * (1 - a / after)).sqrt()
        y = after.sqrt().item() * clean + (1 - after - s**2).clamp(min=0).sqrt().item() * e
        return y if noise is None else y + s.item() * noise
