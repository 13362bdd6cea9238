"""The decoder-only Transformer: an embedding, a stack of blocks, a norm, a head.

    x = embed(E[ids], positions);  x = block_l(x) for l = 1 .. L;  p(next | ids) = head(norm(x))      x (B, T, D)

All positions of a row are computed at once (parallel in training, T^2 D work in attention), and any two tokens are one
step apart. `blocks` is a pattern that repeats to `layers`, so a hybrid is a longer pattern; as text it is, for example,
"sliding-window*3 multi-head" (`BlockSpec.from_text`). With a recurrent mixer and no positions the same stack is a
recurrent language model: rnn, gru, lstm, s4 and mamba are names of such choices. Their state has one size at any
length, and every token costs the same. Parameter names are those of Llama checkpoints.
Vaswani et al. 2017; Radford et al. 2018 for the decoder alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.core.errors import RequestError, SpecError, nearest
from llmanac.core.ranges import COUNT, POSITIVE, within
from llmanac.core.types import ALL, Batch, Capabilities, ModelOutput, OutputRequest
from llmanac.kernels.nn.takes import OPERATIONS
from llmanac.models.blocks import BlockSpec
from llmanac.models.blocks.pre_norm import Spec as PreNorm
from llmanac.models.forward import (
    ATTENTION_FORMS,
    AttentionForm,
    Context,
    Recompute,
    check_request,
    documents,
    place,
    read_head,
    run_layers,
)
from llmanac.models.heads import HeadSpec
from llmanac.models.heads.linear import Spec as LinearHead
from llmanac.models.layers import Embedding
from llmanac.models.lm import LanguageModelSpec, TrainedModel
from llmanac.models.masks import AttentionMask
from llmanac.models.norms import NormSpec
from llmanac.models.norms.rmsnorm import Spec as RMSNorm
from llmanac.models.positions import Position, PositionSpec
from llmanac.models.positions.rope import Spec as RoPE
from llmanac.models.soft_prompt import SoftPrompt, after, begin, own, prime, with_vectors
from llmanac.models.state import DecodingState

CARD = {
    "title": "Transformer (decoder)",
    "paper": "Vaswani et al. 2017, arXiv:1706.03762",
    "reference": "transformers.LlamaForCausalLM and GPT2LMHeadModel",
    "aliases": {
        "rnn": {"blocks": [{"name": "pre-norm", "mixer": "rnn"}], "position": "none"},
        "gru": {"blocks": [{"name": "pre-norm", "mixer": "gru"}], "position": "none"},
        "lstm": {"blocks": [{"name": "pre-norm", "mixer": "lstm"}], "position": "none"},
        "mamba": {"blocks": [{"name": "pre-norm", "mixer": "mamba", "ffn": "none"}], "position": "none"},
        "mamba2": {"blocks": [{"name": "pre-norm", "mixer": "mamba2", "ffn": "none"}], "position": "none"},
        "s4": {"blocks": [{"name": "pre-norm", "mixer": "s4"}], "position": "none"},
        "s4d": {"blocks": [{"name": "pre-norm", "mixer": "s4d"}], "position": "none"},
    },
    "titles": {"mamba2": "Mamba-2 (state space duality)", "s4d": "S4D (diagonal state space)"},
}


@dataclass(frozen=True, kw_only=True)
class Spec(LanguageModelSpec):
    """dim: D; layers: L; blocks: the pattern that repeats to L; max_length: the context it is trained for.

    tied: whether the head's matrix is the embedding's; embedding_scale: what token embeddings are multiplied by;
    embedding_norm: of what enters the first block, or None.
    """

    dim: int = 256
    layers: int = 4
    blocks: tuple[BlockSpec, ...] = field(default_factory=lambda: (PreNorm(),))
    position: PositionSpec = field(default_factory=RoPE)
    norm: NormSpec = field(default_factory=RMSNorm)
    head: HeadSpec = field(default_factory=LinearHead)
    max_length: int = 1024
    tied: bool = True
    embedding_scale: float | None = None
    embedding_norm: NormSpec | None = None

    ranges = within(COUNT, "dim layers max_length") | within(POSITIVE, "embedding_scale")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.blocks:
            raise SpecError("blocks: needs at least one block")
        if self.tied and self.head.labels:
            raise SpecError("tied: a head of labels has a matrix of its own; set it to false")
        if self.layers < len(self.blocks):
            raise SpecError(f"layers: {self.layers} is fewer than the {len(self.blocks)} blocks of the pattern")

    def build(self, *, vocab_size: int, **dims: Any) -> Transformer:
        """A model with the initial weights of seed 0 (none on the meta device)."""
        return Transformer(self, vocab_size)


def resolved(spec: Any) -> Any:
    """The same model, or encoder, with every open size filled in, and each kind of block once where all are equal."""
    stacks = {}
    for name in ("blocks", "encoder"):
        if own := getattr(spec, name):
            blocks = tuple(block.resolved(spec.dim) for block in own)
            stacks[name] = blocks[:1] if len(set(blocks)) == 1 else blocks
    return replace(spec, **stacks, position=spec.position.resolved(spec.max_length))


def build_position(
    spec: PositionSpec, blocks: Sequence[BlockSpec], dim: int, max_length: int, *, encoder: bool = False,
    width: int | None = None,
) -> Position:  # fmt: skip
    """The one position module that blocks share; width: of the token embeddings, where it is not `dim`.

    Raises SpecError where heads differ and it cannot serve all.
    """
    found = {m.head_shape(dim) for block in blocks if block.shares_position for m in block.mixers}
    shapes = [shape for shape in found if shape is not None]
    sizes = sorted({size for _, size in shapes})
    if len(sizes) > 1 and not spec.any_head_dim:
        raise SpecError(f"position: {spec.name} needs one head_dim in all blocks, not {sizes}")
    counts = sorted({count for count, _ in shapes})
    if len(counts) > 1 and not spec.any_heads:
        raise SpecError(f"position: {spec.name} needs one number of heads in all blocks, not {counts}")
    using = [m for block in blocks if block.shares_position for m in block.mixers]
    if spec.needs_heads and not any(m.scores and m.head_shape(dim) is not None for m in using):
        raise SpecError(f"position: {spec.name} acts on attention scores, and no block that uses it has attention")
    heads, head_dim = max(shapes, default=(1, dim))
    return spec.build(dim=width or dim, heads=heads, head_dim=head_dim, max_length=max_length, encoder=encoder)


def build_blocks(blocks: Sequence[BlockSpec], layers: int, dim: int, norm: NormSpec, max_length: int) -> nn.ModuleList:
    """The pattern of blocks repeated to `layers`."""
    pattern = [blocks[i % len(blocks)] for i in range(layers)]
    return nn.ModuleList(block.build(dim=dim, norm=norm, max_length=max_length) for block in pattern)


def stack_flops(layers: Iterable[Any], position: Position, keys: float) -> float:
    """Matrix-product FLOPs of one token through blocks, forward, with what their positions add to attention."""
    return sum(float(layer.flops(keys, position)) for layer in layers)


class DecoderStack(nn.Module):
    """All but the head; apart so that parameter names are Llama's."""

    def __init__(self, spec: Spec, vocab_size: int, width: int) -> None:
        super().__init__()
        self.position = build_position(spec.position, spec.blocks, spec.dim, spec.max_length, width=width)
        self.embed_tokens = Embedding(vocab_size, width, std=self.position.embedding_std)
        self.embed_norm = None if spec.embedding_norm is None else spec.embedding_norm.build(dim=spec.dim)
        self.layers: Any = build_blocks(spec.blocks, spec.layers, spec.dim, spec.norm, spec.max_length)
        self.norm = spec.norm.build(dim=spec.dim)


