"""Mixture of experts: each token is sent to the k feed-forward layers that a router scores highest.

    p = softmax(W_r x)        y = sum_{i in top-k(p)} g_i E_i(x),  g = p_i / sum_{j in top-k} p_j        + E_shared(x)

x (B, T, D), W_r (experts, D), E_i gated or plain layers of width F. Parameters grow with the number of experts, FLOPs
with k. The load-balance loss experts * sum_i f_i P_i (f_i: assignments to expert i a token, P_i: its mean probability),
times `balance`, is the forward pass's `aux["load-balance"]`: without it a few experts take all tokens.

Shazeer et al. 2017; Fedus et al. 2021, section 2.2, for the loss, in Mixtral's form (Jiang et al. 2024) for k > 1;
DeepSeekMoE (Dai et al. 2024) for the shared expert.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.models._context import Context
from llmanac.models._layers import Linear, upcast
from llmanac.models.ffn import FFNSpec
from llmanac.models.ffn.gated import Spec as Gated

CARD = {
    "title": "Mixture of experts",
    "paper": "Shazeer et al. 2017, arXiv:1701.06538; Jiang et al. 2024, arXiv:2401.04088",
    "reference": "MixtralSparseMoeBlock and its load_balancing_loss_func in transformers",
    "test": "tests/references/test_experts.py::test_experts_equal_mixtral",
}


@dataclass(frozen=True, kw_only=True)
class Spec(FFNSpec):
    """experts: how many; top_k: k; expert: what each is; shared: one that sees every token, or None.

    balance: coefficient of the load-balance loss; router_bias: a learned number is added to each score, or none.
    """

    experts: int = 8
    top_k: int = 2
    expert: FFNSpec = field(default_factory=Gated)
    shared: FFNSpec | None = None
    balance: float = 0.01
    router_bias: Literal["none", "learned"] = "none"

    def __post_init__(self) -> None:
        if self.experts < 1:
            raise SpecError(f"experts: {self.experts} must be at least 1")
        if not 1 <= self.top_k <= self.experts:
            raise SpecError(f"top_k: {self.top_k} is not between 1 and experts, {self.experts}")
        if self.balance < 0:
            raise SpecError(f"balance: {self.balance} must be at least 0")
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
    """See the module."""

    def __init__(self, spec: Spec, dim: int) -> None:
        super().__init__()
        self.count, self.top_k, self.balance = spec.experts, spec.top_k, spec.balance
        self.router = Linear(dim, spec.experts, bias=spec.router_bias == "learned")
        self.experts: Any = nn.ModuleList(spec.expert.build(dim=dim) for _ in range(spec.experts))
        self.shared = None if spec.shared is None else spec.shared.build(dim=dim)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        flat = x.flatten(0, 1)
        probabilities = upcast(self.router(flat)).softmax(-1)
        gates, chosen = probabilities.topk(self.top_k, dim=-1)
        gates = (gates / gates.sum(-1, keepdim=True)).to(x.dtype)
        y = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            tokens, slot = (chosen == index).nonzero(as_tuple=True)
            # an expert that no token chose still takes part, so that its gradient is 0 and not missing
            y = y.index_add(0, tokens, expert(flat[tokens], context) * gates[tokens, slot, None])
        if self.shared is not None:
            y = y + self.shared(flat, context)
        if self.training or torch.is_grad_enabled():
            context.add_loss("load-balance", self._balance(probabilities, chosen, context.real()))
        return y.view_as(x)

    def _balance(self, probabilities: Tensor, chosen: Tensor, real: Tensor | None) -> Tensor:
        assigned = torch.zeros_like(probabilities).scatter_(1, chosen, 1.0)
        if real is not None:
            keep = real.flatten().nonzero().squeeze(1)
            assigned, probabilities = assigned[keep], probabilities[keep]
        tokens = max(1, len(assigned))
        return self.balance * self.count * (assigned.sum(0) * probabilities.sum(0)).sum() / tokens**2

    def flops(self) -> float:
        """Matrix-product FLOPs of one token, forward: k experts, the shared one and the router."""
        shared = 0.0 if self.shared is None else self.shared.flops()
        return self.top_k * float(self.experts[0].flops()) + shared + 2.0 * self.router.weight.numel()
