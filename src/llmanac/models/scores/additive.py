"""Additive attention: a small network compares a query with a key.

    e_ts = v_h^T tanh(W_h q_t + U_h k_s)      A = softmax(e + M)      O = A V
    Q (B, H, T, d), K and V (B, H_kv, S, d), W and U (H, n, d), v (H, n), e and A (B, H, T, S)

It can express more than a product, and costs a tanh of n numbers for every pair of tokens. The (B, H, T, S, n) inside
of the tanh is made for a few queries at a time, in the backward pass too (`kernels/nn/additive`). Every form is
computed as `plain`. Bahdanau et al. 2014, appendix A.1.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.core.ranges import COUNT, within
from llmanac.kernels.nn.additive import additive_scores
from llmanac.models.forward import AttentionForm
from llmanac.models.layers import init_normal
from llmanac.models.masks import AttentionMask
from llmanac.models.scores import AttentionScore, ScoreSpec, read_values

CARD = {
    "title": "Additive score",
    "paper": "Bahdanau et al. 2014, arXiv:1409.0473",
    "reference": "the formula written out; gradcheck",
    "aliases": {"nonlinear": {}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(ScoreSpec):
    """hidden: n, by default the size of a head."""

    hidden: int | None = None

    ranges = within(COUNT, "hidden")

    def build(self, *, heads: int, head_dim: int, **dims: Any) -> Additive:
        return Additive(heads, head_dim, self.hidden or head_dim)


class Additive(AttentionScore):
    """See the module."""

    def __init__(self, heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.hidden = heads, head_dim, hidden
        self.query = nn.Parameter(torch.empty(heads, hidden, head_dim))
        self.key = nn.Parameter(torch.empty(heads, hidden, head_dim))
        self.value = nn.Parameter(torch.empty(heads, hidden))

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: AttentionMask,
        *,
        bias: Tensor | None = None,
        form: AttentionForm = "plain",
    ) -> Tensor:
        shared = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
        q = queries @ self.query.to(queries.dtype).transpose(-1, -2)
        k = shared @ self.key.to(keys.dtype).transpose(-1, -2)
        return read_values(additive_scores(q, k, self.value.to(q.dtype)), values, mask, bias)

    def flops(self, keys: float) -> float:
        """Queries and keys are projected once a token."""
        each = 2.0 * self.hidden + 2.0 * self.head_dim
        return self.heads * (4.0 * self.hidden * self.head_dim + each * keys)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        init_normal(parameter, parameter.shape[-1] ** -0.5, generator)
