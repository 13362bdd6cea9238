"""The encoder-decoder Transformer: an encoder reads a source both ways, a decoder writes with an eye on it.

    m = norm_e(encoder blocks(E[source]))    x = decoder blocks(E[ids], m)    p(next | ids, source) = head(norm(x))

m (B, S, D), x (B, T, D). Encoder blocks are bidirectional; decoder blocks are causal and have cross-attention (`cross`)
to m, whose keys and values are computed once a source. Both read the same embeddings. In the engine a prompt is the
source, and the answer begins with `start_id`. Vaswani et al. 2017; Raffel et al. 2019 for one model of all tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.types import ALL, Batch, Capabilities, ModelOutput, OutputRequest
from llmanac.models.blocks import BlockSpec
from llmanac.models.blocks.pre_norm import Spec as PreNorm
from llmanac.models.forward import (
    Context,
    Losses,
    SourceMemory,
    check_request,
    check_supported,
    place,
    read_head,
    run_layers,
)
from llmanac.models.heads import HeadSpec
from llmanac.models.heads.linear import Spec as LinearHead
from llmanac.models.lm import LanguageModelSpec
from llmanac.models.lm.transformer import Spec as DecoderSpec
from llmanac.models.lm.transformer import Transformer, build_blocks, build_position, stack_flops
from llmanac.models.mixers.cross import Spec as Cross
from llmanac.models.norms import NormSpec
from llmanac.models.norms.rmsnorm import Spec as RMSNorm
from llmanac.models.positions import PositionSpec
from llmanac.models.positions.rope import Spec as RoPE
from llmanac.models.state import DecodingState

CARD = {
    "title": "Transformer (encoder-decoder)",
    "paper": "Vaswani et al. 2017, arXiv:1706.03762; Raffel et al. 2019, arXiv:1910.10683",
    "reference": "torch.nn.Transformer",
    "reads": "source",
    "test": "tests/references/test_encoder_decoder.py::test_encoder_decoder_equals_torch",
}


@dataclass(frozen=True, kw_only=True)
class Spec(LanguageModelSpec):
    """dim: D; encoder and decoder: patterns of blocks, repeated to encoder_layers and layers.

    position: of each of the two stacks, with parameters of its own; start_id: what every answer begins with.
    embedding_scale: what token embeddings are multiplied by; embedding_norm: of what enters each stack, or None;
    final_norm: whether `norm` is also applied after each stack.
    """

    dim: int = 256
    encoder_layers: int = 2
    layers: int = 2
    encoder: tuple[BlockSpec, ...] = field(default_factory=lambda: (PreNorm(),))
    blocks: tuple[BlockSpec, ...] = field(default_factory=lambda: (PreNorm(cross=Cross()),))
    position: PositionSpec = field(default_factory=RoPE)
    norm: NormSpec = field(default_factory=RMSNorm)
    head: HeadSpec = field(default_factory=LinearHead)
    max_length: int = 1024
    tied: bool = True
    start_id: int = 0
    embedding_scale: float | None = None
    embedding_norm: NormSpec | None = None
    final_norm: Literal["none", "model"] = "model"

    def __post_init__(self) -> None:
        if self.encoder_layers < 1 or not self.encoder or self.encoder_layers % len(self.encoder):
            raise SpecError(f"encoder_layers: {self.encoder_layers} is not a multiple of {len(self.encoder)} blocks")
        if not any("source" in block.needs for block in self.blocks):
            raise SpecError("blocks: none has cross-attention (`cross`), so nothing reads the source")
        self.decoder()  # its own checks

    def decoder(self) -> DecoderSpec:
        """The decoder as a Spec of its own."""
        names = ("dim", "layers", "blocks", "position", "norm", "head", "max_length", "tied", "embedding_scale")
        return DecoderSpec(**{name: getattr(self, name) for name in (*names, "embedding_norm")})

    def build(self, *, vocab_size: int, **dims: Any) -> EncoderDecoder:
        """A model with the initial weights of seed 0 (none on the meta device)."""
        if not 0 <= self.start_id < vocab_size:
            raise SpecError(f"start_id: {self.start_id} is not a token id below {vocab_size}")
        return EncoderDecoder(self, vocab_size)


class EncoderStack(nn.Module):
    """A stack of bidirectional blocks with its own positions; embeddings are the decoder's."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.position = build_position(spec.position, spec.encoder, spec.dim, spec.max_length, encoder=True)
        self.layers: Any = build_blocks(spec.encoder, spec.encoder_layers, spec.dim, spec.norm, spec.max_length)
        self.embed_norm = None if spec.embedding_norm is None else spec.embedding_norm.build(dim=spec.dim)
        self.norm = spec.norm.build(dim=spec.dim) if spec.final_norm == "model" else nn.Identity()


