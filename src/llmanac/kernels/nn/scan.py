"""The selective scan: a linear recurrence whose decay, input and output depend on the token, and its gradients.

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t        y_t = C_t . h_t

u, dt and y (B, T, E), A (E, N), B and C (B, T, N), h (B, E, N). A token that begins a document reads h = 0.

On the CPU in float32 and float64 one loop keeps h of a few channels in the cache and makes the decays where they are
used, so that nothing of size (B, T, E, N) is written. For the gradients h is kept at every 64th step only, and the
steps between are computed again. Elsewhere the same in torch, a chunk at a time: within one, log2(64) steps of a
parallel prefix sum (Blelloch 1990; Hillis & Steele 1986). Time and memory are linear in T in both. Gu & Dao 2023,
section 3.3.

How many operations compiled loops do, for whoever counts: a dispatcher of torch sees none of them.

An operation is one element of one arithmetic function; a sum has as many as it has terms. A loop that saves some
against the same formulas in torch is counted as these.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from llmanac.kernels.nn._exponential import LOG2E, RELAXED, exp2
from llmanac.kernels.nn.uncompiled import uncompiled
from llmanac.kernels.text import cached

LISTENERS: list[Callable[[float], None]] = []


def did(operations: float) -> None:
    """Say that a loop has done so many."""
    for listener in LISTENERS:
        listener(operations)


CHUNK = 64  # steps between two states that are kept
CHANNELS = 64  # channels that walk together: their states stay in the first-level cache


@uncompiled  # a compiler sees nothing of the loop, and would trace every step of the torch form
def selective_scan(
    u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor, begins: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs and last state of the recurrence; differentiable in all but `begins`.

    Args:
        u, dt: (B, T, E); dt is at least 0, and 0 leaves the state as it is.
        a: (E, N), at most 0. b, c: (B, T, N). h: (B, E, N), the state before the first token.
        begins: (B, T) bool, tokens that begin a further document; None for none.

    Returns:
        y (B, T, E) and the last state (B, E, N).
    """
    if takes(u):
        y, last = _Scan.apply(u, dt, a, b, c, h, begins)
        return y, last
    return chunked_scan(u, dt, a, b, c, h, begins)


