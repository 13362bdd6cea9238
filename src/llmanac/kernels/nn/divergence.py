"""Divergences between the distributions of two heads, at a bounded number of logits: chunk by chunk.

    D(p, q),   p = softmax(t / T) of the teacher, q = softmax(s / T) of the student

    forward         sum p log(p / q)
    reverse         sum q log(q / p)
    jensen-shannon  b sum p log(p / m) + (1 - b) sum q log(q / m),   m = b p + (1 - b) q

With `top` = k, both are distributions over the teacher's k most probable tokens and one further outcome, all the rest.
The rest is summed over its own tokens: 1 - (sum of the k) has no digit left where a model is sure.
A token that a model excludes with certainty (a logit of -inf) has the smallest normal number of the dtype for its
probability: it adds nothing that can be seen where both are small, and loss and gradient stay finite where the other
model does give it probability.
"""

import math
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
    student, teacher = _possible(student / temperature), _possible(teacher / temperature)
    if top is not None and top < teacher.shape[-1]:
        chosen = teacher.topk(top, dim=-1).indices
        student, teacher = _with_rest(student, chosen), _with_rest(teacher, chosen)
    q, p = student.log_softmax(-1), teacher.log_softmax(-1)
    if kind == "forward":
        return _kl(p, q)
    if kind == "reverse":
        return _kl(q, p)
    weights = q.new_tensor([beta, 1 - beta]).log()
    mixture = torch.logaddexp(p + weights[0], q + weights[1])
    return beta * _kl(p, mixture) + (1 - beta) * _kl(q, mixture)


def _possible(logits: Tensor) -> Tensor:
    """The logits, with the least probability above 0 for tokens that have none."""
    least = logits.detach().amax(-1, keepdim=True) + math.log(torch.finfo(logits.dtype).tiny)
    return torch.where(logits == -torch.inf, least, logits)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """sum p log(p / q) of log-probabilities."""
    return (p.exp() * (p - q)).sum(-1)


def _with_rest(logits: Tensor, chosen: Tensor) -> Tensor:
    """Logits (N, k + 1) of the chosen tokens (N, k) and, as one further outcome, of all others."""
    rest = logits.scatter(-1, chosen, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, chosen), rest], -1)
