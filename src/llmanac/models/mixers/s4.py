"""S4: a state space whose matrix is diagonal plus low rank, which HiPPO-LegS is: its state is a compressed past.

    x' = A x + B u,  A = L - P P*        bilinear: h_t = (2/dt - A)^-1 ((2/dt + A) h_{t-1} + 2 B u_t)
    y_t = C h_t + D u_t                  out = W gelu(y)

u and y (B, T, D), h (B, D, N / 2) complex (one half of conjugate pairs), L diagonal. With z an M-th root of unity and
g = 2/dt (1 - z) / (1 + z), the filter's spectrum is a Cauchy kernel, O(N) a frequency by the formula of Woodbury:

    sum_l K_l z^l = 2/(1 + z) C' (g - A)^-1 B,  C' = C (1 - A_d^M)        A_d: one step of the recurrence
    (g - A)^-1 = R - R P (1 + P* R P)^-1 P* R,  R = 1/(g - L)

M is odd, since g has a pole at z = -1. Initially A is HiPPO-LegS: the state holds the past's coefficients in Legendre
polynomials. Gu, Goel & Re 2022, arXiv:2111.00396, section 3; Goel et al. 2022 for P P* in place of P Q*, which is
stable. For long prompts with a state prefer `s4d`: here they are read step by step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmanac.models.layers import upcast
from llmanac.models.mixers._state_space import StateSpace, StateSpaceSpec

CARD = {
    "title": "S4 (structured state space)",
    "paper": "Gu, Goel & Re 2022, arXiv:2111.00396",
    "reference": "the dense HiPPO-LegS matrix and its powers, in complex128",
    "test": "tests/references/test_s4.py::test_the_cauchy_kernel_equals_powers",
}
PIECE = 256  # frequencies held at a time


@dataclass(frozen=True, kw_only=True)
class Spec(StateSpaceSpec):
    """states: N, an even number."""

    def build(self, *, dim: int, **dims: Any) -> S4:
        return S4(self, dim)


class S4(StateSpace):
    """See the module. P and B: (D, N / 2, 2), real and imaginary part."""

    def __init__(self, spec: Spec, dim: int) -> None:
        super().__init__(spec.states, dim)
        self.P = nn.Parameter(torch.empty(dim, self.pairs, 2))
        self.B = nn.Parameter(torch.empty(dim, self.pairs, 2))

    def discrete(self) -> tuple[Tensor, ...]:
        """2/dt + L, 1 / (2/dt - L), P, 1 / (1 + P* R P), 2 B."""
        eigenvalues, p = self.eigenvalues(), self.pair(self.P)
        rate = 2 * torch.exp(-upcast(self.log_step))[:, None]
        inverse = 1 / (rate - eigenvalues)
        correction = 1 / (1 + both(p.conj() * inverse * p))
        return rate + eigenvalues, inverse, p, correction, 2 * self.pair(self.B)

    def step(self, parts: tuple[Tensor, ...], u: Tensor, h: Tensor) -> Tensor:
        forward, inverse, p, correction, b = parts
        right = forward * h - p * both(p.conj() * h)[..., None] + b * u[..., None]
        solved = inverse * right
        return solved - inverse * p * (correction * both(p.conj() * solved))[..., None]

    def kernel(self, length: int) -> Tensor:
        size = length | 1
        eigenvalues, p, b = self.eigenvalues(), self.pair(self.P), self.pair(self.B)
        c = self.pair(self.C) - self.advanced(size)
        # an M-th root of unity as an angle: (1 - z) / (1 + z) = i tan(angle / 2) for z = exp(-i angle)
        half = torch.arange(size // 2 + 1, device=p.device, dtype=torch.float64) * (torch.pi / size)
        tangents = torch.tan(half).to(p.real.dtype)
        rate = 2 * torch.exp(-upcast(self.log_step))[:, None]
        pieces = []
        for tangent in tangents.split(PIECE):
            given = (tangent, rate, eigenvalues, p, b, c)
            pieces.append(
                checkpoint(spectrum, *given, use_reentrant=False) if torch.is_grad_enabled() else spectrum(*given)
            )
        return torch.fft.irfft(torch.cat(pieces, dim=1), n=size, dim=1)[:, :length]

    def advanced(self, steps: int) -> Tensor:
        """C A_d^steps, by squaring the matrix of a step over real and imaginary parts."""
        parts, width = self.discrete(), 2 * self.pairs
        unit = torch.eye(width, dtype=self.D.dtype, device=self.D.device)
        basis = torch.view_as_complex(upcast(unit).view(width, 1, self.pairs, 2)).expand(-1, len(self.D), -1)
        moved = torch.view_as_real(self.step(parts, upcast(unit.new_zeros(width, len(self.D))), basis))
        power = moved.flatten(2).permute(1, 2, 0)  # (D, to, from)
        row = torch.view_as_real(self.pair(self.C).conj().resolve_conj()).flatten(1)  # Re(C h) of the parts of h
        while steps:
            if steps & 1:
                row = (row[:, :, None] * power).sum(1)
            steps >>= 1
            if steps:
                power = power @ power
        return torch.view_as_complex(row.reshape(-1, self.pairs, 2)).conj()

    def kernel_flops(self, length: int) -> float:
        """FLOPs of the products that make the filter once a pass, whatever the batch."""
        size, width = length | 1, 2 * self.pairs
        squarings, frequencies = size.bit_length() - 1, size // 2 + 1
        return 2.0 * len(self.D) * (squarings * width**3 + 4 * width * frequencies)

    def initial(self, name: str) -> Tensor:
        eigenvalues, p, b = hippo_legs(2 * self.pairs)
        if name == "log_decay":
            return (-eigenvalues.real).log()
        return eigenvalues.imag if name == "frequency" else torch.view_as_real(p if name == "P" else b)


def both(x: Tensor) -> Tensor:
    """The sum over conjugate pairs of which one half is given: 2 Re sum."""
    return 2 * x.sum(-1).real


def spectrum(tangent: Tensor, rate: Tensor, eigenvalues: Tensor, p: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The filter's spectrum (D, F) at z = exp(-i angle), given tan(angle / 2) (F,)."""
    g = torch.complex(torch.zeros_like(rate), rate)[..., None] * tangent
    q = p.conj()
    weights = torch.stack([c * b, c * p, q * b, q * p], dim=1)  # (D, 4, N / 2)
    # a product of matrices: the sums over the eigenvalues and, with conjugate weights, over their conjugates
    sums = weights @ (1 / (g - eigenvalues[..., None])) + weights.conj() @ (1 / (g - eigenvalues.conj()[..., None]))
    plain, left, right, low = sums.unbind(1)
    # 2 / (1 + z) = 1 + i tan(angle / 2)
    return (plain - left * right / (1 + low)) * torch.complex(torch.ones_like(tangent), tangent)


