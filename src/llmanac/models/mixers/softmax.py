"""Softmax attention over heads; multi-head, multi-query, grouped-query and sliding-window are choices of it.

    q, k, v = W_q x, W_k x, W_v x
    o_h = attend(q_h, k_g, v_g)  with g = h // (H / H_kv)        y = W_o [o_1 .. o_H]

x is (B, T, D), q (B, H, T, d), k and v (B, H_kv, T, d). With H_kv = H every head has keys and values of its own
(Vaswani et al. 2017, section 3.2.2); with H_kv = 1 all heads share them (multi-query, Shazeer 2019); in between is
grouped-query (Ainslie et al. 2023): the cache shrinks by H / H_kv. A window lets a token see only the last `window`
tokens, itself included (Beltagy et al. 2020); with `sinks` also the first tokens of the row, on which trained models
rest attention that they have no use for (Xiao et al. 2023, arXiv:2309.17453; here tokens keep their positions). The
cache of a window holds window + sinks tokens. Normed queries and keys: Henry et al. 2020.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, POSITIVE, within
from llmanac.kernels.nn.flash import flash_attention
from llmanac.kernels.nn.takes import remade
from llmanac.kernels.nn.uncompiled import uncompiled
from llmanac.models._tiles import Tile, tiles_of
from llmanac.models.forward import AttentionForm, Context
from llmanac.models.layers import Linear, linear_all
from llmanac.models.masks import AttentionMask, by_document
from llmanac.models.mixers import Mixer, SharedHeadsSpec
from llmanac.models.norms import NormSpec
from llmanac.models.scores import ScoreSpec, scaled_dot
from llmanac.models.state import LayerState
from llmanac.models.state.kv import kv_cache
from llmanac.models.state.ring import RingCache

CARD = {
    "title": "Softmax attention",
    "titles": {"multi-query": "Multi-query attention", "grouped-query": "Grouped-query attention"},
    "paper": "Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245",
    "reference": "GPT2Attention and LlamaAttention in transformers",
    "aliases": {
        "multi-head": {"kv_heads": None, "window": None},
        "multi-query": {"kv_heads": 1},
        "grouped-query": {"kv_heads": 2},
        "sliding-window": {"window": 128},
        "attention-sinks": {"window": 128, "sinks": 4},
    },
}


RING = 1 << 13  # tokens of the longest window that is kept in a ring, which takes its memory at once


@dataclass(frozen=True, kw_only=True)
class Spec(SharedHeadsSpec):
    """heads: H; head_dim: d, by default D / H; kv_heads: H_kv, by default H; window: tokens seen, None for all.

    sinks: first tokens of a row that are seen besides the window.
    score compares queries with keys; qk_norm normalises both before positions turn them (or `after`: Hunyuan), each
    head alone (`each-head`: with weights of its own, a LayerNorm's only) or all heads as one vector (OLMo 2); biases
    says which of the products add one: none, those of q, k and v, that of the output, or all four. clip bounds q, k
    and v (OLMo, MPT).
    """

    window: int | None = None
    sinks: int = 0
    score: ScoreSpec = field(default_factory=scaled_dot.Spec)
    qk_norm: NormSpec | None = None
    qk_norm_over: Literal["head", "each-head", "all-heads"] = "head"
    qk_norm_at: Literal["before", "after"] = "before"
    biases: Literal["none", "qkv", "output", "all"] = "none"
    clip: float | None = None

    ranges = within(COUNT, "window") | within(POSITIVE, "clip")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.qk_norm_over == "each-head" and self.qk_norm is not None and self.qk_norm.name != "layernorm":
            raise SpecError("qk_norm_over: each-head has weights a head, which layernorm alone takes; use head")
        if self.qk_norm_at == "after" and self.qk_norm_over != "head":
            raise SpecError(f"qk_norm_at: after goes with qk_norm_over = head, not {self.qk_norm_over}")
        if self.sinks < 0 or (self.sinks and self.window is None):
            raise SpecError(f"sinks: {self.sinks} must be 0 or more, and are seen besides a window; set window too")

    def build(self, *, dim: int, **dims: Any) -> SoftmaxAttention:
        return SoftmaxAttention(self, dim)


@functools.lru_cache(maxsize=64)
def _seen(window: int, sinks: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The pattern of a window with sinks; one object for all layers, so that they have one mask."""
    return lambda queries, keys: ((queries - keys).abs() < window) | (keys < sinks)


class SinkTiles:
    """The tiles of a window, `near`, each with one more: the first tokens of the row that the window does not show."""

    def __init__(self, near: AttentionMask, seen: AttentionMask, sinks: int) -> None:
        self.near, self.seen = near, seen
        self.tiles = tiles_of(near, scaled_dot.TILE // 2, scaled_dot.TILE // 2)
        self.first: Any = ((near.keys >= 0) & (near.keys < sinks)).any(0).nonzero()[:, 0]  # where they are kept

    def __iter__(self) -> Iterator[tuple[slice, list[Tile | tuple[Any, Tensor]]]]:
        for rows, parts in self.tiles:
            far = self.seen.tile(rows, self.first) & ~self.near.tile(rows, self.first)
            yield rows, [*parts, (self.first, far)]


@uncompiled  # reads positions
def _sink_tiles(near: AttentionMask, seen: AttentionMask, sinks: int) -> Any:
    """The tiles of a window with sinks, made once for all layers."""
    if ("sinks", sinks) not in near.plans:
        near.plans["sinks", sinks] = SinkTiles(near, seen, sinks)
    return near.plans["sinks", sinks]


def _beside(read: Tensor) -> Tensor:
    """What the heads read (B, H, T, d) side by side (B, T, H d)."""
    return read.transpose(1, 2).flatten(2)


class SoftmaxAttention(Mixer):
    """See the module."""

    supports: ClassVar[frozenset[str]] = frozenset({"causal", "prefix", "bidirectional", "packed", "rewind", "page"})

    def __init__(self, spec: Spec, dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = spec.head_shape(dim)
        self.kv_heads = spec.kv_heads or spec.heads
        self.window, self.sinks = spec.window, spec.sinks
        width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        bias = spec.biases in ("qkv", "all")
        self.clip = spec.clip
        self.q_proj = Linear(dim, width, bias=bias)
        self.k_proj = Linear(dim, kv_width, bias=bias)
        self.v_proj = Linear(dim, kv_width, bias=bias)
        self.o_proj = Linear(width, dim, bias=spec.biases in ("output", "all"), std=0.0)
        self.norm_turned = spec.qk_norm_at == "after"
        alone, own = spec.qk_norm_over != "all-heads", spec.qk_norm_over == "each-head"
        self.normed = (-1, self.head_dim) if alone else (1, -1)  # of the last axis of queries and keys, before a norm

        def norm(heads: int) -> nn.Module | None:
            size: Any = (heads, self.head_dim) if own else self.head_dim if alone else heads * self.head_dim
            return spec.qk_norm.build(dim=size) if spec.qk_norm else None

        self.q_norm, self.k_norm = norm(self.heads), norm(self.kv_heads)
        self.score = spec.score.build(heads=self.heads, head_dim=self.head_dim)

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> LayerState:
        if self.window is not None and self.window <= RING:
            return RingCache(batch, self.kv_heads, self.head_dim, self.window, self.sinks, dtype=dtype, device=device)
        return kv_cache(batch, self.kv_heads, self.head_dim, dtype=dtype, device=device)

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = linear_all(x, (self.q_proj, self.k_proj, self.v_proj))
        if self.clip is not None:
            q, k, v = (part.clamp(-self.clip, self.clip) for part in (q, k, v))
        q, k = self._place(q, self.q_norm, context), self._place(k, self.k_norm, context)
        v = v.view(batch, length, -1, self.head_dim).transpose(1, 2)
        mask, keys = context.mask, None
        if state is not None and context.slots is not None:
            k, v, keys = state.append(context.slots, k, v)
            mask = mask.over(keys)
        bias = context.score_bias(q, k, self._project, keys)
        read = self._read(q, k, v, mask, bias, context.form)
        y: Tensor = self.o_proj(remade(_beside(read), _beside, read))
        return y

    def _read(
        self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, bias: Tensor | None, form: AttentionForm
    ) -> Tensor:
        near, score, length = mask.within(self.window), self.score, q.shape[2]
        if self.window is None or not self.sinks or near is mask:
            return score.attend(q, k, v, near, bias=bias, form=form)
        packed = mask.rule is not None and mask.rule.segments is not None  # each document has sinks of its own
        seen = (by_document(mask) if packed else mask).patterned(_seen(self.window, self.sinks))
        tiled = not packed and (form == "flash" or (form != "plain" and length > scaled_dot.LONG * self.window))
        if tiled and length > 1 and bias is None and isinstance(score, scaled_dot.ScaledDot):
            tiles = _sink_tiles(near, seen, self.sinks)
            return flash_attention(q, k, v, tiles, scale=score.scale, softcap=score.softcap, sinks=score.sinks)
        return score.attend(q, k, v, seen, bias=bias, form=form)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (H, N, d) and keys (H_kv, N, d) of vectors (N, D), as positions compare them with contents."""
        q, k = (made.unflatten(-1, (-1, self.head_dim)).transpose(0, 1) for made in (self.q_proj(x), self.k_proj(x)))
        return q, k

    def _place(self, x: Tensor, norm: nn.Module | None, context: Context) -> Tensor:
        """Norm and turn queries or keys: (B, T, H d) -> (B, H, T, d)."""
        batch, length, _ = x.shape
        if norm is not None and self.norm_turned:
            x = norm(context.rotate(x.view(batch, length, -1, self.head_dim)))
            return x.transpose(1, 2)
        x = x if norm is None else norm(x.view(batch, length, *self.normed))
        return context.rotate(x.view(batch, length, -1, self.head_dim)).transpose(1, 2)

    def flops(self, keys: float) -> float:
        products = sum(2 * p.in_features * p.out_features for p in (self.q_proj, self.k_proj, self.v_proj, self.o_proj))
        return products + self.score.flops(keys if self.window is None else min(keys, self.window + self.sinks))
