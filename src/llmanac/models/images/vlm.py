"""A vision-language model with a projector: an image becomes tokens of a language model's prompt.

    v = P(E(image)) (B, N, D);   x = embed(ids), with v in the places of the image token;   p(next) = LM(x)

E is an image encoder (its block `layer`, without the class token), trained before and usually frozen: what it does not
see, the language model cannot say. P is a matrix (PaliGemma), two with a GELU between (LLaVA), or a Q-Former
(InstructBLIP): a few learned queries that read the image, so that N does not depend on its size. With `mask="prefix"`
image and prompt see both ways. Only the answer carries loss. With `frozen` the encoder gets no gradient.
Pixels (B, C, H, H), ids (B, T) with N image tokens a row -> logits (B, T, V).
Liu et al. 2023, arXiv:2304.08485; Beyer et al. 2024, arXiv:2407.07726; Dai et al. 2023, arXiv:2305.06500.

The Q-Former: learned queries that read an image, next to the words of an instruction.

    x = [queries, words];   x = norm(x + attend(x));   q = norm(q + attend(q, image))  in every `every`-th layer
    q = norm(q + mlp_q(q));   words likewise by their own mlp      queries (B, L, D) are what the language model gets

Queries and words see each other; only queries see the image. Li et al. 2023, arXiv:2301.12597 (BLIP-2); Dai et al.
2023, arXiv:2305.06500 (InstructBLIP).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
from llmanac.core.spec import Spec as PlainSpec
from llmanac.core.types import ALL, IGNORE, Batch, ModelOutput, OutputRequest
from llmanac.models.ffn.mlp import MLP
from llmanac.models.ffn.mlp import Spec as MLPSpec
from llmanac.models.forward import Context
from llmanac.models.images import MultimodalSpec
from llmanac.models.images._model import Vector, Writing, everything
from llmanac.models.images.vit import Spec as ViTSpec
from llmanac.models.layers import Embedding, Linear
from llmanac.models.lm import LanguageModelSpec
from llmanac.models.lm.transformer import Spec as Decoder
from llmanac.models.masks import AttentionMask
from llmanac.models.mixers.cross import Spec as Cross
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.norms.layernorm import Spec as LayerNorm
from llmanac.models.positions import Position

CARD = {
    "title": "Vision-language model with a projector",
    "paper": "Liu et al. 2023, arXiv:2304.08485",
    "reference": "LlavaForConditionalGeneration, PaliGemmaForConditionalGeneration and "
    "InstructBlipForConditionalGeneration in transformers",
    "aliases": {"llava": {"projector": "mlp"}, "paligemma": {"projector": "linear", "mask": "prefix"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(MultimodalSpec):
    """vision, text: encoder and language model; projector: P, a `linear` map, an `mlp` of two, or the `q_former`.

    layer: which block of the encoder is read, None for the last one, normed; keep_class: whether the class token is an
    image token too; image_id: the token whose places the image takes; mask: of image and prompt; encoder: whether the
    image encoder is trained.
    """

    vision: ViTSpec = field(default_factory=ViTSpec)
    text: LanguageModelSpec = field(default_factory=Decoder)
    projector: Literal["linear", "mlp", "q-former"] = "mlp"
    q_former: QFormerSpec | None = None
    layer: int | None = None
    class_token: Literal["drop", "keep"] = "drop"
    image_id: int = 0
    mask: Literal["causal", "prefix"] = "causal"
    encoder: Literal["frozen", "trained"] = "frozen"

    ranges = within(NOT_NEGATIVE, "image_id")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.projector == "q-former") != (self.q_former is not None):
            raise SpecError(f"q_former: is set with projector = q-former alone, which is {self.projector}")

    @property
    def image_tokens(self) -> int:
        """N, image tokens of a row."""
        if self.q_former is not None:
            return self.q_former.queries
        return self.vision.tokens if self.class_token == "keep" else self.vision.patches

    def build(self, *, vocab_size: int, **dims: Any) -> VLM:
        """vocab_size: of the text, the image token included."""
        return VLM(self, vocab_size)


class VLM(Writing):
    """See the module."""

    def __init__(self, spec: Spec, vocab_size: int) -> None:
        super().__init__(spec, vocab_size)
        self.vision = spec.vision.build()
        self.text: Any = spec.text.build(vocab_size=vocab_size)
        width: int = self.text.spec.dim
        seen, queries = spec.vision.dim, spec.q_former
        self.projector: Any = Projector(seen, width) if spec.projector == "mlp" else Linear(seen, width, bias=True)
        self.to_text: Any = None
        if queries is not None:
            self.projector, self.to_text = QFormer(queries, seen), Linear(queries.dim, width, bias=True)
        self.begin()
        self.vision.requires_grad_(spec.encoder == "trained")

    @property
    def max_length(self) -> int:
        """The longest row, image tokens included."""
        return int(self.text.spec.max_length)

    def see(self, pixels: Tensor, instruction: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """(B, C, H, H) -> image tokens (B, N, D); a Q-Former also reads `instruction` (B, T) of its own vocabulary."""
        spec = self.spec
        with torch.set_grad_enabled(torch.is_grad_enabled() and spec.encoder == "trained"):
            x = self.vision.encode(pixels, spec.layer)
        x = x if spec.class_token == "keep" else self.vision.patches_only(x)
        if self.to_text is not None:
            x = self.projector(x, instruction, lengths)
        seen: Tensor = (self.projector if self.to_text is None else self.to_text)(x)
        return seen

    def merge(self, ids: Tensor, seen: Tensor) -> Tensor:
        """Embeddings (B, T, D) of ids with the image tokens (images, N, D) in their places, in order.

        Raises:
            RequestError: another number of places than of image tokens.
        """
        places = ids == self.spec.image_id
        if int(places.sum()) != seen.shape[0] * seen.shape[1]:
            raise RequestError(
                f"ids: {int(places.sum())} image tokens ({self.spec.image_id}) for {len(seen)} images of "
                f"{seen.shape[1]} tokens each"
            )
        x = self.text.embed(ids.masked_fill(places, 0) if self.spec.image_id >= self.vocab_size else ids)
        return x.masked_scatter(places[..., None], seen.to(x.dtype))

    def forward(
        self,
        ids: Tensor,
        pixels: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        prefix: Tensor | None = None,
        targets: Tensor | None = None,
        state: Any = None,
        want: OutputRequest = ALL,
        seen: Tensor | None = None,
    ) -> ModelOutput:
        """What `want` asks for, as of the language model; with a state, of tokens that follow what it holds.

        Args:
            pixels: (images, C, H, H), or `seen`, image tokens that `see` made; neither where no image is in ids.
            prefix: (B,) tokens that see one another, with `mask="prefix"`; by default the first targets decide.
        """
        seen = self.see(pixels) if pixels is not None else seen
        batch = Batch(ids=ids, lengths=lengths, targets=targets)
        if seen is not None:
            batch = replace(batch, ids=None, embeddings=self.merge(ids, seen))
        if self.spec.mask == "prefix" and (state is None or prefix is not None):
            if prefix is None:
                marked = torch.ones_like(ids, dtype=torch.bool) if targets is None else targets != IGNORE
                prefix = torch.where(marked.any(1), marked.int().argmax(1) + 1, ids.shape[1])
            batch = replace(batch, mask="prefix", prefix=prefix)
        found: ModelOutput = self.text(batch, state, want)
        return found

    def start(self, rows: int) -> Any:
        """An empty state for `rows` rows."""
        return self.text.start(rows)


class Projector(MLP):
    """Two matrices with a GELU between, both of the language model's width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, "gelu", True)
        self.down_proj = Linear(outputs, outputs, bias=True, std=outputs**-0.5)


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

        mlp = MLPSpec(activation="gelu", width=spec.width, biases="all")
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
