"""The vision transformer: an image is a sequence of patches, read by the encoder that reads text.

    x_i = W patch_i + b (+ a class token in front) + positions;  x = block_l(x) for l = 1 .. L;  pooled = pool(norm(x))

Pixels (B, C, H, H) -> x (B, N, D) with N = (H / p)^2 patches of p x p pixels -> pooled (B, D) -> classes (B, K). The
cost of attention grows with N^2, so half the patch size is 4 times the tokens and up to 16 times the attention.
`pool` is the class token (ViT, CLIP), the mean of the patches, or attention of one learned query (SigLIP):

    o = attend(probe, x, x);   pooled = o + mlp(norm(o))

Dosovitskiy et al. 2020, arXiv:2010.11929; Zhai et al. 2021, arXiv:2106.04560 for attention pooling.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.models.blocks import BlockSpec
from llmanac.models.blocks.pre_norm import Spec as PreNorm
from llmanac.models.ffn.mlp import Spec as MLP
from llmanac.models.forward import Context
from llmanac.models.images import PatchesSpec
from llmanac.models.images._model import (
    MultimodalModel,
    Patches,
    Vector,
    check_pixels,
    everything,
    reading,
    run_stack,
    spread,
)
from llmanac.models.layers import Linear
from llmanac.models.lm.transformer import build_blocks, build_position, stack_flops
from llmanac.models.mixers.cross import Spec as Cross
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.norms import NormSpec
from llmanac.models.norms.layernorm import Spec as LayerNorm
from llmanac.models.positions import PositionSpec
from llmanac.models.positions.learned import Spec as Learned

CARD = {
    "title": "Vision transformer",
    "paper": "Dosovitskiy et al. 2020, arXiv:2010.11929",
    "reference": "ViTForImageClassification, CLIPVisionModel and SiglipVisionModel in transformers",
}


def vision_blocks(activation: Any = "gelu", heads: int = 4) -> tuple[BlockSpec, ...]:
    """The block of vision encoders: LayerNorm in front, biases everywhere."""
    return (PreNorm(mixer=Softmax(heads=heads, biases="all"), ffn=MLP(activation=activation, biases="all")),)


@dataclass(frozen=True, kw_only=True)
class Spec(PatchesSpec):
    """blocks: the pattern that repeats to L; image, patch, ...: see the base.

    pool: class, mean, attention, or none for patches alone (a class token is there for `class` only);
    patch_bias: of the patches' product; embedding_norm: before the first block; final_norm: `pooled` norms the class
    token alone (CLIP), `all` everything, before it is pooled.
    """

    blocks: tuple[BlockSpec, ...] = field(default_factory=vision_blocks)
    position: PositionSpec = field(default_factory=Learned)
    norm: NormSpec = field(default_factory=LayerNorm)
    pool: Literal["class", "mean", "attention", "none"] = "class"
    patch_bias: Literal["none", "learned"] = "learned"
    embedding_norm: Literal["none", "model"] = "none"
    final_norm: Literal["all", "pooled"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.blocks:
            raise SpecError("blocks: needs at least one block")
        if self.final_norm == "pooled" and self.pool != "class":
            raise SpecError(f"final_norm: pooled is of a class token, and pool is {self.pool}")

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.patches + (self.pool == "class")

    def build(self, *, vocab_size: int = 0, **dims: Any) -> ViT:
        """vocab_size: classes of a linear head; 0 for none."""
        return ViT(self, vocab_size)


class ViTBody(nn.Module):
    """All but the classes; apart so that names of parameters are those of the language models."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.patches = Patches(spec.channels, spec.patch, spec.dim, bias=spec.patch_bias == "learned")
        self.class_token = Vector(spec.dim) if spec.pool == "class" else None
        self.position = build_position(spec.position, spec.blocks, spec.dim, spec.tokens, encoder=True)
        self.embed_norm = spec.norm.build(dim=spec.dim) if spec.embedding_norm == "model" else None
        self.layers: Any = build_blocks(spec.blocks, spec.layers, spec.dim, spec.norm, spec.tokens)
        self.norm = spec.norm.build(dim=spec.dim)
        self.pool = AttentionPool(spec) if spec.pool == "attention" else None


