"""Samplers: from noise to an image in a few steps, given what a denoiser predicts. All over one noise schedule.

Diffusion mixes an image with noise, x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e, t = 0 .. T - 1; a_t falls from 1 towards 0.
A denoiser predicts e (`noise`), x_0 (`image`) or v = sqrt(a_t) e - sqrt(1 - a_t) x_0 (`velocity`). Flow matching mixes
x_s = (1 - s) x_0 + s e and predicts e - x_0 (`flow`).
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.core.ranges import NOT_NEGATIVE, Range, within
from llmanac.core.spec import Spec

Predicts = Literal["noise", "image", "velocity", "flow"]
Schedule = Literal["linear", "cosine"]
TRAINED = 1000  # T
Denoise = Callable[[Tensor, Tensor], Tensor]  # (x, times (B,)) -> what it predicts


@dataclass(frozen=True, kw_only=True)
class SamplerSpec(Spec):
    """`build(predicts=, schedule=) -> Sampler`. steps: of the denoiser; clip: the bound of x_0, 0 for none."""

    kind = "sampler"
    steps: int = 50
    clip: float = 1.0

    ranges = within(Range(1, TRAINED), "steps") | within(NOT_NEGATIVE, "clip")

    def build(self, *, predicts: Predicts = "noise", schedule: Schedule = "cosine", **dims: Any) -> Any:
        raise NotImplementedError


def signal(schedule: Schedule) -> Tensor:
    """(T,) a_t in float64: a product of 1 - beta, with beta from 1e-4 to 0.02, or that of a squared cosine."""
    if schedule == "linear":
        betas = torch.linspace(1e-4, 0.02, TRAINED, dtype=torch.float64)
    else:
        level = [math.cos((t / TRAINED + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(TRAINED + 1)]
        betas = torch.tensor([min(1 - b / a, 0.999) for a, b in itertools.pairwise(level)], dtype=torch.float64)
    return (1 - betas).cumprod(0)


class Sampler:
    """Steps from noise to an image.

    Attributes:
        times: what the denoiser is told at each step, from much noise to little.
    """

    times: list[float]

    def __init__(self, spec: Any, predicts: Predicts, schedule: Schedule) -> None:
        self.spec, self.predicts = spec, predicts
        self.a = signal(schedule)
        self.times = [float(t) for t in reversed(range(0, TRAINED, TRAINED // spec.steps))][-spec.steps :]

    def step(self, found: Tensor, number: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """x after step `number`, given what the denoiser found at `times[number]`; `noise` is normal, like x."""
        raise NotImplementedError

    def noisy(self, number: int) -> bool:
        """Whether step `number` adds noise."""
        return False

    def levels(self, number: int) -> tuple[Tensor, Tensor]:
        """a_t at a step and at the next one, which is 1 after the last."""
        t = int(self.times[number])
        before = t - TRAINED // self.spec.steps
        return self.a[t], self.a[before] if before >= 0 else torch.ones((), dtype=torch.float64)

    def image(self, found: Tensor, x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """x_0, within the bound, and e that a prediction means."""
        a = a.to(x.device, x.dtype)
        if self.predicts == "noise":
            clean, noise = (x - (1 - a).sqrt() * found) / a.sqrt(), found
        elif self.predicts == "image":
            clean, noise = found, (x - a.sqrt() * found) / (1 - a).sqrt()
        elif self.predicts == "velocity":
            clean, noise = a.sqrt() * x - (1 - a).sqrt() * found, a.sqrt() * found + (1 - a).sqrt() * x
        else:
            raise SpecError(f"predicts: {self.predicts} is sampled by `flow`, not by {self.spec.name}")
        return clean.clamp(-self.spec.clip, self.spec.clip) if self.spec.clip else clean, noise

    @torch.no_grad()
    def sample(self, denoise: Denoise, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noise x (B, C, H, H) -> images, by `denoise(x, times (B,))`."""
        for number, time in enumerate(self.times):
            found = denoise(x, torch.full((len(x),), time, device=x.device))
            noise = None
            if self.noisy(number):
                noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            x = self.step(found, number, x, noise)
        return x
