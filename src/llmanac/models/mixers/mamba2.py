"""Mamba-2: a selective state space with one decay a head, which is also a masked attention (state space duality).

    [z; v; B; C; d] = W_in x        [v; B; C] = silu(conv([v; B; C]))        dt = softplus(d + b)
    h_t = exp(dt_t a) h_{t-1} + dt_t v_t B_t^T        y_t = h_t C_t + D v_t        out = W_out norm(y silu(z))

x (B, T, D), v (B, T, H, P) with H P = E = expand D, B and C (B, T, G, N), h (B, H, P, N), a (H,) negative. With
L_ts = exp(a (dt_{s+1} + .. + dt_t)) for s <= t the same is y = (L o C B^T) (dt v): products of matrices within chunks
of 64 tokens, and the recurrence from chunk to chunk. Time and memory are linear in T. Where Mamba has E N decays, this
has H; in return N can be larger, and the work is in products.

Dao & Gu 2024, arXiv:2405.21060, section 6 and listing 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.models.forward import Context
from llmanac.models.layers import Linear, upcast
from llmanac.models.mixers import Mixer, MixerSpec
from llmanac.models.mixers.mamba import Convolution, init_step, last_inputs
from llmanac.models.state.recurrent import RecurrentState

CARD = {
    "title": "Mamba-2 (state space duality)",
    "paper": "Dao & Gu 2024, arXiv:2405.21060",
    "reference": "Mamba2Mixer in transformers",
    "test": "tests/references/test_mamba2.py::test_outputs_and_gradients_equal_transformers",
}
CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class Spec(MixerSpec):
    """states: N; expand: E / D; head_dim: P, by default the largest divisor of E and 64; groups: G, which divides H;
    kernel: tokens of the convolution; biases: of the first and the last product.
    """

    mixes_channels: ClassVar[bool] = True

    states: int = 64
    expand: int = 2
    head_dim: int | None = None
    groups: int = 1
    kernel: int = 4
    eps: float = 1e-5
    biases: Literal["none", "all"] = "none"

    ranges = within(COUNT, "states expand head_dim groups kernel")

    def resolved(self, dim: int) -> Spec:
        return replace(self, head_dim=self.head_dim or math.gcd(64, self.expand * dim))

    def build(self, *, dim: int, **dims: Any) -> Mamba2:
        return Mamba2(self.resolved(dim), dim)


class Mamba2(Mixer):
    """See the module."""

    supports: ClassVar[frozenset[str]] = frozenset({"causal", "packed"})

    def __init__(self, spec: Spec, dim: int) -> None:
        super().__init__()
        self.states, self.groups, self.kernel = spec.states, spec.groups, spec.kernel
        self.inner, self.head_dim = spec.expand * dim, spec.head_dim or 1
        if self.inner % self.head_dim:
            raise SpecError(f"head_dim: {self.head_dim} must divide expand x dim, {self.inner}")
        self.heads = self.inner // self.head_dim
        if self.heads % spec.groups:
            raise SpecError(f"groups: {spec.groups} must divide the number of heads, {self.heads}")
        self.channels = self.inner + 2 * spec.groups * spec.states
        self.in_proj = Linear(dim, self.inner + self.channels + self.heads, bias=spec.biases == "all")
        self.conv1d = Convolution(self.channels, spec.kernel)
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.empty(self.heads))
        self.norm = GatedNorm(self.inner, spec.groups, spec.eps)
        self.out_proj = Linear(self.inner, dim, bias=spec.biases == "all", std=0.0)

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> RecurrentState:
        memory = torch.float64 if dtype == torch.float64 else torch.float32
        return RecurrentState([
            torch.zeros(batch, self.channels, self.kernel - 1, dtype=dtype, device=device),
            torch.zeros(batch, self.heads, self.head_dim, self.states, dtype=memory, device=device),
        ])  # fmt: skip

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        rows, length, _ = x.shape
        held = None if state is None or context.slots is None else state.tensors
        z, u, d = self.in_proj(x).split([self.inner, self.channels, self.heads], dim=-1)
        u = u.transpose(1, 2)
        before = u.new_zeros(rows, self.channels, self.kernel - 1) if held is None else held[0]
        stream = torch.cat([before.to(u.dtype), u], dim=-1)
        u = F.silu(self.conv1d(stream, context.segments)).transpose(1, 2)
        width = self.groups * self.states
        v, b, c = upcast(u).split([self.inner, width, width], dim=-1)
        v = v.reshape(rows, length, self.heads, self.head_dim)
        b, c = (part.reshape(rows, length, self.groups, self.states) for part in (b, c))
        dt = F.softplus(upcast(d) + upcast(self.dt_bias))
        real = context.real()
        if real is not None:
            dt = dt * real[..., None]  # exp(0) = 1 and no input: padding leaves the state as it is
        h = v.new_zeros(rows, self.heads, self.head_dim, self.states) if held is None else held[1].clone()
        y, h = dual(v, dt, -torch.exp(upcast(self.A_log)), b, c, h, context.document_starts())
        if state is not None and context.slots is not None:
            state.update(last_inputs(stream, context.slots.lengths, self.kernel - 1), h)
        y = y + v * upcast(self.D)[:, None]
        out: Tensor = self.out_proj(self.norm(y.flatten(2), z).to(x.dtype))
        return out

    def flops(self, keys: float) -> float:
        """The products and the convolution; a token's work in a chunk is that of attention over the chunk's keys."""
        near = min(keys, CHUNK)
        chunk = near * (self.groups * self.states + self.inner) + 2 * self.inner * self.states
        return 2.0 * (sum(p.weight.numel() for p in (self.in_proj, self.conv1d, self.out_proj)) + chunk)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if name == "dt_bias":
            init_step(parameter, generator)
        elif name == "A_log":  # a = -1 .. -16
            drawn = torch.empty(parameter.shape, dtype=torch.float64).uniform_(1, 16, generator=generator)
            parameter.copy_(drawn.log())
        else:
            parameter.fill_(1.0)


def dual(
    v: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor, begins: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The recurrence in chunks, each a masked product.

    Args:
        v: (B, T, H, P). dt: (B, T, H). a: (H,). b, c: (B, T, G, N). h: (B, H, P, N), the state before.
        begins: (B, T) bool, tokens that begin a further document; None for none.

    Returns:
        (B, T, H, P) and the last state.
    """
    marks = [None] * -(-v.shape[1] // CHUNK) if begins is None else begins.split(CHUNK, 1)
    found = []
    # split, not slices: the backward of each slice would allocate the full tensor
    for piece in zip(*(x.split(CHUNK, 1) for x in (v, dt, b, c)), marks, strict=True):
        y, h = _chunk(a, h, *piece)
        found.append(y)
    return torch.cat(found, dim=1), h


def _chunk(
    a: Tensor, h: Tensor, v: Tensor, dt: Tensor, b: Tensor, c: Tensor, begins: Tensor | None
) -> tuple[Tensor, Tensor]:
    length, heads = v.shape[1], v.shape[2]
    total = (dt * a).cumsum(1).transpose(1, 2)  # (B, H, L): the log of the decay since the chunk's start
    seen = torch.ones(length, length, dtype=torch.bool, device=v.device).tril()
    enters, stays = total.exp(), (total[..., -1:] - total).exp()
    if begins is not None:
        document = begins.long().cumsum(1)[:, None]  # 0 for the document that the state before belongs to
        seen = seen & (document[..., :, None] == document[..., None, :])
        enters = enters * (document == 0)
        stays = stays * (document == document[..., -1:])
    decay = (total[..., :, None] - total[..., None, :]).masked_fill(~seen, -torch.inf).exp()
    b, c = b.transpose(1, 2), c.transpose(1, 2)  # (B, G, L, N)
    scores = (c @ b.mT).repeat_interleave(heads // b.shape[1], dim=1) * decay
    b, c = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (b, c))
    driven = (v * dt[..., None]).transpose(1, 2)  # (B, H, L, P)
    y = scores @ driven + (c @ h.mT) * enters[..., None]
    h = h * enters[..., -1, None, None] + (driven * stays[..., None]).mT @ b
    return y.transpose(1, 2), h


class GatedNorm(nn.Module):
    """RMSNorm of y silu(z) within each group of channels; in float32 at least."""

    def __init__(self, width: int, groups: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        gated = (upcast(y) * F.silu(upcast(z))).unflatten(-1, (self.groups, -1))
        normed = gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + self.eps)
        return normed.flatten(-2) * upcast(self.weight)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.fill_(1.0)
