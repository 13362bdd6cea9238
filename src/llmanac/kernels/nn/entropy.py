"""Entropy of a linear head's distributions without its logits: values and gradients chunk by chunk.

H_i = - sum_v p_iv log p_iv,  p_i = softmax(c(h_i W^T + b))        h (N, D), W (V, D), H (N,)

c is the identity or a soft cap, c(x) = a tanh(x / a).
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 1 << 21  # logits held at a time


def chunked_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None = None, softcap: float | None = None) -> Tensor:
    """Entropies in nats of softmax(c(hidden W^T + b)).

    Args:
        hidden: (N, D); weight: (V, D); bias: (V,) or None; softcap: a, or None. Products are computed in the dtype of
            `hidden`, the rest in float32 at least.

    Returns:
        (N,); its backward pass computes each chunk's logits again.
    """
    rows = max(1, CHUNK_ELEMENTS // len(weight))
    parts = [
        checkpoint(_entropy, part, weight, bias, softcap, use_reentrant=False) if torch.is_grad_enabled()
        else _entropy(part, weight, bias, softcap)
        for part in hidden.split(rows)
    ]  # fmt: skip
    return torch.cat(parts)


def _entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    logits = hidden @ weight.to(hidden.dtype).t()
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if bias is not None:
        logits = logits + bias
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)
