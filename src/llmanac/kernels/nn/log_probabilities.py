"""Log-probabilities and entropies of a softmax at a temperature, without many copies of the logits.

    log p_i = z_i,y / T - log sum_v exp(z_i,v / T)        d log p_i / d z_i,v = ([v = y] - p_i,v) / T

The logits are kept, and nothing else of their size. Where all chunks together have more than `KEPT` of them, the
backward pass computes each chunk's logits again.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 1 << 21  # logits worked on at a time
KEPT = 1 << 24  # logits that may be held: 64 MB in float32


def chunked_log_probabilities(
    head: Callable[[Tensor], Tensor], places: Tensor, targets: Tensor, *, vocab_size: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """log softmax(head(x) / T) of N targets, and the distributions' entropies without a gradient; in nats.

    Args:
        head: (n, D) -> logits (n, V) in float32 at least; places: (N, D); targets: (N,).

    Returns:
        (N,), (N,).
    """

    def part(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = _LogProbabilities.apply(head(x), y, temperature)
        return found

    rows = max(1, CHUNK_ELEMENTS // vocab_size)
    again = torch.is_grad_enabled() and len(places) * vocab_size > KEPT
    found = [
        checkpoint(part, x, y, use_reentrant=False) if again else part(x, y)
        for x, y in zip(places.split(rows), targets.split(rows), strict=True)
    ]
    return torch.cat([logs for logs, _ in found]), torch.cat([entropy for _, entropy in found])


class _LogProbabilities(torch.autograd.Function):
    """logits (n, V), targets (n,) -> log-probabilities (n,), entropies (n,)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        z = logits if temperature == 1 else logits / temperature
        top = z.amax(-1, keepdim=True)
        p = (z - top).exp_()
        total = p.sum(-1, keepdim=True)
        shift = top + total.log()
        # p log p is 0 where p is, also for a logit of -inf
        expected = torch.linalg.vecdot(p, z.clamp(min=torch.finfo(z.dtype).min)) / total[:, 0]
        logs, entropy = (z.gather(-1, targets[:, None]) - shift)[:, 0], shift[:, 0] - expected
        ctx.save_for_backward(logits, targets, shift)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        logits, targets, shift = ctx.saved_tensors
        above = grads[0][:, None] / ctx.temperature
        z = logits if ctx.temperature == 1 else logits / ctx.temperature
        slopes = (z - shift).exp_().mul_(-above).scatter_add_(1, targets[:, None], above)
        return slopes, None, None