class Transformer(TrainedModel):
    """See the module.

    Attributes:
        spec, vocab_size, max_length: what it was built from.
        attention_form: how attention is computed: sdpa, plain, blocks or flash. All give the same values; settable.
        typed: whether it tells the texts of a pair apart.
        recompute: `blocks` to train with less memory and a third more computing, see `run_layers`; settable.
    """

    recompute: Recompute = "none"
    typed = False

    def __init__(
        self, spec: Spec, vocab_size: int, stacks: Mapping[str, Callable[[], nn.Module | None]] | None = None,
        width: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(spec, vocab_size)
        self.model = DecoderStack(spec, vocab_size, width or spec.dim)
        for name, make in (stacks or {}).items():
            self.add_module(name, make())
        self.lm_head = spec.head.build(dim=spec.dim, vocab_size=vocab_size, width=width or spec.dim)
        if spec.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        self._scale = spec.embedding_scale
        self._form: AttentionForm = "sdpa"
        found = [module for module in self.modules() if isinstance(module, Position)]
        self._compares, self._turned = any(p.compares for p in found), [p for p in found if p.by_length]
        if self.device.type != "meta":
            self.initialise(0)

    @property
    def _by_length(self) -> Callable[[int], int] | None:
        """See `DecodingState.by_length`."""
        return self._lasts if self._turned else None

    def _lasts(self, tokens: int) -> int:
        return min(position.lasts(tokens) for position in self._turned)

    @property
    def max_length(self) -> int | None:
        """The context it was built for, less what an adapter puts before the tokens."""
        before, limit = self.soft_prompt, self.spec.max_length
        return limit if limit is None or before is None or not before.enabled else limit - before.tokens

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            soft_prompts=True,
            places_within=self.model.position.dimensions == 2,
            counts_flops=True,
            settings=frozenset({"compute_dtype", "attention_form", "recompute"}),
        )

    @property
    def embedding(self) -> Embedding:
        return self.model.embed_tokens

    @property
    def attention_form(self) -> AttentionForm:
        return self._form

    @attention_form.setter
    def attention_form(self, form: AttentionForm) -> None:
        if form not in ATTENTION_FORMS:
            known = ", ".join(ATTENTION_FORMS)
            raise SpecError(f"attention: {form!r} is not one of {known}{nearest(str(form), ATTENTION_FORMS)}")
        self._form = form

    def initialise(self, seed: int) -> Transformer:
        """Draw every parameter from a stream named by (seed, its name, its shape); returns the model.

        Embeddings and an untied head: normal, 0.02 unless the positions ask for more. Matrices: normal, fan_in^-0.5.
        What writes to the residual stream starts at 0, so that every block starts as the identity. Norms start at 1,
        biases at 0.
        """
        return super().initialise(seed)

    def start(self, batch: int) -> DecodingState:
        """An empty state for `batch` rows."""
        kinds: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        parts = [layer.start(batch, **kinds) for layer in self.model.layers]
        state = DecodingState([*parts, self.lm_head.start(batch, **kinds)], batch, self.device)
        state.by_length = self._by_length
        return state

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings (B, T, D) of ids (B, T), as `Batch.embeddings` takes them. Raises RequestError."""
        try:
            x: Tensor = self.model.embed_tokens(ids).to(self.dtype)
        except IndexError:
            raise self.wrong_id(ids) from None
        # rounded to the dtype of x first, as in the models that have such a factor
        return x if self._scale is None else x * x.new_full((), self._scale)

    def forward(
        self, batch: Batch | Tensor, state: DecodingState | None = None, want: OutputRequest = ALL
    ) -> ModelOutput:
        """What `want` asks for; see `core.types`.

        Args:
            batch: token ids (B, T), or a Batch.
            state: what `start` gave; the tokens then follow what it holds, and it holds them afterwards.

        Raises:
            RequestError: ids, positions or a kind of attention that the model cannot take, or nll without targets.
        """
        batch = Batch(ids=batch) if isinstance(batch, Tensor) else batch
        dimensions, layers = self.model.position.dimensions, self.model.layers
        check_request(
            layers, self.lm_head, batch, state, want, reads_source=False, typed=self.typed, dimensions=dimensions
        )
        if self.soft_prompt is not None and self.soft_prompt.enabled:
            return self._after_soft_prompt(self.soft_prompt, batch, state, want)
        return self._run(batch, batch, state, want)

    def _after_soft_prompt(
        self, soft_prompt: SoftPrompt, batch: Batch, state: DecodingState | None, want: OutputRequest
    ) -> ModelOutput:
        """The forward pass of tokens after what an adapter puts before them."""
        if state is not None:
            soft_prompt.enabled = False  # while it is read itself
            try:
                prime(self, soft_prompt, state, batch.shape[1])
            finally:
                soft_prompt.enabled = True
            return self._run(after(batch, soft_prompt.tokens), batch, state, want)
        past = soft_prompt.past(self.dtype)
        if past is not None:
            if batch.segments is not None and self._compares:
                raise RequestError("segments: biases by distance to a prefix cannot be packed; give documents own rows")
            made = begin(past, batch, soft_prompt.tokens, by_length=bool(self._turned))
            return self._run(after(batch, soft_prompt.tokens), batch, made, want)
        vectors = soft_prompt.vectors(self.dtype)
        read, places = with_vectors(batch, vectors, self._tokens(batch))
        return self._run(read, batch, None, want, places)

    def _run(
        self, read: Batch, batch: Batch, state: DecodingState | None, want: OutputRequest, places: Tensor | None = None
    ) -> ModelOutput:
        """The forward pass over `read`, which has the tokens of `batch` at `places` (B, T), or as its last ones.

        What comes back is of those.
        """
        x, context = self._enter(read, state)
        blocks, states = self.model.layers, None if state is None else state.layers
        if want == OutputRequest(layers=want.layers) and want.layers and state is None:
            blocks = blocks[: max(want.layers)]  # nothing else is wanted
        x, layers = run_layers(blocks, x, context, states, want.layers, self.recompute)
        if first := read.shape[1] - batch.shape[1]:
            x, layers = (own(x, first, places), tuple(own(layer, first, places) for layer in layers))
        hidden = self.model.norm(x)
        output = read_head(self.lm_head, hidden, batch, context, None if state is None else state.layers[-1], want)
        if state is not None:
            state.advance(batch.shape[1], batch.lengths)
        return replace(output, layers=layers, aux=context.aux())

    def _enter(self, batch: Batch, state: DecodingState | None) -> tuple[Tensor, Context]:
        """The embedded tokens and the context that all layers see."""
        context = self._context(batch, state, self.dtype)
        position = self.model.position
        x = position.embed_within(position.embed(self._tokens(batch), context.positions), batch.within)
        if self.model.embed_norm is not None:
            x = self.model.embed_norm(x)
        return x, context

    def _context(self, batch: Batch, state: DecodingState | None, dtype: torch.dtype) -> Context:
        """The context alone; layers compute in `dtype`."""
        if batch.segments is not None:
            batch = replace(batch, segments=documents(batch.segments))
        slots, mask = place(batch, state)
        position = self.model.position
        if slots is not None and batch.positions is not None and self._compares:
            raise RequestError("positions: a bias by distance counts them from the state; leave them out")
        if OPERATIONS and self._form == "blocks" and torch.is_grad_enabled():
            mask.ranges()  # here, since it reads the mask, which a compiled block cannot
        context = Context(
            ids=batch.ids,
            positions=self._positions(batch, mask),
            segments=batch.segments,
            mask=mask,
            position=position,
            form=self._form,
            slots=slots,
            lengths=batch.lengths,
        )
        return context.at(position, dtype)

    def _tokens(self, batch: Batch) -> Tensor:
        """(B, T, D): the embeddings of the ids, or those that were given."""
        if batch.embeddings is None:
            assert batch.ids is not None
            return self.embed(batch.ids)
        if batch.embeddings.shape[-1] != (width := self.embedding.weight.shape[-1]):
            raise RequestError(f"embeddings: width {batch.embeddings.shape[-1]}, but the model's is {width}")
        return batch.embeddings.to(self.dtype)

    def _positions(self, batch: Batch, mask: AttentionMask) -> Tensor:
        """(B or 1, T): the batch's own, else counted from what the state holds."""
        positions = mask.queries if batch.positions is None else batch.positions
        limit = self.model.position.limit
        if limit is None or torch.compiler.is_compiling():
            return positions
        if batch.positions is None and batch.lengths is None:
            longest = mask.keys.shape[-1]
        elif batch.lengths is None:
            longest = int(positions.max()) + 1
        else:
            last = positions.expand(len(batch.lengths), -1).gather(1, batch.last[:, None])
            longest = int(last.where(batch.lengths[:, None] > 0, -1).max()) + 1
            positions = positions.clamp(max=limit - 1)  # padding may be further out, and nobody reads it
        if longest > limit:
            raise RequestError(
                f"positions: {longest} tokens, but only {limit} positions were learned; shorten the input, or train "
                "with more rows"
            )
        return positions

    def flops_per_token(self, length: int) -> float:
        """FLOPs of training on one token of a row of `length`: forward and twice that backward.

        Counts each matrix product as 2 m n k, attention over the (length + 1) / 2 keys that a token sees on average;
        lookups, norms and activations are left out.
        """
        return 3 * self.forward_flops((length + 1) / 2)

    def forward_flops(self, keys: float) -> float:
        """FLOPs of one token, forward, where a query sees `keys` keys on average."""
        layers = stack_flops(self.model.layers, self.model.position, keys)
        return layers + float(self.lm_head.flops(keys))
