"""Relative positions of Transformer-XL: a query is compared with each key's content, and with its distance.

    score(i, j) = [(q_i + u_h) . k_j + (q_i + v_h) . W_h R_{i-j}] / sqrt(d)

R_n (D,) is the sinusoid of distance n, W_h (d, D) makes keys of distances, and u and v (H, d) are what a head asks for
whatever the query. Everything but q . k is added to the scores as a bias (B, H, T, S). One W, u and v serve all layers;
a block that is given this method as its `position` has its own, as XLNet's layers have.

Distances that occur are projected once a layer (R D H d products); where few queries are read, as in decoding, W is
applied to the queries instead. Dai et al. 2019, section 3.3. (XLNet's R has all sines first; here they alternate with
cosines, which is the same up to the order of W's columns.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llmanac.core.ranges import COUNT, POSITIVE, within
from llmanac.models.layers import Linear, init_normal
from llmanac.models.positions import Position, PositionSpec, Project
from llmanac.models.positions.sinusoidal import sinusoids

CARD = {
    "title": "Relative positions (Transformer-XL)",
    "paper": "Dai et al. 2019, arXiv:1901.02860",
    "reference": "XLNetRelativeAttention in transformers",
    "test": "tests/references/test_relative_positions.py::test_relative_equals_xlnet",
}


@dataclass(frozen=True, kw_only=True)
class Spec(PositionSpec):
    """theta: base of the wavelengths; clamp: all distances from this on are taken as this one, None for no limit."""

    any_head_dim: ClassVar[bool] = False
    any_heads: ClassVar[bool] = False
    needs_heads: ClassVar[bool] = True

    theta: float = 10_000.0
    clamp: int | None = None

    ranges = within(POSITIVE, "theta") | within(COUNT, "clamp")

    def build(self, *, dim: int, heads: int, head_dim: int, **dims: Any) -> Relative:
        return Relative(self, dim, heads, head_dim)


class Relative(Position):
    """See the module."""

    compares = True

    def __init__(self, spec: Spec, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.dim, self.head_dim, self.theta, self.clamp = dim, head_dim, spec.theta, spec.clamp
        self.scale = head_dim**-0.5
        self.r_proj = Linear(dim, heads * head_dim)
        self.u = nn.Parameter(torch.empty(heads, head_dim))
        self.v = nn.Parameter(torch.empty(heads, head_dim))

    def content_bias(
        self, q: Tensor, k: Tensor, queries: Tensor, keys: Tensor, causal: bool, project: Project
    ) -> Tensor:
        distances = queries[:, :, None] - keys[:, None, :]
        most = self.clamp
        lowest = 0 if causal else int(distances.min())  # what comes after the query is masked
        lowest, highest = (n if most is None else max(-most, min(n, most)) for n in (lowest, int(distances.max())))
        highest = max(highest, lowest)
        found = torch.arange(lowest, highest + 1, device=q.device)
        by_distance = self._by_distance(q, sinusoids(found, self.dim, self.theta).to(q.dtype))
        places = (distances.clamp(lowest, highest) - lowest)[:, None].expand(*q.shape[:3], -1)
        return (self._content(k) + by_distance.gather(-1, places)) * self.scale

    def _content(self, k: Tensor) -> Tensor:
        """u . k: (B, H_kv, S, d) -> (B, H, 1, S)."""
        u = self.u.to(k.dtype).view(k.shape[1], -1, self.head_dim)
        return torch.einsum("bgsd,gnd->bgns", k, u).flatten(1, 2)[:, :, None]

    def _by_distance(self, q: Tensor, r: Tensor) -> Tensor:
        """(q + v) . W r for all distances: (B, H, T, d) and (R, D) -> (B, H, T, R)."""
        asked = q + self.v.to(q.dtype)[:, None]
        if q.shape[2] >= self.head_dim:
            projected = self.r_proj(r).view(len(r), -1, self.head_dim)
            return torch.einsum("bhtd,rhd->bhtr", asked, projected)
        weight = self.r_proj.weight.to(q.dtype).view(-1, self.head_dim, self.dim)
        return torch.einsum("bhtd,hdm->bhtm", asked, weight) @ r.t()

    def flops(self, keys: float) -> float:
        width = self.u.numel()
        return 2.0 * self.r_proj.weight.numel() + 2.0 * width * keys + 2.0 * width

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        init_normal(parameter, 0.02, generator)
