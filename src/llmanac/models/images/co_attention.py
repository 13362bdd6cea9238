"""Two streams with co-attention: text and image each have a stack, and each layer of one looks at the other.

    t' = layer_t(t, v);   v' = layer_v(v, t)          layer(x, m): x = norm(x + attend(x)); x = norm(x + attend(x, m));
                                                                  x = norm(x + ffn(x))
    pooled = [tanh(W_t t_1), tanh(W_v v_1)];   answer = W pooled

The layer is the post-norm block with cross-attention (`blocks/post_norm`), which is METER's. What enters are features
of any two encoders, through a matrix each; with `links` of `bridge` every layer is also given the output of one more
of the encoders' last blocks, t = norm(t + W text_i), so that the top of both takes part (BridgeTower). At equal depth
two streams cost about twice the layers of a single one. texts (B, T, D_t), images (B, N, D_v) -> (B, K).
Dou et al. 2021, arXiv:2111.02387 (METER); Lu et al. 2019, arXiv:1908.02265; Xu et al. 2022 (BridgeTower).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.core.types import HIDDEN, Batch, OutputRequest
from llmanac.models.blocks import BlockSpec
from llmanac.models.blocks.post_norm import Spec as PostNorm
from llmanac.models.ffn.mlp import Spec as MLP
from llmanac.models.forward import Context, SourceMemory
from llmanac.models.images import MultimodalSpec
from llmanac.models.images._model import Choosing
from llmanac.models.images.vit import Spec as ViTSpec
from llmanac.models.layers import Embedding, Linear
from llmanac.models.lm import LanguageModelSpec
from llmanac.models.lm.encoder import Spec as EncoderSpec
from llmanac.models.lm.transformer import build_blocks
from llmanac.models.masks import AttentionMask
from llmanac.models.mixers.cross import Spec as Cross
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.norms import NormSpec
from llmanac.models.norms.layernorm import Spec as LayerNorm
from llmanac.models.positions import Position

CARD = {
    "title": "Two streams with co-attention (METER)",
    "paper": "Dou et al. 2021, arXiv:2111.02387",
    "reference": "BridgeTowerForImageAndTextRetrieval in transformers; its cross layer is METER's",
    "aliases": {
        "bridge-tower": {
            "links": "bridge",
            "vision": {"name": "vit", "layers": 2},
            "text": {"name": "encoder", "dim": 128, "layers": 2},
        }
    },
    "test": "tests/references/test_unified.py::test_co_attention_layer_equals_bridgetower",
}


def _blocks() -> tuple[BlockSpec, ...]:
    return (
        PostNorm(
            mixer=Softmax(biases="all"), cross=Cross(biases="all"), ffn=MLP(activation="gelu", biases="all")
        ),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Spec(MultimodalSpec):
    """vision, text: the encoders in front; dim: D of both streams; layers: of each; blocks: the pattern of each.

    links: whether the layers read the encoders' last outputs, or a block's output each (`bridge`); answers: K.
    """

    vision: ViTSpec = field(default_factory=lambda: ViTSpec(layers=2))
    text: LanguageModelSpec = field(default_factory=lambda: EncoderSpec(dim=128, layers=1))
    dim: int = 128
    layers: int = 2
    blocks: tuple[BlockSpec, ...] = field(default_factory=_blocks)
    norm: NormSpec = field(default_factory=LayerNorm)
    links: Literal["none", "bridge"] = "none"
    answers: int = 2

    ranges = within(COUNT, "dim layers answers")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.blocks or not all("source" in block.needs for block in self.blocks):
            raise SpecError("blocks: each needs cross-attention (`cross`) to the other stream")
        text: Any = self.text
        if self.links == "bridge" and not self.layers <= text.layers <= self.vision.layers:
            raise SpecError(f"links: bridge needs at least {self.layers} blocks of text, and as many of the image")

    @property
    def bridged(self) -> tuple[int, ...]:
        """The encoders' blocks that the layers read, from 1 on."""
        text: Any = self.text
        return tuple(range(text.layers - self.layers + 1, text.layers + 1))

    def build(self, *, vocab_size: int, **dims: Any) -> CoAttention:
        """vocab_size: of the text."""
        return CoAttention(self, vocab_size)