class AttentionPool(nn.Module):
    """One learned query that reads all patches: (B, N, D) -> (B, D)."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        block: Any = spec.blocks[0]
        self.probe = Vector(spec.dim)
        self.attn = Cross(heads=block.mixer.heads, biases="all").build(dim=spec.dim)
        self.norm = spec.norm.build(dim=spec.dim)
        self.mlp = block.ffn.build(dim=spec.dim)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        query = self.probe().to(x.dtype).expand(len(x), 1, -1)
        read = self.attn(query, context)
        pooled: Tensor = (read + self.mlp(self.norm(read), context))[:, 0]
        return pooled


class ViT(MultimodalModel):
    """See the module. `forward` gives scores of the classes, `encode` the tokens, `pool` one vector an image."""

    def __init__(self, spec: Spec, classes: int = 0) -> None:
        super().__init__(spec, classes)
        self.model = ViTBody(spec)
        spread(self.model, spec.layers)
        self.classifier = Linear(spec.dim, classes, bias=True, std=0.02) if classes else None
        self.begin()

    def _enter(self, pixels: Tensor) -> Tensor:
        """(B, tokens, D): what the first block reads."""
        body = self.model
        check_pixels(pixels, self.spec.channels, self.spec.image)
        x = body.patches(pixels.to(self.dtype))
        if body.class_token is not None:
            x = torch.cat([body.class_token().to(x.dtype).expand(len(x), 1, -1), x], 1)
        x = body.position.embed(x, torch.arange(x.shape[1], device=x.device)[None])
        return x if body.embed_norm is None else body.embed_norm(x)

    def layers(self, pixels: Tensor, numbers: tuple[int, ...]) -> list[Tensor]:
        """A (B, tokens, D) for each number of a block, from 1 on: its output, normed by the last norm."""
        body = self.model
        _, found = run_stack(body, self._enter(pixels), wanted=numbers, form=self.attention_form)
        return [body.norm(x) for x in found]

    def encode(self, pixels: Tensor, layer: int | None = None) -> Tensor:
        """(B, tokens, D): what the last block gives, normed where all tokens are; the class token comes first.

        layer: the output of this block in place of the last, never normed (negative: from the end, -1 the last).

        Raises:
            RequestError: pixels of another shape, or a block that is not there.
        """
        spec, body = self.spec, self.model
        x = self._enter(pixels)
        if layer is not None:
            number = layer if layer >= 0 else len(body.layers) + 1 + layer
            if not 0 <= number <= len(body.layers):
                raise SpecError(f"layer: {layer} is not a block; there are {len(body.layers)}")
            if number == 0:
                return x
            return run_stack(_First(body, number), x, form=self.attention_form)[0]
        x, _ = run_stack(body, x, form=self.attention_form)
        if spec.final_norm == "all":
            x = body.norm(x)
        return x

    def pool(self, x: Tensor) -> Tensor:
        """(B, tokens, D) of `encode` -> (B, D)."""
        kind = self.spec.pool
        if kind == "class":
            first = x[:, 0]
            pooled: Tensor = self.model.norm(first) if self.spec.final_norm == "pooled" else first
            return pooled
        if kind != "attention":
            return x.mean(1)
        context = reading(everything(x), self.model.position, self.attention_form)
        assert self.model.pool is not None
        vector: Tensor = self.model.pool(x, context)
        return vector

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, H, H) -> (B, K), or (B, D) without classes."""
        pooled = self.pool(self.encode(pixels))
        return pooled if self.classifier is None else self.classifier(pooled)

    def patches_only(self, x: Tensor) -> Tensor:
        """(B, N, D): the tokens of `encode` without the class token."""
        return x if self.model.class_token is None else x[:, 1:]

    def flops(self) -> float:
        """Matrix-product FLOPs of one image, forward."""
        spec = self.spec
        layers = stack_flops(self.model.layers, self.model.position, spec.tokens)
        return spec.tokens * layers + 2.0 * spec.patches * self.model.patches.weight.numel()


class _First:
    """The first blocks of a stack."""

    def __init__(self, body: Any, count: int) -> None:
        self.position, self.layers = body.position, body.layers[:count]
