"""Mixture of experts: each token is sent to the k feed-forward layers that a router scores highest.

    p = softmax(W_r x)        y = sum_{i in top-k(p)} g_i E_i(x),  g = p_i / sum_{j in top-k} p_j        + E_shared(x)

x (B, T, D), W_r (experts, D), E_i gated or plain layers of width F. Parameters grow with the number of experts, FLOPs
with k. The load-balance loss experts * sum_i f_i P_i (f_i: assignments to expert i a token, P_i: its mean probability),
times `balance`, is the forward pass's `aux["load-balance"]`: without it a few experts take all tokens. A trainer sets
`of_step` where a step has several forward passes (`train/step.py`).

DeepSeek-V3 scores with a sigmoid in place of the softmax, p_i = sigmoid(w_i x), and chooses by p_i + b_i: b is no
parameter of the loss but moved by hand to balance experts, and g is made of p alone. Experts may be in `groups`, of
which the `top_groups` with the highest sums of two scores are open; g is multiplied by `scale`.

Shazeer et al. 2017; Fedus et al. 2021, section 2.2, for the loss, in Mixtral's form (Jiang et al. 2024) for k > 1;
DeepSeekMoE (Dai et al. 2024) for the shared expert; DeepSeek-V3 (arXiv:2412.19437), section 2.1.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, NOT_NEGATIVE, POSITIVE, within
from llmanac.models.ffn import FFNSpec
from llmanac.models.ffn.gated import Spec as Gated
from llmanac.models.forward import Context
from llmanac.models.layers import Linear, upcast

CARD = {
    "title": "Mixture of experts",
    "paper": "Shazeer et al. 2017, arXiv:1701.06538; Jiang et al. 2024, arXiv:2401.04088",
    "reference": "MixtralSparseMoeBlock and its load_balancing_loss_func in transformers",
    "test": "tests/references/test_experts.py::test_experts_equal_mixtral",
}


@dataclass(frozen=True, kw_only=True)
class Spec(FFNSpec):
    """experts: how many; top_k: k; expert: what each is; shared: one that sees every token, or None.

    shared_gate: what the shared one is multiplied by, nothing or sigmoid(w x) (Qwen 1.5).

    balance: coefficient of the load-balance loss; scoring: p; groups, top_groups, scale: see the module.
    router_bias: none, a learned one of W_r, or b, which acts on the choice alone (`balancing`).
    gates: g, the `share` of p among the chosen experts, or p itself (`score`).
    """

    experts: int = 8
    top_k: int = 2
    expert: FFNSpec = field(default_factory=Gated)
    shared: FFNSpec | None = None
    balance: float = 0.01
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    router_bias: Literal["none", "learned", "balancing"] = "none"
    gates: Literal["share", "score"] = "share"
    groups: int = 1
    top_groups: int = 1
    scale: float = 1.0
    shared_gate: Literal["none", "sigmoid"] = "none"

    ranges = within(COUNT, "experts top_k top_groups") | within(POSITIVE, "scale") | within(NOT_NEGATIVE, "balance")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k > self.experts:
            raise SpecError(f"top_k: {self.top_k} is not between 1 and experts, {self.experts}")
        if self.top_groups > self.groups:
            raise SpecError(f"top_groups: {self.top_groups} is not between 1 and groups, {self.groups}")
        size = self.experts // self.groups
        if self.groups > 1 and (self.experts % self.groups or size < 2):
            raise SpecError(f"groups: {self.experts} experts are not {self.groups} groups of one size, of at least 2")
        if self.top_k > self.top_groups * size:
            raise SpecError(f"top_k: {self.top_k} experts, but {self.top_groups} groups have {self.top_groups * size}")
        if self.shared_gate != "none" and self.shared is None:
            raise SpecError("shared_gate: there is no shared expert; set shared too")
        for name in ("expert", "shared"):
            part = getattr(self, name)
            if part is not None and part.name in ("experts", "none"):
                raise SpecError(f"{name}: {part.name} cannot be an expert; use a plain or gated layer")

    def resolved(self, dim: int) -> Spec:
        shared = None if self.shared is None else self.shared.resolved(dim)
        return replace(self, expert=self.expert.resolved(dim), shared=shared)

    def build(self, *, dim: int, **dims: Any) -> Experts:
        return Experts(self, dim)


class Experts(nn.Module):
    """See the module.

    Attributes:
        seen: (experts + 1,) int64, where tokens are counted: assignments to each expert, then tokens, so far.
        of_step: the same of all tokens whose loss the trainer adds up; None where that is one forward pass.
    """

    def __init__(self, spec: Spec, dim: int) -> None:
        super().__init__()
        self.count, self.top_k, self.balance, self.scoring = spec.experts, spec.top_k, spec.balance, spec.scoring
        self.groups, self.top_groups, self.scale, self.gates = spec.groups, spec.top_groups, spec.scale, spec.gates
        self.router = Linear(dim, spec.experts, bias=spec.router_bias == "learned")
        self.experts: Any = nn.ModuleList(spec.expert.build(dim=dim) for _ in range(spec.experts))
        self.correction = None
        if spec.router_bias == "balancing":
            self.correction = nn.Parameter(torch.zeros(spec.experts), requires_grad=False)
        self.shared = None if spec.shared is None else spec.shared.build(dim=dim)
        self.shared_gate = Linear(dim, 1, bias=False) if spec.shared_gate == "sigmoid" else None
        self.seen: Tensor | None = None
        self.of_step: Tensor | None = None

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        flat = x.flatten(0, 1)
        scores = upcast(self.router(flat))
        scores = scores.softmax(-1) if self.scoring == "softmax" else scores.sigmoid()
        chosen = self._choose(scores.detach())
        gates = scores.gather(-1, chosen)
        gates = gates / gates.sum(-1, keepdim=True) if self.gates == "share" else gates
        gates = (gates * self.scale).to(x.dtype)
        y = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            tokens, slot = (chosen == index).nonzero(as_tuple=True)
            # an expert that no token chose still takes part, so that its gradient is 0 and not missing
            y = y.index_add(0, tokens, expert(flat[tokens], context) * gates[tokens, slot, None])
        if self.shared is not None:
            seen = self.shared(flat, context)
            y = y + (seen if self.shared_gate is None else seen * self.shared_gate(flat).sigmoid())
        if self.training or torch.is_grad_enabled():
            probabilities = scores if self.scoring == "softmax" else scores / scores.sum(-1, keepdim=True)
            context.add_loss("load-balance", self._balance(probabilities, chosen, context.real()))
        return y.view_as(x)

    def _choose(self, scores: Tensor) -> Tensor:
        """Scores (N, experts) -> the chosen experts (N, k)."""
        if self.correction is not None:
            scores = scores + self.correction.to(scores.dtype)
        if self.groups > 1:
            grouped = scores.unflatten(-1, (self.groups, -1))
            best = grouped.topk(2, dim=-1).values.sum(-1).topk(self.top_groups, dim=-1).indices
            closed = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter_(-1, best, False)
            scores = grouped.masked_fill(closed[..., None], -torch.inf).flatten(-2)
        return scores.topk(self.top_k, dim=-1).indices

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.zero_()

    def _balance(self, probabilities: Tensor, chosen: Tensor, real: Tensor | None) -> Tensor:
        assigned = torch.zeros_like(probabilities).scatter_(1, chosen, 1.0)
        if real is not None:
            keep = real.flatten().nonzero().squeeze(1)
            assigned, probabilities = assigned[keep], probabilities[keep]
        own = F.pad(assigned.sum(0).long(), (0, 1), value=len(assigned))
        if self.seen is not None:
            self.seen += own
        counts = (own if self.of_step is None else self.of_step).to(probabilities.dtype)
        return self.balance * self.count * (counts[:-1] * probabilities.sum(0)).sum() / counts[-1].clamp(min=1) ** 2

    def flops(self) -> float:
        """Matrix-product FLOPs of one token, forward: k experts, the shared one and the router."""
        shared = 0.0 if self.shared is None else self.shared.flops()
        shared += 0.0 if self.shared_gate is None else 2.0 * self.shared_gate.weight.numel()
        return self.top_k * float(self.experts[0].flops()) + shared + 2.0 * self.router.weight.numel()
