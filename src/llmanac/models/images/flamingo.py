"""Gated cross-attention: a language model looks at images through new layers between its own.

    latents = P(E(image))                                         a Perceiver: L queries read N patches
    x = x + tanh(a) attend(norm(x), latents);  x = x + tanh(b) ffn(norm(x))      before every `every`-th block
    x = block(x)

The gates a and b start at 0, so that the model begins as the language model that it was, whatever the images; it may
stay frozen while only the new layers learn. A token looks at the images that `seen` says (in Flamingo the last one
before it); one that sees none gets nothing from attention. The Perceiver makes L of any number of patches:

    z = z + attend(norm(z), [norm(m), norm(z)]);   z = z + mlp(norm(z))          z (B, L, D), m (B, N, D)

Pixels (B, images, C, H, H), ids (B, T) -> logits (B, T, V).
Alayrac et al. 2022, arXiv:2204.14198; Laurencon et al. 2023, arXiv:2306.16527 (Idefics).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
from llmanac.core.types import ALL, Batch, ModelOutput, OutputRequest
from llmanac.models.ffn.mlp import Spec as MLP
from llmanac.models.forward import Context, SourceMemory, read_head
from llmanac.models.images import MultimodalSpec
from llmanac.models.images._model import Vector, Writing, everything, reading
from llmanac.models.images.vit import Spec as ViTSpec
from llmanac.models.lm import LanguageModelSpec
from llmanac.models.lm.transformer import Spec as Decoder
from llmanac.models.mixers.cross import Spec as Cross
from llmanac.models.norms.layernorm import Spec as LayerNorm

CARD = {
    "title": "Gated cross-attention (Flamingo)",
    "paper": "Alayrac et al. 2022, arXiv:2204.14198",
    "reference": "IdeficsForVisionText2Text in transformers; gates at 0 equal the language model",
}


@dataclass(frozen=True, kw_only=True)
class Spec(MultimodalSpec):
    """vision, text: encoder and language model; every: blocks of the language model for each new layer.

    latents, depth, heads, head_dim: of the Perceiver; depth 0 is none, and the layers read the patches themselves.
    encoder, language: whether each of the two is trained; both is the end-to-end model.
    """

    vision: ViTSpec = field(default_factory=ViTSpec)
    text: LanguageModelSpec = field(default_factory=Decoder)
    every: int = 1
    latents: int = 8
    depth: int = 1
    heads: int = 4
    head_dim: int = 32
    encoder: Literal["frozen", "trained"] = "frozen"
    language: Literal["frozen", "trained"] = "frozen"

    ranges = within(COUNT, "every latents heads head_dim") | within(NOT_NEGATIVE, "depth")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.text, Decoder):
            raise SpecError(f"text: must be a transformer, not {self.text.name}")

    def build(self, *, vocab_size: int, **dims: Any) -> Flamingo:
        """vocab_size: of the text."""
        return Flamingo(self, vocab_size)


class Perceiver(nn.Module):
    """(B, N, D) -> (B, L, D); see the module."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        dim = spec.vision.dim
        self.latents = Vector(spec.latents, dim, std=1.0)
        self.blocks = nn.ModuleList(PerceiverBlock(spec, dim) for _ in range(spec.depth))
        self.norm = LayerNorm().build(dim=dim)

    def forward(self, memory: Tensor, context: Context) -> Tensor:
        z = self.latents().to(memory.dtype).expand(len(memory), -1, -1)
        for block in self.blocks:
            z = block(z, memory, context)
        y: Tensor = self.norm(z)
        return y


class PerceiverBlock(nn.Module):
    """Attention of the latents to the memory and themselves, and a feed-forward layer."""

    def __init__(self, spec: Spec, dim: int) -> None:
        super().__init__()
        self.memory_norm, self.norm, self.mlp_norm = (LayerNorm().build(dim=dim) for _ in range(3))
        self.attn = Cross(heads=spec.heads, head_dim=spec.head_dim).build(dim=dim)
        self.mlp = MLP(activation="relu").build(dim=dim)

    def forward(self, z: Tensor, memory: Tensor, context: Context) -> Tensor:
        own = self.norm(z)
        read = everything(torch.cat([self.memory_norm(memory), own], 1))
        z = z + self.attn(own, replace(context, memory=read))
        y: Tensor = z + self.mlp(self.mlp_norm(z), context)
        return y


