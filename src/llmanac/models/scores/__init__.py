"""Attention scores: how a query and a key are compared, and how values are then read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from llmanac.core.spec import Spec
from llmanac.models.forward import AttentionForm
from llmanac.models.masks import AttentionMask


@dataclass(frozen=True, kw_only=True)
class ScoreSpec(Spec):
    """`build(heads=, head_dim=) -> Score`."""

    kind = "score"

    def build(self, *args: Any, **dims: Any) -> AttentionScore:
        """heads: query heads; head_dim: size of each."""
        raise NotImplementedError


class AttentionScore(nn.Module):
    """Reads values by how queries compare with keys."""

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
        """Queries (B, H, T, d), keys and values (B, H_kv, S, d) with H a multiple of H_kv -> (B, H, T, d).

        Head h reads key-value head h // (H / H_kv). `bias` (B or 1, H, T, S) is added to the scores. `form` chooses
        among computations of the same function.
        """
        raise NotImplementedError

    def flops(self, keys: float) -> float:
        """Matrix-product FLOPs of one query over `keys` keys, all heads, forward."""
        raise NotImplementedError
