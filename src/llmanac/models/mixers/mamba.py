"""Mamba: a selective state space. Each channel has a linear recurrence whose step size, input and output depend on x.

    [u; z] = W_in x            u = silu(conv(u))            [d; B; C] = W_x u          dt = softplus(W_dt d + b)
    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t                y_t = C_t . h_t + D u_t    out = W_out (y silu(z))

x (B, T, D), u (B, T, E) with E = expand D, h (B, E, N), A (E, N) negative; conv is depthwise and causal over `kernel`
tokens. Time and memory are linear in T, and decoding keeps h and the last kernel - 1 inputs, whatever the length.

The recurrence is `kernels/nn/scan.py`. Gu & Dao 2023, algorithm 2.

The short causal convolution in front of a selective state space, and the first values of its step sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.ranges import COUNT, within
from llmanac.kernels.nn.scan import selective_scan
from llmanac.models.forward import Context
from llmanac.models.layers import Linear, upcast
from llmanac.models.mixers import Mixer, MixerSpec
from llmanac.models.state.recurrent import RecurrentState

CARD = {
    "title": "Mamba",
    "paper": "Gu & Dao 2023, arXiv:2312.00752",
    "reference": "MambaMixer in transformers",
    "test": "tests/references/test_recurrent.py::test_mamba_equals_transformers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(MixerSpec):
    """states: N; expand: E / D; kernel: tokens of the convolution; rank: of the step size, by default D / 16.

    biases: of W_in and W_out.
    """

    mixes_channels: ClassVar[bool] = True

    states: int = 16
    expand: int = 2
    kernel: int = 4
    rank: int | None = None
    biases: Literal["none", "all"] = "none"

    ranges = within(COUNT, "states expand kernel rank")

    def resolved(self, dim: int) -> Spec:
        return replace(self, rank=self.rank or math.ceil(dim / 16))

    def build(self, *, dim: int, **dims: Any) -> Mamba:
        return Mamba(self, dim)


class Mamba(Mixer):
    """See the module."""

    supports: ClassVar[frozenset[str]] = frozenset({"causal", "packed"})

    def __init__(self, spec: Spec, dim: int) -> None:
        super().__init__()
        self.states, self.kernel = spec.states, spec.kernel
        self.inner, self.rank = spec.expand * dim, spec.rank or math.ceil(dim / 16)
        self.in_proj = Linear(dim, 2 * self.inner, bias=spec.biases == "all")
        self.conv1d = Convolution(self.inner, spec.kernel)
        self.x_proj = Linear(self.inner, self.rank + 2 * self.states)
        self.dt_proj = StepSize(self.rank, self.inner)
        self.A_log = nn.Parameter(torch.empty(self.inner, self.states))
        self.D = nn.Parameter(torch.empty(self.inner))
        self.out_proj = Linear(self.inner, dim, bias=spec.biases == "all", std=0.0)

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> RecurrentState:
        memory = torch.float64 if dtype == torch.float64 else torch.float32
        return RecurrentState([
            torch.zeros(batch, self.inner, self.kernel - 1, dtype=dtype, device=device),
            torch.zeros(batch, self.inner, self.states, dtype=memory, device=device),
        ])  # fmt: skip

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        held = None if state is None or context.slots is None else state.tensors
        u, z = self.in_proj(x).transpose(1, 2).chunk(2, dim=1)
        before = u.new_zeros(*u.shape[:2], self.kernel - 1) if held is None else held[0]
        stream = torch.cat([before.to(u.dtype), u], dim=-1)
        real = context.real()
        u = F.silu(self.conv1d(stream, context.segments))
        step, inputs, outputs = self.x_proj(u.transpose(1, 2)).split([self.rank, self.states, self.states], dim=-1)
        dt = F.softplus(upcast(self.dt_proj(step)))
        if real is not None:
            dt = dt * real[..., None]  # exp(0) = 1 and no input: padding leaves the state as it is
        driver = upcast(u).transpose(1, 2)
        a = -torch.exp(upcast(self.A_log))
        h = driver.new_zeros(len(x), self.inner, self.states) if held is None else held[1]
        y, h = selective_scan(driver, dt, a, upcast(inputs), upcast(outputs), h, context.document_starts())
        y = y + driver * upcast(self.D)
        if state is not None and context.slots is not None:
            state.update(last_inputs(stream, context.slots.lengths, self.kernel - 1), h)
        out: Tensor = self.out_proj((y * F.silu(upcast(z)).transpose(1, 2)).to(x.dtype))
        return out

    def flops(self, keys: float) -> float:
        """The products and the convolution; the scan's 6 E N elementwise operations are no products."""
        parts = (self.in_proj, self.x_proj, self.dt_proj, self.out_proj, self.conv1d)
        return 2.0 * sum(p.weight.numel() for p in parts)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if name == "A_log":  # A = -1 .. -N: one decay rate a state, the paper's S4D-real
            parameter.copy_(torch.arange(1, self.states + 1, dtype=torch.float64).log().expand_as(parameter))
        else:
            parameter.fill_(1.0)


class StepSize(Linear):
    """The last product of the step size; its bias starts so that softplus gives 0.001 to 0.1, evenly in the log."""

    def __init__(self, rank: int, inner: int) -> None:
        super().__init__(rank, inner, bias=True)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if name == "weight":
            super().init_parameter(name, parameter, generator)
            return
        init_step(parameter, generator)


def last_inputs(stream: Tensor, lengths: Tensor | None, count: int) -> Tensor:
    """The last `count` real inputs of (B, E, count + T), of which the first `count` came before."""
    if lengths is None:
        return stream[..., stream.shape[-1] - count :]
    index = lengths[:, None] + torch.arange(count, device=stream.device)
    return stream.gather(2, index[:, None].expand(-1, stream.shape[1], -1))


class Convolution(nn.Module):
    """A causal depthwise convolution of (B, E, kernel - 1 + T) -> (B, E, T) that does not cross documents."""

    def __init__(self, channels: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    def forward(self, stream: Tensor, segments: Tensor | None) -> Tensor:
        weight, bias = self.weight.to(stream.dtype), None if self.bias is None else self.bias.to(stream.dtype)
        if segments is None:
            return F.conv1d(stream, weight, bias, groups=len(weight))
        kernel, length = weight.shape[-1], segments.shape[1]
        padded = F.pad(segments, (kernel - 1, 0), value=-1)
        total = stream.new_zeros(()) if bias is None else bias[:, None].expand(len(stream), -1, length)
        for tap in range(kernel):
            same = padded[:, tap : tap + length] == segments
            total = total + stream[..., tap : tap + length] * same[:, None] * weight[:, 0, tap, None]
        return total

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if name == "bias":
            parameter.zero_()
        else:
            parameter.copy_(
                torch.empty(parameter.shape).uniform_(-1, 1, generator=generator) * parameter.shape[-1] ** -0.5
            )


@torch.no_grad()
def init_step(parameter: Tensor, generator: torch.Generator) -> None:
    """A bias of which softplus gives 0.001 to 0.1, evenly in the log."""
    drawn = torch.empty(parameter.shape, dtype=torch.float64).uniform_(generator=generator)
    step = torch.exp(drawn * math.log(100) + math.log(0.001))
    parameter.copy_(step + torch.log(-torch.expm1(-step)))