class EncoderDecoder(Transformer):
    """See the module.

    Attributes:
        encoder: reads `Batch.source`; all else is the decoder's, as in `Transformer`.
        start_id: what every answer begins with; the engine gives prompts to the encoder of a model that has one.
    """

    def __init__(self, spec: Spec, vocab_size: int) -> None:
        super().__init__(spec.decoder(), vocab_size, stacks={"encoder": lambda: EncoderStack(spec)})
        self.spec = spec
        self.start_id = spec.start_id
        if spec.final_norm == "none":
            self.model.norm = nn.Identity()

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, reads_source=True, start_id=self.start_id, soft_prompts=False)

    def forward(
        self, batch: Batch | Tensor, state: DecodingState | None = None, want: OutputRequest = ALL
    ) -> ModelOutput:
        """What `want` asks for; see `core.types`. With a state, `batch.source` is given with the first tokens alone.

        Raises:
            RequestError: no source, or a batch that the model cannot take.
        """
        batch = Batch(ids=batch) if isinstance(batch, Tensor) else batch
        check_request(self.model.layers, self.lm_head, batch, state, want, reads_source=True)
        if batch.source is None and state is None:
            raise RequestError(
                "source: an encoder-decoder answers a source and says nothing of a text alone; from Python give "
                "Batch(source=...)"
            )
        if state is not None:
            given = batch.source is not None
            if not given and not all(row.source for row in state.rows):
                raise RequestError(
                    "source: a row of the state was given none; give Batch(source=...) with its first tokens"
                )
            for row in state.rows:
                row.source = row.source or given
        x, context = self._enter(batch, state)
        if batch.source is not None:
            memory, losses = self.encode(batch.source)
            context = replace(context, memory=memory, losses=losses)
        x, layers = run_layers(self.model.layers, x, context, None if state is None else state.layers, want.layers)
        hidden = self.model.norm(x)
        output = read_head(self.lm_head, hidden, batch, context, None if state is None else state.layers[-1], want)
        if state is not None:
            state.advance(batch.shape[1], batch.lengths)
        return replace(output, layers=layers, aux=context.aux())

    def encode(self, source: Batch) -> tuple[SourceMemory, Losses]:
        """The encoder's output of a source, and the losses of its layers.

        Raises:
            RequestError: a source that is packed, or that the encoder cannot take.
        """
        if source.lengths is not None and bool((source.lengths < 1).any()):
            raise RequestError("source: a row has no tokens; an encoder reads at least one")
        if source.segments is not None:
            raise RequestError("source: segments are not supported; give each row one source")
        source = replace(source, mask="bidirectional", prefix=None)
        encoder: Any = self.encoder
        check_supported(encoder.layers, source)
        _, mask = place(source, None)
        x = self._tokens(source)
        positions = mask.queries if source.positions is None else source.positions
        limit = encoder.position.limit
        if limit is not None and source.shape[1] > limit:
            raise RequestError(f"source: {source.shape[1]} tokens, but only {limit} positions were learned")
        x = encoder.position.embed(x, positions)
        x = x if encoder.embed_norm is None else encoder.embed_norm(x)
        context = Context(
            ids=source.ids,
            positions=positions,
            mask=mask,
            position=encoder.position,
            form=self.attention_form,
            lengths=source.lengths,
        ).at(encoder.position, x.dtype)
        x, _ = run_layers(encoder.layers, x, context, None)
        real = context.real()
        if real is None:
            real = torch.ones(source.shape, dtype=torch.bool, device=source.device)
        return SourceMemory(encoder.norm(x), real), context.losses

    def flops_per_token(self, length: int) -> float:
        """FLOPs of training on one target token of a row of `length` with a source as long; see `Transformer`."""
        encoder: Any = self.encoder
        return super().flops_per_token(length) + 3 * stack_flops(encoder.layers, encoder.position, length)