def hippo_legs(states: int) -> tuple[Tensor, Tensor, Tensor]:
    """HiPPO-LegS in the basis that makes A + P P* diagonal: eigenvalues, P and B, each (N / 2,), float64.

    Eigenvalues with positive imaginary part are kept.
    """
    n = torch.arange(states, dtype=torch.float64)
    p, b = torch.sqrt(n + 0.5), torch.sqrt(2 * n + 1)
    a = legs_matrix(states)
    skew = a + p[:, None] * p + 0.5 * torch.eye(states, dtype=torch.float64)
    frequencies, vectors = torch.linalg.eigh(-1j * skew)
    kept = vectors[:, states // 2 :].mH  # eigh sorts: the upper half is positive
    half = frequencies[states // 2 :]
    return torch.complex(torch.full_like(half, -0.5), half), kept @ p.to(kept.dtype), kept @ b.to(kept.dtype)


def legs_matrix(states: int) -> Tensor:
    """The matrix A of HiPPO-LegS, (N, N): -sqrt((2n + 1)(2k + 1)) below the diagonal and -(n + 1) on it."""
    n = torch.arange(states, dtype=torch.float64)
    root = torch.sqrt(2 * n + 1)
    return -torch.tril(root[:, None] * root, -1) - torch.diag(n + 1)
