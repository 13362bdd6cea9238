"""Text and image tokens in one autoregressive model: an image is drawn as its caption is continued.

    row = [caption tokens, k_1 .. k_n]       k = codes of a VQ-VAE, each a token of the one vocabulary
    p(row) = prod_t p(token_t | before)      the loss is of both, the image's weighted by `image_weight`

The tokenizer of images is trained before and frozen. Codes are the last K tokens of the vocabulary, or those that
`image_ids` lists. An image is sampled from image tokens alone; guidance by w compares with a row of an empty caption:
    logits = none + w (caption - none)
ids (B, T) of captions, pixels (B, C, H, H) with n = h h codes -> logits (B, T + n, V), or images.
Ramesh et al. 2021, arXiv:2102.12092 (DALL-E); Chameleon team 2024, arXiv:2405.09818.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.ranges import PART, POSITIVE, within
from llmanac.core.types import ALL, IGNORE, LAST, Batch, LossSum, ModelOutput, OutputRequest
from llmanac.data.pictures import Pictures
from llmanac.models.images import MultimodalSpec
from llmanac.models.images._model import MultimodalModel
from llmanac.models.images.vq_vae import Spec as VQSpec
from llmanac.models.lm import LanguageModelSpec
from llmanac.models.lm.transformer import Spec as Decoder

CARD = {
    "title": "Autoregressive image generation",
    "paper": "Ramesh et al. 2021, arXiv:2102.12092",
    "reference": "ChameleonForConditionalGeneration in transformers: image tokens and logits",
}


@dataclass(frozen=True, kw_only=True)
class Spec(MultimodalSpec):
    """tokenizer: of images; text: the language model of both; image_weight: of an image token's loss.

    image_ids: the token of each code; empty for the last K of the vocabulary. drop: share of the rows that train
    without a caption, for guidance, whose ids are then all `empty_id`.
    """

    tokenizer: VQSpec = field(default_factory=VQSpec)
    text: LanguageModelSpec = field(default_factory=Decoder)
    image_ids: tuple[int, ...] = ()
    image_weight: float = 1.0
    drop: float = 0.1
    empty_id: int = 0

    ranges = within(PART, "drop") | within(POSITIVE, "image_weight")

    def __post_init__(self) -> None:
        super().__post_init__()
        codes = self.tokenizer.codebook.codes
        if self.image_ids and (len(self.image_ids) != codes or len(set(self.image_ids)) != codes):
            raise SpecError(f"image_ids: {len(self.image_ids)} tokens for {codes} codes; each needs one of its own")

    @property
    def image_tokens(self) -> int:
        """n, tokens of an image."""
        return self.tokenizer.side**2

    def build(self, *, vocab_size: int, **dims: Any) -> DallE:
        """vocab_size: of text and image tokens together."""
        if vocab_size < max(self.image_ids, default=self.tokenizer.codebook.codes - 1) + 1:
            raise SpecError(f"image_ids: tokens beyond the vocabulary of {vocab_size}")
        return DallE(self, vocab_size)


class DallE(MultimodalModel):
    """See the module.

    Attributes:
        token_of: (K,) the token of each code; code_of: (V,) the inverse, -1 for tokens of text.
    """

    token_of: Tensor
    code_of: Tensor

    def __init__(self, spec: Spec, vocab_size: int) -> None:
        super().__init__(spec, vocab_size)
        self.tokenizer = spec.tokenizer.build()
        self.text: Any = spec.text.build(vocab_size=vocab_size)
        codes = spec.tokenizer.codebook.codes
        tokens = torch.tensor(spec.image_ids or range(vocab_size - codes, vocab_size), device="cpu")
        self.register_buffer("token_of", tokens, persistent=False)
        inverse = torch.full((vocab_size,), -1, device="cpu")
        inverse[tokens] = torch.arange(codes, device="cpu")
        self.register_buffer("code_of", inverse, persistent=False)
        self.begin()
        self.tokenizer.requires_grad_(False).eval()

    def settle(self) -> None:
        self.tokenizer.codebook.settle()

    def train(self, mode: bool = True) -> DallE:
        """The tokenizer stays as it is."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    @torch.no_grad()
    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, C, H, H) -> the tokens of the images (B, n)."""
        return self.token_of[self.tokenizer.encode(pixels)]

    def images(self, tokens: Tensor) -> Tensor:
        """(B, n) -> (B, C, H, H). Raises RequestError for a token of text."""
        codes = self.code_of[tokens]
        if int(codes.min()) < 0:
            raise RequestError("tokens: a token of text is among those of the image")
        made: Tensor = self.tokenizer.decode(codes)
        return made

    def forward(self, ids: Tensor, *, state: Any = None, want: OutputRequest = ALL, **batch: Any) -> ModelOutput:
        """Rows of text and image tokens (B, T) as of the language model; `batch`: further fields of `Batch`."""
        found: ModelOutput = self.text(Batch(ids=ids, **batch), state, want)
        return found

    def loss(self, batch: Pictures) -> LossSum:
        """Weighted nats of all tokens but the first, how many weights they are, and nats of the image tokens.

        Captions have one length: pad them in front of the image with a token of their own.
        """
        if batch.ids is None:
            raise RequestError("dall-e: training needs captions (ids)")
        ids = batch.ids
        if self.spec.drop:
            dropped = torch.rand(len(ids), 1, device=ids.device) < self.spec.drop
            ids = ids.masked_fill(dropped, self.spec.empty_id)
        row = torch.cat([ids, self.tokens(batch.pixels)], 1)
        targets = row[:, 1:].clone()
        targets[:, : ids.shape[1] - 1].masked_fill_(ids[:, 1:] == self.spec.empty_id, IGNORE)
        nll = self(row[:, :-1], targets=targets, want=OutputRequest(nll="none")).nll
        assert nll is not None
        image = nll[:, ids.shape[1] - 1 :].sum()
        text, count = nll[:, : ids.shape[1] - 1].sum(), (targets != IGNORE).sum()
        weight = self.spec.image_weight
        units = count + (weight - 1) * len(row) * self.spec.image_tokens
        per_token = image.detach() / (len(row) * self.spec.image_tokens) * units
        return text + weight * image, units, {"image_nll": per_token}

    @torch.no_grad()
    def generate(
        self,
        ids: Tensor,
        *,
        guidance: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Captions (B, T) of one length -> image tokens (B, n).

        Args:
            guidance: w; temperature: 0 takes the most probable token; top_k: how many are sampled from, 0 for all.
        """
        guided = guidance != 1.0
        rows = torch.cat([ids, torch.full_like(ids, self.spec.empty_id)]) if guided else ids
        state, made = self.text.start(len(rows)), []
        for _ in range(self.spec.image_tokens):
            logits = self(rows, state=state, want=LAST).logits
            assert logits is not None
            logits = logits[:, -1, self.token_of].float()
            if guided:
                told, alone = logits.chunk(2)
                logits = alone + guidance * (told - alone)
            code = self._chosen(logits, temperature, top_k, generator)
            made.append(code)
            rows = self.token_of[code][:, None].repeat(2 if guided else 1, 1)
        return self.token_of[torch.stack(made, 1)]

    @staticmethod
    def _chosen(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator | None) -> Tensor:
        if temperature <= 0:
            return logits.argmax(1)
        logits = logits / temperature
        if top_k:
            least = logits.topk(min(top_k, logits.shape[1])).values[:, -1:]
            logits = logits.masked_fill(logits < least, float("-inf"))
        return torch.multinomial(F.softmax(logits, -1), 1, generator=generator)[:, 0]
