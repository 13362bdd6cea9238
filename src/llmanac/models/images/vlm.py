"""A vision-language model with a projector: an image becomes tokens of a language model's prompt.

    v = P(E(image)) (B, N, D);   x = embed(ids), with v in the places of the image token;   p(next) = LM(x)

E is an image encoder (its block `layer`, without the class token), trained before and usually frozen: what it does not
see, the language model cannot say. P is a matrix (PaliGemma), two with a GELU between (LLaVA), or a Q-Former
(InstructBLIP): a few learned queries that read the image, so that N does not depend on its size. With `mask="prefix"`
image and prompt see both ways. Only the answer carries loss. With `frozen` the encoder gets no gradient.
Pixels (B, C, H, H), ids (B, T) with N image tokens a row -> logits (B, T, V).
Liu et al. 2023, arXiv:2304.08485; Beyer et al. 2024, arXiv:2407.07726; Dai et al. 2023, arXiv:2305.06500.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.ranges import NOT_NEGATIVE, within
from llmanac.core.types import ALL, IGNORE, Batch, ModelOutput, OutputRequest
from llmanac.models.ffn.mlp import MLP
from llmanac.models.images import MultimodalSpec
from llmanac.models.images._model import Writing
from llmanac.models.images._q_former import QFormer, QFormerSpec
from llmanac.models.images.vit import Spec as ViTSpec
from llmanac.models.layers import Linear
from llmanac.models.lm import LanguageModelSpec
from llmanac.models.lm.transformer import Spec as Decoder

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
