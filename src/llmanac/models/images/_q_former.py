"""The Q-Former: learned queries that read an image, next to the words of an instruction.

    x = [queries, words];   x = norm(x + attend(x));   q = norm(q + attend(q, image))  in every `every`-th layer
    q = norm(q + mlp_q(q));   words likewise by their own mlp      queries (B, L, D) are what the language model gets

Queries and words see each other; only queries see the image. Li et al. 2023, arXiv:2301.12597 (BLIP-2); Dai et al.
2023, arXiv:2305.06500 (InstructBLIP).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.core.spec import Spec as PlainSpec
from llmanac.models.ffn.mlp import Spec as MLP
from llmanac.models.forward import Context
from llmanac.models.images._model import Vector, everything
from llmanac.models.layers import Embedding
from llmanac.models.masks import AttentionMask
from llmanac.models.mixers.cross import Spec as Cross
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.norms.layernorm import Spec as LayerNorm
from llmanac.models.positions import Position


@dataclass(frozen=True, kw_only=True)
class QFormerSpec(PlainSpec):
    """queries: L; dim: D; layers, heads, width: of its blocks; every: layers for each that reads the image.

    words: vocabulary of instructions, 0 for none; max_length: of an instruction; eps: of the norms.
    """

    queries: int = 8
    dim: int = 64
    layers: int = 2
    heads: int = 4
    width: int = 256
    every: int = 2
    words: int = 0
    max_length: int = 64
    eps: float = 1e-12

    ranges = within(COUNT, "queries dim layers heads width every max_length")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads:
            raise SpecError(f"heads: {self.heads} must divide dim, {self.dim}")


class QFormerLayer(nn.Module):
    """See the module."""

    def __init__(self, spec: QFormerSpec, source: int, reads: bool) -> None:
        super().__init__()

        def norm() -> nn.Module:
            return LayerNorm(eps=spec.eps).build(dim=spec.dim)

        mlp = MLP(activation="gelu", width=spec.width, biases="all")
        self.attn, self.attn_norm = Softmax(heads=spec.heads, biases="all").build(dim=spec.dim), norm()
        self.cross = Cross(heads=spec.heads, biases="all").build(dim=spec.dim, source=source) if reads else None
        self.cross_norm = norm() if reads else None
        self.query_mlp, self.query_norm = mlp.build(dim=spec.dim), norm()
        self.word_mlp = mlp.build(dim=spec.dim) if spec.words else None
        self.word_norm = norm() if spec.words else None

    def forward(self, x: Tensor, context: Context, queries: int) -> Tensor:
        x = self.attn_norm(x + self.attn(x, context))
        q, words = x[:, :queries], x[:, queries:]
        if self.cross is not None and self.cross_norm is not None:
            q = self.cross_norm(q + self.cross(q, context))
        q = self.query_norm(q + self.query_mlp(q))
        if self.word_mlp is None or self.word_norm is None or not words.shape[1]:
            return q
        return torch.cat([q, self.word_norm(words + self.word_mlp(words))], 1)


class QFormer(nn.Module):
    """(B, N, source) and an instruction (B, T) -> (B, L, D)."""

    def __init__(self, spec: QFormerSpec, source: int) -> None:
        super().__init__()
        self.spec = spec
        self.query_tokens = Vector(spec.queries, spec.dim)
        self.embed_tokens = Embedding(spec.words, spec.dim) if spec.words else None
        self.positions = Embedding(spec.max_length, spec.dim) if spec.words else None
        self.norm = LayerNorm(eps=spec.eps).build(dim=spec.dim)
        self.layers: Any = nn.ModuleList(QFormerLayer(spec, source, i % spec.every == 0) for i in range(spec.layers))
        self.position = Position()

    def forward(self, image: Tensor, ids: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        x, spec = self.query_tokens().expand(len(image), -1, -1), self.spec
        real = torch.ones(len(image), spec.queries, dtype=torch.bool, device=image.device)
        if ids is not None and self.embed_tokens is not None and self.positions is not None:
            words = self.embed_tokens(ids) + self.positions.weight[: ids.shape[1]]
            x = torch.cat([x, words], 1)
            count = torch.full((len(ids),), ids.shape[1], device=ids.device) if lengths is None else lengths
            real = torch.cat([real, torch.arange(ids.shape[1], device=ids.device) < count[:, None]], 1)
        mask = AttentionMask.of_source(real, x.shape[1])
        context = Context(
            ids=None, positions=mask.queries, mask=mask, position=self.position, memory=everything(image)
        )  # fmt: skip
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, context, spec.queries)
        return x[:, : spec.queries]
