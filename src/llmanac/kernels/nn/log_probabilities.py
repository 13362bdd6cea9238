"""Log-probabilities and entropies of a softmax at a temperature, without the logits of all places at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 1 << 21  # logits held at a time


def chunked_log_probabilities(
    head: Callable[[Tensor], Tensor], places: Tensor, targets: Tensor, *, vocab_size: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """log softmax(head(x) / T) of N targets, and the distributions' entropies without a gradient; in nats.

    Args:
        head: (n, D) -> logits (n, V) in float32 at least; places: (N, D); targets: (N,).

    Returns:
        (N,), (N,). The backward pass computes each chunk's logits again.
    """

    def part(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logs = (head(x) / temperature).log_softmax(-1)
        with torch.no_grad():
            seen = logs.detach()
            entropy = -(seen.exp() * seen.masked_fill(seen == -torch.inf, 0.0)).sum(-1)
        return logs.gather(-1, y[:, None]).squeeze(-1), entropy

    rows = max(1, CHUNK_ELEMENTS // vocab_size)
    found = [
        checkpoint(part, x, y, use_reentrant=False) if torch.is_grad_enabled() else part(x, y)
        for x, y in zip(places.split(rows), targets.split(rows), strict=True)
    ]
    return torch.cat([logs for logs, _ in found]), torch.cat([entropy for _, entropy in found])
