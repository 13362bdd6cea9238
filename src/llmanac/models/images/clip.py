"""Contrastive pairs: an image encoder and a text encoder that agree on which image belongs to which text.

    u_i = norm(W_u image_i)    v_j = norm(W_v text_j)    s_ij = exp(t) u_i v_j + b

softmax (CLIP, ALIGN): the right text of an image, and the right image of a text, among those of the batch:
    loss = (CE(s_i., i) + CE(s_.i, i)) / 2                    a mean over the B pairs
sigmoid (SigLIP): each pair alone, so that the batch need not be compared as one:
    loss = - sum_ij log sigmoid(y_ij s_ij) / B                y_ij = 1 for pairs, -1 else

Texts that occur twice in a batch are not each other's negatives: the softmax's target is spread evenly over all pairs
of equal text, and the sigmoid's y is 1 there. Zero-shot classification takes the text of each class with the highest s.
Pixels (B, C, H, H), ids (B, T) -> u, v (B, dim) -> s (B, B).
Radford et al. 2021, arXiv:2103.00020; Zhai et al. 2023, arXiv:2303.15343; Jia et al. 2021, arXiv:2102.05918.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.errors import DataError, SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.core.types import HIDDEN, Batch, LossSum
from llmanac.data.pictures import Pictures
from llmanac.models.blocks.pre_norm import Spec as PreNorm
from llmanac.models.ffn.mlp import Spec as MLP
from llmanac.models.images import MultimodalSpec
from llmanac.models.images._model import MultimodalModel, Vector, full_precision, spread
from llmanac.models.images.vit import Spec as ViTSpec
from llmanac.models.layers import Linear
from llmanac.models.lm import LanguageModelSpec
from llmanac.models.lm.encoder import Encoder
from llmanac.models.lm.transformer import Spec as Decoder
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.norms.layernorm import Spec as LayerNorm
from llmanac.models.positions.learned import Spec as Learned

CARD = {
    "title": "Contrastive image-text model",
    "paper": "Radford et al. 2021, arXiv:2103.00020",
    "reference": "CLIPModel, SiglipModel and AlignModel in transformers: logits, losses and gradients",
    "aliases": {"siglip": {"loss": "sigmoid"}},
    "titles": {"siglip": "Contrastive image-text model with a sigmoid loss (SigLIP)"},
}
LARGEST = 100.0  # what exp(t) is held below, as in CLIP's training


def text_tower(dim: int = 128, layers: int = 2, max_length: int = 32, activation: Any = "gelu") -> Decoder:
    """CLIP's text encoder: a causal Transformer with learned positions."""
    block = PreNorm(mixer=Softmax(biases="all"), ffn=MLP(activation=activation, biases="all"))
    return Decoder(dim=dim, layers=layers, blocks=(block,), position=Learned(), norm=LayerNorm(), max_length=max_length)


@dataclass(frozen=True, kw_only=True)
class Spec(MultimodalSpec):
    """vision, text: the encoders; dim: of what they are compared in.

    image_projection, text_projection: a matrix to it, one with a bias, or none. text_pool: which place stands for a
    text: `end` the first `end_id` (without one the largest id), `last` the last place, padding or not, `first`.
    scale: whether the learned number is t (`exponent`) or 1 / exp(t) (`temperature`).
    """

    vision: MultimodalSpec = field(default_factory=ViTSpec)
    text: LanguageModelSpec = field(default_factory=text_tower)
    dim: int = 64
    image_projection: Literal["plain", "bias", "none"] = "plain"
    text_projection: Literal["plain", "bias", "none"] = "plain"
    text_pool: Literal["end", "last", "first"] = "end"
    end_id: int | None = None
    scale: Literal["exponent", "temperature"] = "exponent"
    loss: Literal["softmax", "sigmoid"] = "softmax"

    ranges = within(COUNT, "dim")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind, part in (
            ("image_projection", self.image_projection, self.vision),
            ("text_projection", self.text_projection, self.text),
        ):
            if kind == "none" and getattr(part, "dim", self.dim) != self.dim:
                raise SpecError(f"{name}: none, but the encoder's width is not dim, {self.dim}")

    def build(self, *, vocab_size: int, **dims: Any) -> Clip:
        """vocab_size: of the text."""
        return Clip(self, vocab_size)


