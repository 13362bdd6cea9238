"""What time-invariant state spaces share: one filter a channel, as a convolution over documents or as a recurrence.

    h_t = A h_{t-1} + B u_t,  y_t = Re(C h_t) + D u_t        =        y = K * u + D u,  K_l = Re(C A^l B)

u and y (B, T, D), h (B, D, N / 2) complex: states come in conjugate pairs, of which one half is kept. Without a state
the filter is a convolution by FFT, O(T log T); with one it is the recurrence, whose memory does not grow with T.
A packed row is cut into its documents first, so that nothing passes between them.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.models.forward import Context
from llmanac.models.layers import Linear, init_normal, upcast
from llmanac.models.mixers import Mixer, MixerSpec
from llmanac.models.state.recurrent import RecurrentState

STEPS = (0.001, 0.1)  # the initial step sizes lie between these, evenly in the log


@dataclass(frozen=True, kw_only=True)
class StateSpaceSpec(MixerSpec):
    """states: N, an even number."""

    states: int = 64

    def __post_init__(self) -> None:
        if self.states < 2 or self.states % 2:
            raise SpecError(f"states: {self.states} must be an even number of at least 2: they are conjugate pairs")


class StateSpace(Mixer):
    """Base of the filters; a subclass defines `discrete`, `kernel`, `step` and `initial`.

    Attributes:
        log_step: (D,), the logarithm of the step size of each channel.
        log_decay, frequency: (D, N / 2), the eigenvalues are -exp(log_decay) + i frequency.
        C: (D, N / 2, 2), real and imaginary part. D: (D,).
    """

    supports: ClassVar[frozenset[str]] = frozenset({"causal", "packed"})

    def __init__(self, states: int, dim: int) -> None:
        super().__init__()
        self.pairs = states // 2
        self.log_step = nn.Parameter(torch.empty(dim))
        self.log_decay = nn.Parameter(torch.empty(dim, self.pairs))
        self.frequency = nn.Parameter(torch.empty(dim, self.pairs))
        self.C = nn.Parameter(torch.empty(dim, self.pairs, 2))
        self.D = nn.Parameter(torch.empty(dim))
        self.out_proj = Linear(dim, dim, std=0.0)

    # ---------------------------------------------------------------- what a subclass defines
    def discrete(self) -> Any:
        """What `step` needs of the parameters."""
        raise NotImplementedError

    def step(self, parts: Any, u: Tensor, h: Tensor) -> Tensor:
        """The state after a token: u (B, D) and h (B, D, N / 2)."""
        raise NotImplementedError

    def kernel(self, length: int) -> Tensor:
        """(D, length): the filter K."""
        raise NotImplementedError

    # ---------------------------------------------------------------- what they share
    def eigenvalues(self) -> Tensor:
        """(D, N / 2) complex, with negative real parts."""
        return torch.complex(-torch.exp(upcast(self.log_decay)), upcast(self.frequency))

    def pair(self, parameter: Tensor) -> Tensor:
        """A parameter (D, N / 2, 2) as complex numbers."""
        return torch.view_as_complex(upcast(parameter).contiguous())

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> RecurrentState:
        memory = torch.complex128 if dtype == torch.float64 else torch.complex64
        return RecurrentState([torch.zeros(batch, len(self.D), self.pairs, dtype=memory, device=device)])

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        u = upcast(x)
        if state is None or context.slots is None:
            y = self.convolve(u) if context.segments is None else self.convolve_documents(u, context.segments)
        else:
            y, h = self.recur(u, state.tensors[0].clone(), context.real())
            state.update(h)
        y = y + upcast(self.D) * u
        out: Tensor = self.out_proj(F.gelu(y).to(x.dtype))
        return out

    def recur(self, u: Tensor, h: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, D) and the state before them -> (B, T, D) and the state after each row's last real token."""
        parts, c = self.discrete(), 2 * self.pair(self.C)
        kept = real.unbind(1) if real is not None else [None] * u.shape[1]
        outputs = []
        for token, use in zip(u.unbind(1), kept, strict=True):
            following = self.step(parts, token, h)
            h = following if use is None else torch.where(use[:, None, None], following, h)
            outputs.append((h * c).sum(-1).real)
        return torch.stack(outputs, dim=1), h

    def convolve(self, u: Tensor, kernel: Tensor | None = None) -> Tensor:
        """(B, T, D) filtered by the kernel, the causal part only."""
        length = u.shape[1]
        kernel = self.kernel(length) if kernel is None else kernel
        size = 2 * length  # room for the tail, which would otherwise come in at the front
        product = torch.fft.rfft(u, n=size, dim=1) * torch.fft.rfft(kernel, n=size, dim=1).t()
        return torch.fft.irfft(product, n=size, dim=1)[:, :length]

    def convolve_documents(self, u: Tensor, segments: Tensor) -> Tensor:
        """The same of each document of packed rows by itself, those of about one length together."""
        flat = torch.cat([u.flatten(0, 1), u.new_zeros(1, u.shape[-1])])
        total = torch.zeros_like(flat)
        kernel: Tensor | None = None
        for index in reversed(documents_by_length(segments)):
            kernel = self.kernel(index.shape[1]) if kernel is None else kernel[:, : index.shape[1]]
            y = self.convolve(flat[index], kernel)
            total = total.index_copy(0, index.flatten(), y.flatten(0, 1))
        return total[:-1].view_as(u)

    def flops(self, keys: float) -> float:
        """The product; the filter's FFT and its elementwise operations are no products."""
        return 2.0 * self.out_proj.weight.numel()

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if name == "log_step":
            low, high = map(math.log, STEPS)
            drawn = torch.empty(parameter.shape, dtype=torch.float64).uniform_(generator=generator)
            parameter.copy_(drawn * (high - low) + low)
        elif name == "C":
            init_normal(parameter, 0.5**0.5, generator)
        elif name == "D":
            init_normal(parameter, 1.0, generator)
        else:
            parameter.copy_(self.initial(name).expand_as(parameter))

    def initial(self, name: str) -> Tensor:
        """The initial value of a parameter of the eigenvalues, the same for every channel."""
        raise NotImplementedError


def documents_by_length(segments: Tensor) -> list[Tensor]:
    """The places of packed documents, grouped by length: within a group no document is half as long as another.

    Args:
        segments: (B, T).

    Returns:
        For each group, shortest first, (documents, length): places in the flattened rows, and B T for padding.
    """
    rows, length = segments.shape
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    starts = begins.flatten().nonzero().squeeze(1)
    counts = torch.diff(starts, append=starts.new_tensor([rows * length]))
    groups: dict[int, list[int]] = {}
    for document, count in enumerate(counts.tolist()):
        groups.setdefault((count - 1).bit_length(), []).append(document)
    found = []
    for _, documents in sorted(groups.items()):
        chosen = torch.tensor(documents, device=segments.device)
        steps = torch.arange(int(counts[chosen].max()), device=segments.device)
        places = starts[chosen, None] + steps
        found.append(places.masked_fill(steps >= counts[chosen, None], rows * length))
    return found
