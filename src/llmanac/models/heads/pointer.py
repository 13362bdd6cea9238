"""The pointer head: predict a token from the vocabulary, or copy one from the context.

    a_tj = softmax_j(s q_t . k_j), j < t       copy_t(v) = sum_j a_tj [x_(j+1) = v]       g_t = sigmoid(w . h_t + b)
    p(v) = (1 - g_t) softmax(W h_t)_v + g_t copy_t(v)

q and k are small projections of the hidden states h (B, T, D), normalised to length sqrt(d). State j is the one that
came before token x_(j+1), so the head copies what followed a similar state: one head does what otherwise needs an
induction circuit of two layers. The first token of a document has nothing to copy and uses the vocabulary alone. The
likelihood of a target needs only sum_j a_tj [x_(j+1) = y_t], never a (T, V) copy distribution. Merity et al. 2016
(pointer sentinel); See et al. 2017 (the gate).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.errors import RequestError
from llmanac.core.ranges import COUNT, within
from llmanac.kernels.nn.cross_entropy import fused_cross_entropy
from llmanac.models.forward import Context, pick
from llmanac.models.heads import Head, HeadSpec
from llmanac.models.layers import Linear, init_normal, upcast
from llmanac.models.masks import AttentionMask
from llmanac.models.state.kv import KVCache

CARD = {
    "title": "Pointer head",
    "paper": "Merity et al. 2016, arXiv:1609.07843; See et al. 2017, arXiv:1704.04368",
    "reference": "the mixture written out over the vocabulary",
    "test": "tests/references/test_models_pointer.py::test_nll_is_the_mixture_written_out",
}

SHARPNESS = 2.0  # normalised scores lie within +- sharpness * sqrt(d), so a clear match can take nearly all the weight


@dataclass(frozen=True, kw_only=True)
class Spec(HeadSpec):
    """width: d, the size of the pointer's queries and keys; gate: initial bias b (negative: copies rarely at first)."""

    width: int = 64
    gate: float = -2.0

    ranges = within(COUNT, "width")

    def build(self, *, dim: int, vocab_size: int, **dims: Any) -> PointerHead:
        return PointerHead(dim, vocab_size, self.width, self.gate)


class PointerHead(Head):
    """See the module."""

    remembers: ClassVar[bool] = True

    def __init__(self, dim: int, vocab_size: int, width: int, gate: float) -> None:
        super().__init__()
        self.width, self.gate_bias = width, gate
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))
        self.query = Linear(dim, width)
        self.key = Linear(dim, width)
        self.gate, self.bias = PointerGate(dim, gate), None

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> KVCache:
        keys = torch.zeros(batch, 0, self.width, dtype=dtype, device=device)
        return KVCache([keys, torch.zeros(batch, 0, dtype=torch.long, device=device)], dim=1)

    def remember(self, hidden: Tensor, context: Context, state: Any) -> None:
        if state is not None and context.slots is not None:
            state.append(context.slots, _unit(self.key(hidden)), _ids(context))

    def logits(self, hidden: Tensor, context: Context, state: Any = None, last: Tensor | None = None) -> Tensor:
        keys, ids = _unit(self.key(hidden)), _ids(context)
        if state is not None and context.slots is not None:
            keys, ids, _ = state.append(context.slots, keys, ids)
        asked = pick(hidden, last)
        weights, gate, plain = self._point(asked, keys, context.mask, last)
        scores = self.changed(F.linear(asked, self.weight.to(asked.dtype)), asked)
        vocabulary = F.log_softmax(upcast(scores), dim=-1) + plain[..., None]
        copied = torch.zeros_like(vocabulary).scatter_add(2, _followers(ids)[:, None].expand_as(weights), weights)
        return torch.logaddexp(vocabulary, gate[..., None] + _safe_log(copied))

    def nll(self, hidden: Tensor, targets: Tensor, context: Context, reduction: Literal["sum", "none"]) -> Tensor:
        weights, gate, plain = self._point(hidden, _unit(self.key(hidden)), context.mask, None)
        hits = (weights * (_followers(_ids(context))[:, None] == targets[..., None])).sum(-1)
        joined, weight = self.joined(hidden.flatten(0, 1))
        values = fused_cross_entropy(
            joined,
            weight,
            targets.flatten(),
            reduction=reduction,
            fixed=self.fixed,
            mixture=(plain.flatten(), (gate + _safe_log(hits)).flatten()),
        )
        return values if reduction == "sum" else values.view(targets.shape)

    def _point(
        self, hidden: Tensor, keys: Tensor, mask: AttentionMask, last: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Copy weights (B, T, S), log g and log (1 - g), each (B, T)."""
        before = mask.strictly_before().boolean()[:, 0]
        if last is not None:
            before = before.expand(len(hidden), -1, -1)
            before = before.gather(1, last[:, None, None].expand(-1, 1, before.shape[-1]))
        scores = upcast(_unit(self.query(hidden)) @ keys.transpose(1, 2)) * (SHARPNESS * self.width**-0.5)
        # finite, so that a row which sees nothing has no NaN; its gate is shut instead
        weights = scores.masked_fill(~before, torch.finfo(scores.dtype).min).softmax(-1)
        some = before.any(-1)
        signal = upcast(self.gate(hidden))
        shut = signal.new_full((), float("-inf"))
        gate = torch.where(some, F.logsigmoid(signal), shut)
        plain = torch.where(some, F.logsigmoid(-signal), signal.new_zeros(()))
        return weights, gate, plain

    def entropy(self, hidden: Tensor, context: Context) -> Tensor:
        log_p = self.logits(hidden, context)
        return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)

    def flops(self, keys: float) -> float:
        small = 4.0 * self.query.weight.numel() + 2.0 * self.gate.weight.numel()
        return 2.0 * self.weight.numel() + small + 2.0 * self.width * keys

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        init_normal(parameter, 0.02, generator)


class PointerGate(nn.Module):
    """w . h + b: (B, T, D) -> (B, T)."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.full((), start))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden @ self.weight.to(hidden.dtype) + self.bias.to(hidden.dtype)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.fill_(0.0 if name == "weight" else self.start)


def _unit(x: Tensor) -> Tensor:
    """Vectors (..., d) scaled to length sqrt(d)."""
    y = upcast(x)
    return (y * (y.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


def _ids(context: Context) -> Tensor:
    if context.ids is None:
        raise RequestError("embeddings: a pointer head copies tokens, so it needs their ids")
    return context.ids


def _followers(ids: Tensor) -> Tensor:
    """(B, S) -> (B, S): the token after each position; the last has none, and no query attends to it."""
    return F.pad(ids[:, 1:], (0, 1))


def _safe_log(x: Tensor) -> Tensor:
    """log x with -inf and a gradient of 0 at 0."""
    tiny = torch.finfo(x.dtype).tiny
    return torch.where(x > 0, x.clamp(min=tiny).log(), x.new_full((), float("-inf")))