class GatedLayer(nn.Module):
    """Cross-attention and a feed-forward layer, each behind a gate."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        text: Any = spec.text
        block, dim = text.blocks[0], text.dim
        heads, head_dim = block.mixer.head_shape(dim) or (4, dim // 4)
        self.attn_norm, self.mlp_norm = (text.norm.build(dim=dim) for _ in range(2))
        self.attn = Cross(heads=heads, head_dim=head_dim).build(dim=dim, source=spec.vision.dim)
        self.mlp = block.ffn.build(dim=dim)
        self.attn_gate, self.mlp_gate = Vector(1, start=0.0), Vector(1, start=0.0)
        for part in (self.attn.o_proj, self.mlp.down_proj):
            part.std = part.in_features**-0.5  # the gate is 0 already

    def forward(self, x: Tensor, context: Context, sees: Tensor) -> Tensor:
        """sees: (B, T) bool, tokens that see an image."""
        read = self.attn(self.attn_norm(x), context).masked_fill(~sees[..., None], 0.0)
        x = x + self.attn_gate().to(x.dtype).tanh() * read
        y: Tensor = x + self.mlp_gate().to(x.dtype).tanh() * self.mlp(self.mlp_norm(x), context)
        return y


class Flamingo(Writing):
    """See the module."""

    def __init__(self, spec: Spec, vocab_size: int) -> None:
        super().__init__(spec, vocab_size)
        text: Any = spec.text
        self.vision = spec.vision.build()
        self.text: Any = text.build(vocab_size=vocab_size)
        self.perceiver = Perceiver(spec) if spec.depth else None
        self.gated = nn.ModuleList(GatedLayer(spec) for _ in range(-(-text.layers // spec.every)))
        self.begin()
        self.vision.requires_grad_(spec.encoder == "trained")
        self.text.requires_grad_(spec.language == "trained")

    @property
    def max_length(self) -> int:
        """The longest text."""
        return int(self.text.spec.max_length)

    def see(self, pixels: Tensor) -> Tensor:
        """(B, C, H, H) or (B, images, C, H, H) -> what the layers read of each row, (B, images, L, D)."""
        pixels = pixels[:, None] if pixels.ndim == 4 else pixels
        trained = self.spec.encoder == "trained"
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            x = self.vision.encode(pixels.flatten(0, 1), None if self.vision.spec.final_norm == "all" else -1)
        if self.perceiver is not None:
            x = self.perceiver(x, reading(everything(x), self.vision.model.position, self.attention_form))
        return x.unflatten(0, pixels.shape[:2])

    def forward(
        self,
        ids: Tensor,
        pixels: Tensor | None = None,
        *,
        seen: Tensor | None = None,
        latents: Tensor | None = None,
        lengths: Tensor | None = None,
        targets: Tensor | None = None,
        state: Any = None,
        want: OutputRequest = ALL,
    ) -> ModelOutput:
        """What `want` asks for, as of the language model; with a state, of tokens that follow what it holds.

        Args:
            pixels: the images of each row, or `latents`, what `see` made of them.
            seen: (B, T, images) bool, which images a token looks at; None for all.

        Raises:
            RequestError: neither pixels nor latents, or a `seen` of another shape.
        """
        latents = self.see(pixels) if pixels is not None else latents
        if latents is None:
            raise RequestError("pixels: give the images of each row, or latents that `see` made")
        batch, count = Batch(ids=ids, lengths=lengths, targets=targets), latents.shape[1]
        expected = (*ids.shape, count)
        seen = torch.ones(expected, dtype=torch.bool, device=ids.device) if seen is None else seen
        if tuple(seen.shape) != expected:
            raise RequestError(f"seen: expected the shape {expected} (rows, tokens, images), got {tuple(seen.shape)}")
        x, context = self.text._enter(batch, state)
        real = seen.repeat_interleave(latents.shape[2], 2)
        context = replace(context, memory=SourceMemory(latents.flatten(1, 2).to(x.dtype), real))
        sees, states = seen.any(2), None if state is None else state.layers
        for number, layer in enumerate(self.text.model.layers):
            if number % self.spec.every == 0:
                x = self.gated[number // self.spec.every](x, context, sees)
            x = layer(x, context, None if states is None else states[number])
        hidden = self.text.model.norm(x)
        found = read_head(self.text.lm_head, hidden, batch, context, None if states is None else states[-1], want)
        if state is not None:
            state.advance(ids.shape[1], lengths)
        return found

    def start(self, rows: int) -> Any:
        """An empty state for `rows` rows."""
        return self.text.start(rows)