class Clip(MultimodalModel):
    """See the module."""

    def __init__(self, spec: Spec, vocab_size: int) -> None:
        super().__init__(spec, vocab_size)
        self.vision = spec.vision.build()
        self.text: Any = spec.text.build(vocab_size=vocab_size)
        width: Any = spec.text
        spread(self.text.model, width.layers)
        self.image_projection = _projection(spec.image_projection, self.vision.spec.dim, spec.dim)
        self.text_projection = _projection(spec.text_projection, width.dim, spec.dim)
        begin = 10.0 if spec.loss == "sigmoid" else 1 / 0.07  # both papers' choices
        self.logit_scale = Vector(start=math.log(begin) if spec.scale == "exponent" else 1 / begin)
        self.logit_bias = Vector(start=-10.0) if spec.loss == "sigmoid" else None
        self.begin()

    def images(self, pixels: Tensor) -> Tensor:
        """(B, C, H, H) -> unit vectors (B, dim)."""
        pooled = self.vision.pool(self.vision.encode(pixels))
        return F.normalize(pooled if self.image_projection is None else self.image_projection(pooled), dim=-1)

    def texts(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T) ids, and how many of each row are real -> unit vectors (B, dim)."""
        kind: Any = "bidirectional" if isinstance(self.text, Encoder) else "causal"
        hidden = self.text(Batch(ids=ids, lengths=lengths, mask=kind), want=HIDDEN).hidden
        pooled = hidden[torch.arange(len(ids), device=ids.device), self._place(ids)]
        return F.normalize(pooled if self.text_projection is None else self.text_projection(pooled), dim=-1)

    def _place(self, ids: Tensor) -> Tensor:
        """(B,) the place of each row that stands for it."""
        if self.spec.text_pool == "end":
            found = ids if self.spec.end_id is None else (ids == self.spec.end_id).int()
            return found.argmax(-1)
        return torch.full((len(ids),), 0 if self.spec.text_pool == "first" else ids.shape[1] - 1, device=ids.device)

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Unit vectors (A, dim) and (B, dim) -> s (A, B)."""
        t = self.logit_scale()
        factor = t.exp() if self.spec.scale == "exponent" else 1 / t
        with full_precision(images):  # in bfloat16 a cosine times 100 is off by up to 0.4
            scores = images.to(t.dtype) @ texts.to(t.dtype).T * (factor.clamp(max=LARGEST) if self.training else factor)
        return scores if self.logit_bias is None else scores + self.logit_bias()

    def forward(self, pixels: Tensor, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Images and texts -> s (images, texts)."""
        return self.similarity(self.images(pixels), self.texts(ids, lengths))

    def loss(self, batch: Pictures) -> LossSum:
        """The loss of a batch of pairs, as a sum over them, and how many images find their text.

        Raises:
            DataError: pictures without texts.
        """
        if batch.ids is None:
            raise DataError("clip: the pictures have no texts (ids)")
        scores = self(batch.pixels, batch.ids, batch.lengths)
        same = (batch.ids[:, None] == batch.ids[None]).all(-1)
        found = same.gather(1, scores.argmax(1, keepdim=True)).sum()
        return contrastive_loss(scores, same, self.spec.loss) * len(scores), len(scores), {"found": found}


def _projection(kind: str, width: int, dim: int) -> Linear | None:
    return None if kind == "none" else Linear(width, dim, bias=kind == "bias")


def contrastive_loss(scores: Tensor, same: Tensor, kind: Literal["softmax", "sigmoid"] = "softmax") -> Tensor:
    """s (B, B) and which texts are equal (B, B) bool -> the mean loss (), see the module."""
    if kind == "sigmoid":
        signs = torch.where(same, 1.0, -1.0).to(scores.dtype)
        return -F.logsigmoid(signs * scores).sum(-1).mean()
    target = same.to(scores.dtype) / same.sum(1, keepdim=True)
    rows, columns = (-(target * s.log_softmax(1)).sum(1).mean() for s in (scores, scores.T))
    return (rows + columns) / 2
