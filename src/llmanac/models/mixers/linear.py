"""Linear attention: a feature map in place of the softmax, so that the memory of all keys is one matrix a head.

    y_t = sum_{s <= t} (f(q_t) . f(k_s)) v_s / sum_{s <= t} f(q_t) . f(k_s) = f(q_t) S_t / f(q_t) z_t
    S_t = S_{t-1} + f(k_t) v_t^T        z_t = z_{t-1} + f(k_t)        q, k and v (B, H, T, d), S (B, H, m, d)

Work and memory grow with T, and decoding keeps S and z whatever the length. The features are
    elu:      f(x) = elu(x) + 1, m = d                                        (Katharopoulos et al. 2020, section 3.2.1)
    random:   f(x) = exp(w_i . x - |x|^2 / 2) / sqrt(m), x = x / d^(1/4)      (Choromanski et al. 2021, FAVOR+)
whose products, over m orthogonal random w_i, are on average the exp(q . k / sqrt(d)) of softmax attention. Queries and
keys are rotated by positions before the feature map. There are no scores, so a position method's bias has no effect.

Tokens that may see later ones (bidirectional, prefix) read the same sums from the other side.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
from llmanac.kernels.nn.linear_attention import linear_attention
from llmanac.models.forward import Context
from llmanac.models.layers import Linear, linear_all, upcast
from llmanac.models.mixers import HeadsSpec, Mixer
from llmanac.models.state.recurrent import RecurrentState

CARD = {
    "title": "Linear attention",
    "paper": "Katharopoulos et al. 2020, arXiv:2006.16236; Choromanski et al. 2021, arXiv:2009.14794",
    "reference": "its quadratic form and its recurrence; softmax attention for random features",
    "test": "tests/references/test_linear_attention.py::test_chunks_equal_recurrence_and_quadratic_form",
    "aliases": {"random-features": {"features": "random", "count": 64}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(HeadsSpec):
    """heads: H; head_dim: d, by default D / H; features: elu, or random ones: `count` (m) of them, drawn from `seed`.

    chunk: tokens that are compared pair by pair; beyond them only S is read.
    """

    scores: ClassVar[bool] = False

    features: Literal["elu", "random"] = "elu"
    count: int = 64
    seed: int = 0
    chunk: int = 64

    ranges = within(COUNT, "count chunk") | within(NOT_NEGATIVE, "seed")

    def build(self, *, dim: int, **dims: Any) -> LinearAttention:
        return LinearAttention(self, dim)


class LinearAttention(Mixer):
    """See the module."""

    supports: ClassVar[frozenset[str]] = frozenset({"causal", "prefix", "bidirectional", "packed"})

    def __init__(self, spec: Spec, dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = spec.head_shape(dim)
        self.spec = spec
        width = self.heads * self.head_dim
        self.q_proj = Linear(dim, width)
        self.k_proj = Linear(dim, width)
        self.v_proj = Linear(dim, width)
        self.o_proj = Linear(width, dim, std=0.0)
        self.count = self.head_dim if spec.features == "elu" else spec.count

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> RecurrentState:
        """S with z as its last column, in float32 or more: sums over all tokens lose small ones in less."""
        memory = torch.float64 if dtype == torch.float64 else torch.float32
        shape = (batch, self.heads, self.count, self.head_dim + 1)
        return RecurrentState([torch.zeros(shape, dtype=memory, device=device)])

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        batch, length, _ = x.shape
        shape = (batch, length, -1, self.head_dim)
        q, k, v = (upcast(y.view(shape)) for y in linear_all(x, (self.q_proj, self.k_proj, self.v_proj)))
        q, k, v = (y.transpose(1, 2) for y in (context.rotate(q), context.rotate(k), v))
        q, k = self._features(q, free=True), self._features(k, free=False)
        v = F.pad(v, (0, 1), value=1.0)  # the sum of this column is the divisor
        real = context.real()
        if real is not None:
            k = k * real[:, None, :, None]
        held = None if state is None or context.slots is None else state.tensors[0]
        segments, chunk = context.segments, self.spec.chunk
        read, held = linear_attention(q, k, v, chunk=chunk, state=held, segments=segments)
        later = self._later(context, real)
        if later is not None:
            flipped = None if segments is None else segments.flip(1)
            seen = k if isinstance(later, bool) else k * later[:, None, :, None]
            other = [y.flip(2) for y in (q, seen, v)]
            read = read + linear_attention(*other, chunk=chunk, segments=flipped, strict=True)[0].flip(2)
        if state is not None and context.slots is not None:
            state.update(held)
        total = read[..., -1:]
        y = read[..., :-1] / total.clamp(min=torch.finfo(total.dtype).tiny)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(batch, length, -1).to(x.dtype))
        return out

    def _later(self, context: Context, real: Tensor | None) -> Tensor | bool | None:
        """(B, T) bool: keys that earlier tokens see too; True for all, None for none."""
        rule = context.mask.rule
        assert rule is not None
        if rule.kind == "prefix":
            assert rule.prefix is not None
            return context.mask.queries < rule.prefix[:, None]
        return None if rule.kind == "causal" else True

    def _features(self, x: Tensor, *, free: bool) -> Tensor:
        """(B, H, T, d) -> (B, H, T, m), all positive. A query may be scaled at will, which the division undoes."""
        if self.spec.features == "elu":
            return F.elu(x) + 1
        x = x * self.head_dim**-0.25
        drawn = torch.from_numpy(directions(self.count, self.head_dim, self.spec.seed))
        power = x @ drawn.to(x.device, x.dtype).T - x.square().sum(-1, keepdim=True) / 2
        if free:
            power = power - power.amax(-1, keepdim=True).detach()
        return torch.exp(power) * self.count**-0.5

    def flops(self, keys: float) -> float:
        """Pairs inside a chunk, and S read and written once a token."""
        products = sum(2.0 * p.weight.numel() for p in (self.q_proj, self.k_proj, self.v_proj, self.o_proj))
        wide, near = self.head_dim + 1, min(keys, float(self.spec.chunk))
        drawn = 0.0 if self.spec.features == "elu" else 4.0 * self.count * self.head_dim
        return products + self.heads * (drawn + 2.0 * near * (self.count + wide) + 4.0 * self.count * wide)


@functools.lru_cache(maxsize=32)
def directions(count: int, dim: int, seed: int) -> np.ndarray[Any, Any]:
    """(m, d) float64: rows orthogonal in groups of d, with the lengths of normal vectors (Choromanski et al., 3.3)."""
    draw = np.random.Generator(np.random.PCG64(seed))
    groups = [np.linalg.qr(draw.standard_normal((dim, dim)))[0] for _ in range(-(-count // dim))]
    lengths = np.linalg.norm(draw.standard_normal((count, dim)), axis=1)
    return np.concatenate(groups)[:count] * lengths[:, None]
