"""S4D: a diagonal state space. Each channel is filtered by a sum of decaying waves, whose rates are learned.

    h_t = exp(dt a) h_{t-1} + b u_t,  b = (exp(dt a) - 1) / a        y_t = 2 Re(C . h_t) + D u_t
    K_l = 2 Re sum_n C_n b_n exp(dt a_n l)                           out = W gelu(y)

u and y (B, T, D), h (B, D, N / 2) complex, a = -exp(.) + i w. The discretisation holds each input for one step (ZOH).
Nothing depends on the token, unlike in Mamba, and so the recurrence is also a convolution with K, by FFT. A prompt that
follows a state is read in pieces: convolution within, powers of the decay from one to the next.

Gu et al. 2022, arXiv:2206.11893: `lin` is its S4D-Lin, a_n = -1/2 + i pi n, and `inv` its S4D-Inv, which is near
HiPPO-LegS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmanac.models.layers import upcast
from llmanac.models.mixers._state_space import StateSpace, StateSpaceSpec

CARD = {
    "title": "S4D (diagonal state space)",
    "paper": "Gu et al. 2022, arXiv:2206.11893",
    "reference": "convolution, recurrence and kernel by powers, in complex128",
    "test": "tests/references/test_s4.py::test_convolution_recurrence_and_powers_agree",
}
PIECE = 256  # powers held at a time
STEPWISE = 8  # fewer tokens than these are read one after the other


@dataclass(frozen=True, kw_only=True)
class Spec(StateSpaceSpec):
    """states: N, an even number; init: the first eigenvalues."""

    init: Literal["lin", "inv"] = "lin"

    def build(self, *, dim: int, **dims: Any) -> S4D:
        return S4D(self, dim)


class S4D(StateSpace):
    """See the module."""

    def __init__(self, spec: Spec, dim: int) -> None:
        super().__init__(spec.states, dim)
        self.init = spec.init

    def discrete(self) -> tuple[Tensor, Tensor]:
        """exp(dt a) and b, (D, N / 2)."""
        a = self.eigenvalues()
        decay = torch.exp(a * torch.exp(upcast(self.log_step))[:, None])
        return decay, (decay - 1) / a

    def step(self, parts: tuple[Tensor, Tensor], u: Tensor, h: Tensor) -> Tensor:
        decay, b = parts
        return decay * h + b * u[..., None]

    def kernel(self, length: int) -> Tensor:
        # the powers of one piece serve all: those of the next are the same times exp(dt a PIECE)
        a, (_, b) = self.eigenvalues(), self.discrete()
        rate = (a * torch.exp(upcast(self.log_step))[:, None])[..., None]
        powers = powers_of(rate[..., 0], min(length, PIECE))
        first = torch.arange(0, length, PIECE, device=rate.device, dtype=rate.real.dtype)
        scales = (2 * self.pair(self.C) * b)[..., None] * torch.exp(rate * first)
        pieces = [(scale[..., None] * powers).sum(1).real for scale in scales.unbind(-1)]
        return torch.cat(pieces, dim=1)[:, :length]

    def recur(self, u: Tensor, h: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
        if u.shape[1] < STEPWISE:
            return super().recur(u, h, real)
        marks = [None] * -(-u.shape[1] // PIECE) if real is None else real.split(PIECE, 1)
        rate = self.eigenvalues() * torch.exp(upcast(self.log_step))[:, None]
        kernel, found = self.kernel(min(u.shape[1], PIECE)), []
        for piece, use in zip(u.split(PIECE, 1), marks, strict=True):
            y, h = self._read(piece, h, use, rate, kernel)
            found.append(y)
        return torch.cat(found, dim=1), h

    def _read(self, u: Tensor, h: Tensor, real: Tensor | None, rate: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """A piece at once: its own outputs by convolution, those of the state before by powers of the decay."""
        length = u.shape[1]
        steps = torch.arange(length, device=u.device)
        powers = powers_of(rate, length)
        (_, b), c = self.discrete(), 2 * self.pair(self.C)
        decay = torch.exp(rate)
        y = self.convolve(u, kernel[:, :length]) + torch.einsum("bdn,dnt->btd", h * c * decay, powers).real
        if real is None:
            h = h * torch.exp(rate * length)
        else:  # each row's last real token moves to the end, and zeros come in at the front
            counts = real.sum(1)
            source = steps - (length - counts)[:, None]
            u = u.gather(1, source.clamp(min=0)[..., None].expand_as(u)) * (source >= 0)[..., None]
            h = h * torch.exp(rate * counts.to(u.dtype)[:, None, None])
        return y, h + b * torch.einsum("btd,dnt->bdn", u.to(powers.dtype), powers.flip(-1))

    def initial(self, name: str) -> Tensor:
        n = torch.arange(self.pairs, dtype=torch.float64)
        if name == "log_decay":
            return torch.full_like(n, 0.5).log()
        if self.init == "lin":
            return math.pi * n
        states = 2 * self.pairs
        return states / math.pi * (states / (2 * n + 1) - 1)


def powers_of(rate: Tensor, length: int) -> Tensor:
    """exp(rate l) for l < length: (D, N / 2) -> (D, N / 2, length), by doubling, as a product is cheaper than exp."""
    powers = torch.ones_like(rate)[..., None]
    while powers.shape[-1] < length:
        powers = torch.cat([powers, powers * torch.exp(rate * powers.shape[-1])[..., None]], dim=-1)
    return powers[..., :length]
