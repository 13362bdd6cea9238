"""Divergences between the distributions of two heads, at a bounded number of logits: chunk by chunk.

    D(p, q),   p = softmax(t / T) of the teacher, q = softmax(s / T) of the student

    forward         sum p log(p / q)
    reverse         sum q log(q / p)
    jensen-shannon  b sum p log(p / m) + (1 - b) sum q log(q / m),   m = b p + (1 - b) q

With `top` = k, both are distributions over the teacher's k most probable tokens and one further outcome, all the rest.
A token that either distribution excludes with certainty (a logit of -inf) adds its limit, never NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Divergence = Literal["forward", "reverse", "jensen-shannon"]
CHUNK_ELEMENTS = 1 << 20  # logits of one model held at a time


def chunked_divergence(
    student: Callable[[Tensor], Tensor],
    teacher: Callable[[Tensor], Tensor],
    own: Tensor,
    other: Tensor,
    *,
    vocab_size: int,
    kind: Divergence,
    temperature: float = 1.0,
    beta: float = 0.5,
    top: int | None = None,
) -> Tensor:
    """Divergences in nats of N places; the backward pass computes each chunk's logits again.

    Args:
        student, teacher: hidden states (n, D) -> logits (n, V).
        own, other: (N, D) and (N, D'), what each head reads.

    Returns:
        (N,), in float32 at least, without the factor T^2.
    """

    def part(a: Tensor, b: Tensor) -> Tensor:
        with torch.no_grad():
            known = teacher(b)
        return divergence(student(a), known, kind=kind, temperature=temperature, beta=beta, top=top)

    rows = max(1, CHUNK_ELEMENTS // vocab_size)
    pairs = zip(own.split(rows), other.split(rows), strict=True)  # one empty pair where there is no place
    if not torch.is_grad_enabled():
        return torch.cat([part(a, b) for a, b in pairs])
    return torch.cat([checkpoint(part, a, b, use_reentrant=False) for a, b in pairs])


def divergence(
    student: Tensor, teacher: Tensor, *, kind: Divergence, temperature: float = 1.0, beta: float = 0.5,
    top: int | None = None,
) -> Tensor:  # fmt: skip
    """Divergences (N,) in nats of logits (N, V)."""
    q, p = ((logits / temperature).log_softmax(-1) for logits in (student, teacher))
    if top is not None and top < p.shape[-1]:
        p, chosen = p.topk(top, dim=-1)
        p, q = _with_rest(p), _with_rest(q.gather(-1, chosen))
    if kind == "forward":
        return _kl(p, q)
    if kind == "reverse":
        return _kl(q, p)
    weights = q.new_tensor([beta, 1 - beta]).log()
    mixture = torch.logaddexp(p + weights[0], q + weights[1])
    return beta * _kl(p, mixture) + (1 - beta) * _kl(q, mixture)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """sum p log(p / q) of log-probabilities; outcomes with p = 0 add nothing, and nothing to the gradient."""
    possible = p > -torch.inf
    safe = p.masked_fill(~possible, 0.0)
    return torch.where(possible, safe.exp() * (safe - q.masked_fill(~possible, 0.0)), 0.0).sum(-1)


def _with_rest(some: Tensor) -> Tensor:
    """Log-probabilities (N, k) of some outcomes and, as a further one, of all others."""
    rest = torch.log1p(-some.exp().sum(-1, keepdim=True).clamp(max=1 - torch.finfo(some.dtype).eps))
    return torch.cat([some, rest], -1)
