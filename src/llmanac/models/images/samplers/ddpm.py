"""DDPM: each step draws from the Gaussian that undoes a part of the noise.

    x_{t-1} = [sqrt(a') b x_0 + sqrt(1 - b) (1 - a') x_t] / (1 - a) + sqrt(b (1 - a') / (1 - a)) z,    b = 1 - a / a'

a and a' are a_t at this step and at the next. It needs many steps. Ho, Jain & Abbeel 2020, arXiv:2006.11239, eq. 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llmanac.models.images.samplers import Predicts, Sampler, SamplerSpec, Schedule

CARD = {
    "title": "DDPM sampler",
    "paper": "Ho, Jain & Abbeel 2020, arXiv:2006.11239",
    "reference": "DDPMScheduler in diffusers, step by step",
    "test": "tests/references/test_diffusion.py::test_steps_equal_diffusers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(SamplerSpec):
    """See `SamplerSpec`."""

    def build(self, *, predicts: Predicts = "noise", schedule: Schedule = "cosine", **dims: Any) -> DDPM:
        return DDPM(self, predicts, schedule)


class DDPM(Sampler):
    """See the module."""

    def noisy(self, number: int) -> bool:
        return self.times[number] > 0

    def step(self, found: Tensor, number: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        a, after = self.levels(number)
        clean, _ = self.image(found, x, a)
        b = 1 - a / after
        y = (after.sqrt() * b / (1 - a)).item() * clean + ((1 - b).sqrt() * (1 - after) / (1 - a)).item() * x
        return y if noise is None else y + (b * (1 - after) / (1 - a)).clamp(min=1e-20).sqrt().item() * noise
