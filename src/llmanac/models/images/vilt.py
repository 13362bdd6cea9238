"""One stream: text tokens and image patches enter one transformer together, which has no encoder of its own for either.

    t = norm(E[ids] + K[0] + positions_t) + M[0];   v = W patches + positions_v + M[1] (class token in front)
    x = blocks([t, v]);   pooled = tanh(W_p norm(x)_1);   answer = W_2 gelu(norm(W_1 pooled))

M says which modality a token is of. There is no convolution and no detector in front, so nearly all of the computing is
where the two meet. Questions are answered by choosing among K answers. ids (B, T), pixels (B, C, H, H) -> (B, K).
Kim, Son & Kim 2021, arXiv:2102.03334 (ViLT).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
from llmanac.models.blocks import BlockSpec
from llmanac.models.images import PatchesSpec
from llmanac.models.images._model import Choosing, Patches, Vector, check_pixels, run_stack, spread
from llmanac.models.images.vit import vision_blocks
from llmanac.models.layers import Embedding, Linear
from llmanac.models.lm.transformer import build_blocks
from llmanac.models.norms import NormSpec
from llmanac.models.norms.layernorm import Spec as LayerNorm
from llmanac.models.positions import Position

CARD = {
    "title": "Single-stream transformer of text and patches (ViLT)",
    "paper": "Kim, Son & Kim 2021, arXiv:2102.03334",
    "reference": "ViltForQuestionAnswering in transformers: scores and gradients",
}
PARTS = 2  # modalities, and texts of a pair


@dataclass(frozen=True, kw_only=True)
class Spec(PatchesSpec):
    """image, patch, channels: H, p and C; dim: D; layers: L; blocks: the pattern that repeats to L.

    max_length: of a text; answers: K, 0 for a model that gives `pooled` alone.
    """

    blocks: tuple[BlockSpec, ...] = field(default_factory=vision_blocks)
    norm: NormSpec = field(default_factory=LayerNorm)
    max_length: int = 40
    answers: int = 0

    ranges = within(COUNT, "max_length") | within(NOT_NEGATIVE, "answers")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.blocks:
            raise SpecError("blocks: needs at least one block")

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.patches + 1

    def build(self, *, vocab_size: int, **dims: Any) -> ViLT:
        """vocab_size: of the text."""
        return ViLT(self, vocab_size)


class ViLTBody(nn.Module):
    """All but the answers."""

    def __init__(self, spec: Spec, vocab_size: int) -> None:
        super().__init__()
        dim = spec.dim
        self.embed_tokens = Embedding(vocab_size, dim)
        self.token_types, self.text_positions = Embedding(PARTS, dim), Embedding(spec.max_length, dim)
        self.embed_norm = spec.norm.build(dim=dim)
        self.patches = Patches(spec.channels, spec.patch, dim, bias=True)
        self.class_token, self.image_positions = Vector(dim), Embedding(spec.tokens, dim)
        self.modality = Embedding(PARTS, dim)
        self.position = Position()
        self.layers: Any = build_blocks(spec.blocks, spec.layers, dim, spec.norm, spec.tokens + spec.max_length)
        self.norm = spec.norm.build(dim=dim)
        self.pooler = Linear(dim, dim, bias=True)


class ViLT(Choosing):
    """See the module."""

    def __init__(self, spec: Spec, vocab_size: int) -> None:
        super().__init__(spec, vocab_size)
        self.model = ViLTBody(spec, vocab_size)
        spread(self.model.layers, spec.layers)
        self.head = AnswerHead(spec) if spec.answers else None
        self.begin()

    def encode(self, ids: Tensor, pixels: Tensor, lengths: Tensor | None = None) -> Tensor:
        """ids (B, T), how many of each row are real, and pixels -> (B, T + patches + 1, D).

        Raises:
            RequestError: pixels of another shape, or a text longer than there are positions.
        """
        spec, body, length = self.spec, self.model, ids.shape[1]
        check_pixels(pixels, spec.channels, spec.image)
        if length > spec.max_length or len(ids) != len(pixels):
            raise RequestError(
                f"ids: {tuple(ids.shape)} for {len(pixels)} images and texts of at most {spec.max_length} tokens"
            )
        text = body.embed_tokens(ids) + body.token_types.weight[0] + body.text_positions.weight[:length]
        image = body.patches(pixels.to(self.dtype))
        image = torch.cat([body.class_token().expand(len(image), 1, -1), image], 1) + body.image_positions.weight
        x = torch.cat([body.embed_norm(text) + body.modality.weight[0], image + body.modality.weight[1]], 1)
        real = None
        if lengths is not None:
            places = torch.arange(x.shape[1], device=x.device)
            real = (places < lengths[:, None]) | (places >= length)
        x, _ = run_stack(body, x, real=real, form=self.attention_form)
        y: Tensor = body.norm(x)
        return y

    def forward(self, ids: Tensor, pixels: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Scores of the answers (B, K), or what is pooled (B, D)."""
        pooled = torch.tanh(self.model.pooler(self.encode(ids, pixels, lengths)[:, 0]))
        return pooled if self.head is None else self.head(pooled)


class AnswerHead(nn.Module):
    """(B, D) -> (B, K) by way of 2 D."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.up_proj = Linear(spec.dim, 2 * spec.dim, bias=True)
        self.norm = LayerNorm().build(dim=2 * spec.dim)
        self.down_proj = Linear(2 * spec.dim, spec.answers, bias=True, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(F.gelu(self.norm(self.up_proj(x))))
        return y