def takes(x: Tensor) -> bool:
    """Whether the compiled loops can compute with this tensor."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def plain_scan(decay: Tensor, driven: Tensor, outputs: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """y_t = C_t . h_t with h_t = a_t h_{t-1} + b_t, step by step: the definition, for tests.

    Args:
        decay, driven: a and b, (B, T, E, N). outputs: C (B, T, N). h: (B, E, N), the state before the first step.

    Returns:
        y (B, T, E) and the last state.
    """
    found = []
    for a, b, c in zip(decay.unbind(1), driven.unbind(1), outputs.unbind(1), strict=True):
        h = a * h + b
        found.append((h * c[:, None]).sum(-1))
    return torch.stack(found, dim=1), h


# ---------------------------------------------------------------- in torch
def chunked_scan(
    u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor, begins: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same as `selective_scan` on any device, in chunks that the backward pass computes again."""
    size = max(1, min(CHUNK, u.shape[1]))
    keep = [None] * -(-u.shape[1] // size) if begins is None else (~begins).to(u.dtype).split(size, 1)
    found = []
    # split, not slices: the backward of each slice would allocate the full tensor
    for piece in zip(u.split(size, 1), dt.split(size, 1), b.split(size, 1), c.split(size, 1), keep, strict=True):
        if torch.is_grad_enabled():
            y, h = checkpoint(_chunk, h, a, *piece, use_reentrant=False)
        else:
            y, h = _chunk(h, a, *piece)
        found.append(y)
    return torch.cat(found, dim=1), h


def _chunk(h: Tensor, a: Tensor, u: Tensor, dt: Tensor, b: Tensor, c: Tensor, keep: Any) -> tuple[Tensor, Tensor]:
    decay = torch.exp(dt[..., None] * a)
    if keep is not None:
        decay = decay * keep[..., None, None]
    states = (dt * u)[..., None] * b[:, :, None]
    reach = 1
    while reach < u.shape[1]:
        before = torch.cat([torch.zeros_like(states[:, :reach]), states[:, :-reach]], dim=1)
        states = states + decay * before
        decay = decay * torch.cat([torch.ones_like(decay[:, :reach]), decay[:, :-reach]], dim=1)
        reach *= 2
    states = states + decay * h[:, None]
    return (states * c[:, :, None]).sum(-1), states[:, -1]


# ---------------------------------------------------------------- compiled
class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor, begins: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        rows, length, width = u.shape
        exponent = a * LOG2E
        keep = u.new_ones(rows, length) if begins is None else (~begins).to(u.dtype)
        wanted = any(ctx.needs_input_grad)
        kept = u.new_empty(rows, -(-length // CHUNK) if wanted else 0, width, a.shape[1])
        y = torch.empty_like(u, memory_format=torch.contiguous_format)
        last = h.clone(memory_format=torch.contiguous_format)
        _forward(*_arrays(u, dt, exponent, b, c, keep), y.numpy(), last.numpy(), kept.numpy())
        did(u.numel() * (7 * a.shape[1] + 1))
        if wanted:
            ctx.save_for_backward(u, dt, exponent, b, c, keep, kept)
        return y, last

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> Any:
        u, dt, exponent, b, c, keep, kept = ctx.saved_tensors
        grad_y, grad_last = above
        made = [torch.empty_like(u, memory_format=torch.contiguous_format) for _ in range(2)]
        sums = [torch.zeros(x.shape, dtype=x.dtype) for x in (exponent, b, c)]
        flow = grad_last.clone(memory_format=torch.contiguous_format)
        _backward(
            *_arrays(u, dt, exponent, b, c, keep, kept, grad_y),
            *(x.numpy() for x in (*made, *sums, flow)),
        )
        did(u.numel() * (15 * c.shape[-1] + 3))
        # the first of the sums is already with respect to A itself: d exp(dt A) / dA = dt exp(dt A)
        return made[0], made[1], *sums, flow, None


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [x.detach().contiguous().numpy() for x in tensors]


def _walk(u, dt, a, b, c, keep, y, last, kept):
    rows, length, width = u.shape
    states = a.shape[1]
    save = kept.shape[1] > 0
    for row in range(rows):
        for first in range(0, width, CHANNELS):
            stop = min(first + CHANNELS, width)
            for t in range(length):
                if save and t % CHUNK == 0:
                    for e in range(first, stop):
                        for n in range(states):
                            kept[row, t // CHUNK, e, n] = last[row, e, n]
                stays = keep[row, t]
                for e in range(first, stop):
                    step = dt[row, t, e]
                    driven = step * u[row, t, e]
                    total = step - step
                    for n in range(states):
                        h = exp2(step * a[e, n]) * stays * last[row, e, n] + driven * b[row, t, n]
                        last[row, e, n] = h
                        total += h * c[row, t, n]
                    y[row, t, e] = total


def _walk_back(u, dt, a, b, c, keep, kept, grad_y, grad_u, grad_dt, grad_a, grad_b, grad_c, flow):
    rows, length, width = u.shape
    states = a.shape[1]
    decay = np.empty((CHUNK, states), u.dtype)
    h = np.empty((CHUNK + 1, states), u.dtype)
    carried, rate, total = np.empty(states, u.dtype), np.empty(states, u.dtype), np.empty(states, u.dtype)
    ln2 = a.dtype.type(0.6931471805599453)
    for row in range(rows):
        for piece in range((length + CHUNK - 1) // CHUNK - 1, -1, -1):
            start = piece * CHUNK
            count = min(length - start, CHUNK)
            for e in range(width):
                for n in range(states):
                    h[0, n] = kept[row, piece, e, n]
                    carried[n], rate[n], total[n] = flow[row, e, n], a[e, n], grad_a[e, n]
                for i in range(count):
                    t = start + i
                    step = dt[row, t, e]
                    driven = step * u[row, t, e]
                    stays = keep[row, t]
                    for n in range(states):
                        w = exp2(step * rate[n]) * stays
                        decay[i, n] = w
                        h[i + 1, n] = w * h[i, n] + driven * b[row, t, n]
                for i in range(count - 1, -1, -1):
                    t = start + i
                    step = dt[row, t, e]
                    x = u[row, t, e]
                    slope = grad_y[row, t, e]
                    driven = step * x
                    into_driven = step - step
                    into_step = step - step
                    # three loops: a compiler proves of few arrays only that they do not overlap
                    for n in range(states):
                        carried[n] += slope * c[row, t, n]
                        grad_c[row, t, n] += slope * h[i + 1, n]
                    for n in range(states):
                        grad_b[row, t, n] += carried[n] * driven
                        into_driven += carried[n] * b[row, t, n]
                    for n in range(states):
                        w = carried[n] * decay[i, n]
                        m = w * h[i, n]
                        into_step += m * rate[n]
                        total[n] += m * step
                        carried[n] = w
                    grad_u[row, t, e] = into_driven * step
                    grad_dt[row, t, e] = into_driven * x + into_step * ln2
                for n in range(states):
                    flow[row, e, n], grad_a[e, n] = carried[n], total[n]


_forward: Any = cached(_walk, nogil=True, fastmath=RELAXED)
_backward: Any = cached(_walk_back, nogil=True, fastmath=RELAXED)
