"""Rotary positions (RoPE): queries and keys are turned by an angle that grows with their position.

    [u'; v'] = [u cos(p w_i) - v sin(p w_i);  v cos(p w_i) + u sin(p w_i)]      w_i = theta^(-2i/d),  i < d/2

u and v are the first and the second half of a head (the layout of Llama checkpoints), or its even and odd numbers
(`layout="pairs"`, that of GLM and DeepSeek; queries and keys then leave as halves, which no score depends on). Since
rotations compose, the score of a query at p and a key at s depends on p - s alone, and nothing is learned. Queries and
keys are (B, T, H, d). Angles are computed in float32 whatever the model computes in, as every released checkpoint was
trained.

`scaling` (`scaling.py`) changes the frequencies by `factor` for rows longer than the trained ones, `original_length`:

    type        further fields
    linear
    dynamic
    yarn        low_frequency_factor, high_frequency_factor, attention_factor, ramp ("whole" or "exact")
    llama3      low_frequency_factor, high_frequency_factor
    longrope    short_factors and long_factors, a number for each pair of a head; attention_factor

Su et al. 2021, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmanac.core.errors import SpecError
from llmanac.core.ranges import POSITIVE, SOME, within
from llmanac.kernels.nn.takes import fused, operation
from llmanac.models.positions import Position, PositionSpec
from llmanac.models.scaling import Scaling

CARD = {
    "use": """-s 'model.position={name="rope",scaling={type="yarn",factor=4,original_length=2048}}'""",
    "title": "Rotary positions (RoPE)",
    "paper": "Su et al. 2021, arXiv:2104.09864",
    "reference": "transformers.LlamaForCausalLM",
}


@dataclass(frozen=True, kw_only=True)
class Spec(PositionSpec):
    """theta: base of the wavelengths; rotary_fraction: of each head is rotated; scaling: for longer contexts.

    layout: where the two numbers are that turn together: `halves` apart, or next to each other as `pairs`.
    """

    any_head_dim: ClassVar[bool] = False
    scales: ClassVar[bool] = True
    renamed: ClassVar[Mapping[str, str]] = {"share": "rotary_fraction"}

    theta: float = 10_000.0
    rotary_fraction: float = 1.0
    scaling: Scaling | None = None
    layout: Literal["halves", "pairs"] = "halves"

    ranges = within(POSITIVE, "theta") | within(SOME, "rotary_fraction")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scaling is not None and self.scaling.type == "yarn" and self.theta <= 1:
            raise SpecError(f"theta: {self.theta} must be above 1 for yarn")

    def build(self, *, head_dim: int, **dims: Any) -> Rotary:
        turned = int(head_dim * self.rotary_fraction)
        if turned % 2:
            raise SpecError(f"rotary_fraction: rotates {turned} of {head_dim} numbers a head, which must be even")
        if self.scaling is not None:
            self.scaling.check(turned // 2)
        return Rotary(turned, self.theta, self.scaling, self.layout)


class Rotary(Position):
    """See the module."""

    def __init__(
        self, turned: int, theta: float, scaling: Scaling | None, layout: Literal["halves", "pairs"] = "halves"
    ) -> None:
        super().__init__()
        self.layout = layout
        self.turned, self.theta, self.scaling = turned, theta, scaling
        self.by_length = scaling is not None and scaling.by_length
        # not a buffer: casting the model must not cast the frequencies
        # without memory on the meta device; torch's arange would import its compiler there
        empty = torch.empty(-(-turned // 2))
        self.frequencies = empty if empty.is_meta else self._frequencies()

    def _frequencies(self) -> Tensor:
        """(turned / 2,), unscaled where scaling depends on the row."""
        exponents = torch.arange(0, self.turned, 2, dtype=torch.float32, device="cpu") / self.turned
        frequencies = 1.0 / self.theta**exponents
        if self.scaling is None or self.by_length:
            return frequencies
        return torch.from_numpy(self.scaling.apply(frequencies.numpy(), self.theta))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotary:
        super()._apply(fn, recurse)
        device = fn(torch.zeros(1)).device
        if device.type != "meta":
            known = self._frequencies() if self.frequencies.is_meta else self.frequencies
            self.frequencies = known.to(device)
        return self

    def prepare(self, positions: Tensor, dtype: torch.dtype, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Positions (B or 1, T) -> cosines and signed sines, each (B or 1, T, 1, turned)."""
        frequencies = self.frequencies.to(positions.device)
        if self.by_length:
            assert self.scaling is not None
            lengths = positions.amax(1, keepdim=True) + 1 if lengths is None else lengths
            frequencies = self.scaling.for_lengths(frequencies, self.theta, lengths)[:, :, None]
        angles = positions.float()[:, :, None, None] * frequencies
        cos, sin = angles.cos(), angles.sin()
        if self.scaling is not None and self.scaling.amplitude != 1:
            cos, sin = cos * self.scaling.amplitude, sin * self.scaling.amplitude
        return torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype)

    def lasts(self, tokens: int) -> int:
        assert self.scaling is not None
        return self.scaling.lasts(tokens)

    def rotate(self, x: Tensor, prepared: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = prepared
        if self.layout == "pairs":
            even, odd = x[..., : self.turned : 2], x[..., 1 : self.turned : 2]
            x = torch.cat([even, odd, x[..., self.turned :]], dim=-1)
        found = operation("turned", x) if torch.compiler.is_compiling() and self.turned == x.shape[-1] else None
        if found is not None:
            return found(x, cos, sin)
        if torch.compiler.is_compiling() or self.turned < x.shape[-1]:
            turned, kept = x.split([self.turned, x.shape[-1] - self.turned], dim=-1)
            return torch.cat([turned * cos + _swapped(turned) * sin, kept], dim=-1)
        if fused(x):
            from llmanac.kernels.nn.pointwise import Rotation  # what is not trained needs no numba

            trained: Tensor = Rotation.apply(x, cos, sin)
            return trained
        y: Tensor = _Rotation.apply(x, cos, sin)
        return y


def _swapped(x: Tensor) -> Tensor:
    """[u; v] -> [v; u]."""
    return x.roll(x.shape[-1] // 2, dims=-1)


class _Rotation(torch.autograd.Function):
    """x cos + swapped(x) sin in two passes; backwards it turns the other way, and nothing of x is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _swapped(x).mul_(sin).addcmul_(x, cos)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _swapped(grad).mul_(-sin).addcmul_(grad, cos), None, None
