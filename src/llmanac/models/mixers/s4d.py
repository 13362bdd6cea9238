"""S4D: a diagonal state space. Each channel is filtered by a sum of decaying waves, whose rates are learned.

    h_t = exp(dt a) h_{t-1} + b u_t,  b = (exp(dt a) - 1) / a        y_t = 2 Re(C . h_t) + D u_t
    K_l = 2 Re sum_n C_n b_n exp(dt a_n l)                           out = W gelu(y)

u and y (B, T, D), h (B, D, N / 2) complex, a = -exp(.) + i w. The discretisation holds each input for one step (ZOH).
Nothing depends on the token, unlike in Mamba, and so the recurrence is also a convolution with K, by FFT.

Gu et al. 2022, arXiv:2206.11893: `lin` is its S4D-Lin, a_n = -1/2 + i pi n, and `inv` its S4D-Inv, which is near
HiPPO-LegS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmanac.models._layers import upcast
from llmanac.models.mixers._state_space import StateSpace, StateSpaceSpec

CARD = {
    "title": "S4D (diagonal state space)",
    "paper": "Gu et al. 2022, arXiv:2206.11893",
    "reference": "convolution, recurrence and kernel by powers, in complex128",
    "test": "tests/references/test_s4.py::test_convolution_recurrence_and_powers_agree",
}
PIECE = 256  # powers held at a time


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
        steps = torch.arange(min(length, PIECE), device=rate.device, dtype=rate.real.dtype)
        powers = torch.exp(rate * steps)
        first = torch.arange(0, length, PIECE, device=rate.device, dtype=rate.real.dtype)
        scales = (2 * self.pair(self.C) * b)[..., None] * torch.exp(rate * first)
        pieces = [(scale[..., None] * powers).sum(1).real for scale in scales.unbind(-1)]
        return torch.cat(pieces, dim=1)[:, :length]

    def initial(self, name: str) -> Tensor:
        n = torch.arange(self.pairs, dtype=torch.float64)
        if name == "log_decay":
            return torch.full_like(n, 0.5).log()
        if self.init == "lin":
            return math.pi * n
        states = 2 * self.pairs
        return states / math.pi * (states / (2 * n + 1) - 1)
