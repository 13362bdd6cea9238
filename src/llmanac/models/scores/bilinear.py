"""Bilinear attention: a learned matrix between query and key.

    A = softmax(Q W_h K^T + M)    O = A V    Q (B, H, T, d), K and V (B, H_kv, S, d), W (H, d, d), A (B, H, T, S)

The matrix says which directions of a query match which of a key; W = I is the dot product. Turning the queries by it
first leaves an unscaled dot product, so every fast form serves. Luong et al. 2015, section 3.1 (general).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.models.forward import AttentionForm
from llmanac.models.layers import init_normal
from llmanac.models.masks import AttentionMask
from llmanac.models.scores import ScoreSpec
from llmanac.models.scores.scaled_dot import ScaledDot

CARD = {"title": "Bilinear score", "paper": "Luong et al. 2015, arXiv:1508.04025", "reference": "torch.nn.Bilinear"}


@dataclass(frozen=True, kw_only=True)
class Spec(ScoreSpec):
    """Nothing to choose: W is square, of the size of a head."""

    def build(self, *, heads: int, head_dim: int, **dims: Any) -> Bilinear:
        return Bilinear(heads, head_dim)


class Bilinear(ScaledDot):
    """See the module."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__(heads, head_dim, scale=1.0)
        self.weight = nn.Parameter(torch.empty(heads, head_dim, head_dim))

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
        turned = queries @ self.weight.to(queries.dtype)
        return super().attend(turned, keys, values, mask, bias=bias, form=form)

    def flops(self, keys: float) -> float:
        return super().flops(keys) + 2.0 * self.weight.numel()

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        init_normal(parameter, 1 / self.head_dim, generator)  # scores of variance 1, as scaled-dot has
