"""Multi-head latent attention: keys and values of all heads are made from one small vector a token.

    c = norm(W_a x)       k_h = [W_uk,h c; R(W_r x)]      v_h = W_uv,h c      q_h = [q^c_h; R(q^r_h)]
    o_h = softmax(q_h k_h^T / sqrt(d + r)) v_h            y = W_o [o_1 .. o_H]

x (B, T, D), c (B, T, n), q and k (B, H, T, d + r), v (B, H, T, e). R is the model's rotation; its part of a key, r
numbers, is the same for all heads and cannot come from c, since a rotation between W_uk and c would depend on the
position. The cache holds n + r numbers a token instead of H (d + r + e).

A few new tokens after many are computed without making the old keys and values again. Since
q^c_h . (W_uk,h c) = (W_uk,h^T q^c_h) . c, queries are mapped to the latent space, and what they read there is mapped
to values by W_uv,h. DeepSeek-V2, section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from llmanac.core.ranges import COUNT, POSITIVE, within
from llmanac.models.forward import Context
from llmanac.models.layers import Linear
from llmanac.models.mixers import HeadsSpec, Mixer
from llmanac.models.norms import NormSpec
from llmanac.models.norms.rmsnorm import Spec as RMSNorm
from llmanac.models.scores.scaled_dot import ScaledDot
from llmanac.models.state.kv import KVCache

CARD = {
    "title": "Multi-head latent attention",
    "paper": "DeepSeek-AI 2024, DeepSeek-V2, arXiv:2405.04434",
    "reference": "DeepseekV2Attention in transformers",
    "test": "tests/references/test_latent.py::test_equals_deepseek",
}


@dataclass(frozen=True, kw_only=True)
class Spec(HeadsSpec):
    """heads: H; head_dim: d, by default D / H; rotary_dim: r, by default d / 2; value_dim: e, by default d.

    latent: n, by default 4 d; query_latent: width of a like bottleneck of the queries, None for none; norm: of both.
    biases: of the maps to the latent spaces and of the last one (`attention_bias` of DeepSeek-V3), or none.
    scale: of the scores, besides 1 / sqrt(d + r): DeepSeek's longer contexts raise it.
    """

    scores: ClassVar[bool] = False

    rotary_dim: int | None = None
    value_dim: int | None = None
    latent: int | None = None
    query_latent: int | None = None
    norm: NormSpec = field(default_factory=RMSNorm)
    scale: float = 1.0
    biases: Literal["none", "latent"] = "none"

    ranges = within(COUNT, "rotary_dim value_dim latent query_latent") | within(POSITIVE, "scale")

    def head_shape(self, dim: int) -> tuple[int, int]:
        """The part of a head that positions rotate."""
        full = self.resolved(dim)
        assert full.rotary_dim is not None
        return self.heads, full.rotary_dim

    def resolved(self, dim: int) -> Spec:
        d = self.head_width(dim)
        return replace(
            self,
            head_dim=d,
            rotary_dim=self.rotary_dim or max(2, d // 4 * 2),
            value_dim=self.value_dim or d,
            latent=self.latent or 4 * d,
        )

    def build(self, *, dim: int, **dims: Any) -> LatentAttention:
        return LatentAttention(self.resolved(dim), dim)


class LatentAttention(Mixer):
    """See the module. Parameters have the names of DeepSeek checkpoints."""

    supports: ClassVar[frozenset[str]] = frozenset({"causal", "prefix", "bidirectional", "packed", "rewind", "page"})

    def __init__(self, spec: Spec, dim: int) -> None:
        super().__init__()
        assert spec.head_dim and spec.rotary_dim and spec.value_dim and spec.latent
        self.heads, self.latent = spec.heads, spec.latent
        self.head_dim, self.rotary_dim, self.value_dim = spec.head_dim, spec.rotary_dim, spec.value_dim
        width, bias = spec.heads * (spec.head_dim + spec.rotary_dim), spec.biases == "latent"
        if spec.query_latent is None:
            self.q_proj = Linear(dim, width)
        else:
            self.q_a_proj = Linear(dim, spec.query_latent, bias=bias)
            self.q_a_layernorm = spec.norm.build(dim=spec.query_latent)
            self.q_b_proj = Linear(spec.query_latent, width)
        self.bottleneck = spec.query_latent is not None
        self.kv_a_proj_with_mqa = Linear(dim, spec.latent + spec.rotary_dim, bias=bias)
        self.kv_a_layernorm = spec.norm.build(dim=spec.latent)
        self.kv_b_proj = Linear(spec.latent, spec.heads * (spec.head_dim + spec.value_dim))
        self.o_proj = Linear(spec.heads * spec.value_dim, dim, bias=bias, std=0.0)
        size = spec.head_dim + spec.rotary_dim
        self.score = ScaledDot(spec.heads, size, scale=size**-0.5 * spec.scale)

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> KVCache:
        sizes = (self.latent, self.rotary_dim)
        return KVCache([torch.zeros(batch, 1, 0, n, dtype=dtype, device=device) for n in sizes], dim=2)

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        batch, length, _ = x.shape
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if self.bottleneck else self.q_proj(x)
        q = q.view(batch, length, -1, self.head_dim + self.rotary_dim)
        own, turned = q.split([self.head_dim, self.rotary_dim], dim=-1)
        own, turned = own.transpose(1, 2), context.rotate(turned).transpose(1, 2)
        c, shared = self.kv_a_proj_with_mqa(x).split([self.latent, self.rotary_dim], dim=-1)
        c, shared = self.kv_a_layernorm(c)[:, None], context.rotate(shared[:, :, None]).transpose(1, 2)
        mask, bias = context.mask, context.bias
        # keys of S old tokens cost S n (d + e) to make again, queries in the latent space T S 2 n more to compare
        absorbed = False
        if state is not None and context.slots is not None:
            c, shared, keys = state.append(context.slots, c, shared)
            mask = mask.over(keys)
            absorbed = length <= (self.head_dim + self.value_dim) // 2 and length < c.shape[2]
        options: dict[str, Any] = {"bias": bias, "form": context.form}
        if absorbed:
            up_key, up_value = self._up(x.dtype)
            asked = torch.cat([own @ up_key, turned], dim=-1)
            read = self.score.attend(asked, torch.cat([c, shared], dim=-1), c, mask, **options)
            read = read @ up_value.transpose(-1, -2)
        else:
            made = self.kv_b_proj(c[:, 0]).unflatten(-1, (-1, self.head_dim + self.value_dim)).transpose(1, 2)
            k, v = made.split([self.head_dim, self.value_dim], dim=-1)
            k = torch.cat([k, shared.expand(-1, k.shape[1], -1, -1)], dim=-1)
            read = self.score.attend(torch.cat([own, turned], dim=-1), k, v, mask, **options)
        y: Tensor = self.o_proj(read.transpose(1, 2).reshape(batch, length, -1))
        return y

    def _up(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """W_uk (H, d, n) and W_uv (H, e, n)."""
        weight = self.kv_b_proj.weight.to(dtype)
        if self.kv_b_proj.change is not None:
            weight = self.kv_b_proj(torch.eye(self.latent, dtype=dtype, device=weight.device)).t().contiguous()
        weight = weight.view(-1, self.head_dim + self.value_dim, self.latent)
        up_key, up_value = weight.split([self.head_dim, self.value_dim], dim=1)
        return up_key, up_value

    def flops(self, keys: float) -> float:
        names = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
        parts = [p for name, p in self.named_children() if name in names]
        compared = 2.0 * self.heads * (self.head_dim + self.rotary_dim + self.value_dim) * keys
        return compared + sum(2.0 * int(p.in_features) * int(p.out_features) for p in parts)  # type: ignore[arg-type]