class Stream(nn.Module):
    """One modality: into D, and its layers."""

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        self.proj = Linear(width, spec.dim, bias=True)
        self.layers = build_blocks(spec.blocks, spec.layers, spec.dim, spec.norm, 1 << 20)
        self.pooler = Linear(spec.dim, spec.dim, bias=True)
        count = spec.layers if spec.links == "bridge" else 0
        self.norms = nn.ModuleList(spec.norm.build(dim=spec.dim) for _ in range(count))

    def given(self, x: Tensor, modality: Tensor, number: int, before: Tensor | None) -> Tensor:
        """What layer `number` reads: an encoder's features x, and what the layer before gave."""
        x = self.proj(x) + modality
        x = x if before is None else before + x
        return self.norms[number](x) if len(self.norms) else x


class CoAttention(Choosing):
    """See the module."""

    def __init__(self, spec: Spec, vocab_size: int) -> None:
        super().__init__(spec, vocab_size)
        text: Any = spec.text
        self.vision, self.text = spec.vision.build(), text.build(vocab_size=vocab_size)
        self.texts, self.images = Stream(spec, text.dim), Stream(spec, spec.vision.dim)
        self.modality = Embedding(2, spec.dim)
        self.position = Position()
        self.classifier = Linear(2 * spec.dim, spec.answers, bias=True, std=0.02)
        self.begin()

    def _context(self, own: Tensor, other: SourceMemory) -> Context:
        """What a layer of one stream sees: the real places (B, T) of its own, and the other stream."""
        mask = AttentionMask.of_source(own, own.shape[1])
        return Context(
            ids=None, positions=mask.queries, mask=mask, position=self.position, form=self.attention_form, memory=other
        )

    def fuse(self, texts: Sequence[Tensor], images: Sequence[Tensor], real: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, D_t) and (B, N, D_v), once or a layer, and real places (B, T) -> both after all layers."""
        t = v = there = None
        for number, (text_layer, image_layer) in enumerate(zip(self.texts.layers, self.images.layers, strict=True)):
            if number < len(texts):
                t = self.texts.given(texts[number], self.modality.weight[0], number, t)
                v = self.images.given(images[number], self.modality.weight[1], number, v)
            assert t is not None and v is not None
            there = torch.ones(v.shape[:2], dtype=torch.bool, device=v.device) if there is None else there
            t, v = (
                text_layer(t, self._context(real, SourceMemory(v, there))),
                image_layer(v, self._context(there, SourceMemory(t, real))),
            )
        assert t is not None and v is not None
        return t, v

    def forward(self, ids: Tensor, pixels: Tensor, lengths: Tensor | None = None) -> Tensor:
        """ids (B, T) and pixels (B, C, H, H) -> scores of the answers (B, K)."""
        count = torch.full((len(ids),), ids.shape[1], device=ids.device) if lengths is None else lengths
        real = torch.arange(ids.shape[1], device=ids.device) < count[:, None]
        batch = Batch(ids=ids, lengths=lengths, mask="bidirectional")
        if self.spec.links == "bridge":
            numbers = self.spec.bridged
            t, v = self.fuse(
                self.text(batch, want=OutputRequest(layers=numbers)).layers, self.vision.layers(pixels, numbers), real
            )
        else:
            t, v = self.fuse([self.text(batch, want=HIDDEN).hidden], [self.vision.encode(pixels)], real)
        pooled = [torch.tanh(part.pooler(x[:, 0])) for part, x in ((self.texts, t), (self.images, v))]
        scores: Tensor = self.classifier(torch.cat(pooled, 1))
        return scores
