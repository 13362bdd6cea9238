"""The Transformer encoder: every token sees all of its text, before it and after it.

    x = norm(E[ids] + K[kinds] + positions);  x = block_l(x) for l = 1 .. L;  p(token at a place) = head(x)

x (B, T, D). It does not predict the next token but one that is hidden in the middle (a masked language model), or
gives vectors of texts. K holds a vector for each of two texts of a pair. BERT's blocks have their norms behind them,
so nothing follows the last one; ModernBERT's have them in front. Parameter names are those of `Transformer`.
Devlin et al. 2019; Liu et al. 2019 (RoBERTa); Clark et al. 2020 (ELECTRA); Song et al. 2020 (MPNet); Sanh et al.
2019 (DistilBERT); Warner et al. 2024 (ModernBERT).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, nn

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
from llmanac.core.types import ALL, Batch, Capabilities, ModelOutput, OutputRequest
from llmanac.models.blocks import BlockSpec
from llmanac.models.blocks.post_norm import Spec as PostNorm
from llmanac.models.ffn.mlp import Spec as MLP
from llmanac.models.forward import Context
from llmanac.models.heads import Head, HeadSpec
from llmanac.models.layers import Embedding, Linear
from llmanac.models.lm import LanguageModelSpec
from llmanac.models.lm.transformer import Spec as StackSpec
from llmanac.models.lm.transformer import Transformer
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.norms import NormSpec
from llmanac.models.norms.layernorm import Spec as LayerNorm
from llmanac.models.positions import PositionSpec
from llmanac.models.positions.learned import Spec as Learned
from llmanac.models.state import DecodingState

CARD = {
    "title": "Transformer (encoder)",
    "paper": "Devlin et al. 2019, arXiv:1810.04805; Warner et al. 2024, arXiv:2412.13663",
    "reference": "BertForMaskedLM, BertModel, RobertaForMaskedLM and ModernBertForMaskedLM in transformers",
    "reads": "both sides",
    "test": "tests/references/test_families.py::test_logits_equal_within_1e_6",
}


def _blocks() -> tuple[BlockSpec, ...]:
    return (PostNorm(mixer=Softmax(biases="all"), ffn=MLP(activation="gelu", biases="all")),)


@dataclass(frozen=True, kw_only=True)
class Spec(LanguageModelSpec):
    """dim: D; layers: L; blocks: the pattern that repeats to L; max_length: the context it is trained for.

    token_types: vectors that tell the texts of a pair apart, 0 for none; embedding_norm, final_norm: whether `norm` is
    also applied to the embeddings and after the last block; head: None for a model that gives hidden states alone;
    embedding_dim: width of the embeddings where a matrix maps them to D (ELECTRA).
    """

    dim: int = 256
    layers: int = 4
    blocks: tuple[BlockSpec, ...] = field(default_factory=_blocks)
    position: PositionSpec = field(default_factory=Learned)
    norm: NormSpec = field(default_factory=LayerNorm)
    head: HeadSpec | None = None
    max_length: int = 512
    tied: bool = False
    token_types: int = 0
    embedding_norm: Literal["none", "model"] = "model"
    final_norm: Literal["none", "model"] = "none"
    embedding_dim: int | None = None

    ranges = within(NOT_NEGATIVE, "token_types") | within(COUNT, "embedding_dim")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head is None and self.tied:
            raise SpecError("tied: there is no head to tie to the embedding; set it to false")
        self.stack()  # its own checks

    def stack(self) -> StackSpec:
        """The part that a decoder has too."""
        names = ("dim", "layers", "blocks", "position", "norm", "max_length", "tied")
        return StackSpec(**{name: getattr(self, name) for name in names}, head=self.head or _NoHeadSpec())

    def build(self, *, vocab_size: int, **dims: Any) -> Encoder:
        """A model with the initial weights of seed 0 (none on the meta device)."""
        return Encoder(self, vocab_size)


class _NoHeadSpec(HeadSpec):
    def build(self, **dims: Any) -> Head:
        return _NoHead()


class _NoHead(Head):
    def logits(self, *args: Any, **options: Any) -> Tensor:
        raise RequestError(
            "logits: this model has no head over the vocabulary; ask for hidden states (OutputRequest(hidden=True))"
        )

    nll = entropy = logits

    def flops(self, keys: float) -> float:
        return 0.0


class Encoder(Transformer):
    """See the module.

    Attributes:
        token_types: the embedding of `Batch.token_types`, None where there are none; a batch without them has type 0.
        embed_norm, embed_proj: the embeddings' norm and their product to width D, None where there is none.
    """

    token_types: Any
    embed_norm: Any
    embed_proj: Any

    def __init__(self, spec: Spec, vocab_size: int) -> None:
        types, norm = spec.token_types, spec.norm if spec.embedding_norm == "model" else None
        width = spec.embedding_dim or spec.dim
        parts = {
            "token_types": lambda: Embedding(types, width) if types else None,
            "embed_norm": lambda: None if norm is None else norm.build(dim=width),
            "embed_proj": lambda: None if spec.embedding_dim is None else Linear(width, spec.dim, bias=True),
        }
        super().__init__(spec.stack(), vocab_size, stacks=parts, width=width)
        self.spec, self.typed = spec, bool(types)
        if spec.final_norm == "none":
            self.model.norm = nn.Identity()

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, soft_prompts=False, writes=False)

    def start(self, batch: int) -> DecodingState:
        """Raises RequestError: there is nothing to decode."""
        raise RequestError(
            "state: an encoder reads whole texts and does not write; `llmanac embed` gives vectors of texts"
        )

    def forward(
        self, batch: Batch | Tensor, state: DecodingState | None = None, want: OutputRequest = ALL
    ) -> ModelOutput:
        """What `want` asks for; see `core.types`. A tensor of ids is read as a bidirectional batch.

        Raises:
            RequestError: a batch that is causal, a state, or what the model cannot take.
        """
        batch = Batch(ids=batch, mask="bidirectional") if isinstance(batch, Tensor) else batch
        if state is not None:
            self.start(1)
        if batch.mask != "bidirectional":
            raise RequestError(
                f"mask: an encoder sees both sides of a token and is no {batch.mask} model; it gives vectors (`llmanac "
                'embed`) and labels (`llmanac classify`), from Python with mask="bidirectional"'
            )
        return super().forward(batch, None, want)

    def _enter(self, batch: Batch, state: DecodingState | None) -> tuple[Tensor, Context]:
        x, context = super()._enter(batch, state)
        x = x if self.embed_norm is None else self.embed_norm(x)
        return x if self.embed_proj is None else self.embed_proj(x), context

    def _tokens(self, batch: Batch) -> Tensor:
        x = super()._tokens(batch)
        if self.token_types is None:
            return x
        kinds = batch.token_types
        if kinds is None:
            return x + self.token_types.weight[0].to(x.dtype)
        if int(kinds.min()) < 0 or int(kinds.max()) >= self.spec.token_types:
            raise RequestError(f"token_types: must be from 0 to {self.spec.token_types - 1}")
        return x + self.token_types(kinds).to(x.dtype)

    def forward_flops(self, keys: float) -> float:
        wider = 0.0 if self.embed_proj is None else 2.0 * self.embed_proj.weight.numel()
        return super().forward_flops(keys) + wider

    def flops_per_token(self, length: int) -> float:
        """FLOPs of training on one token of a row of `length`, which sees all of it; see `Transformer`."""
        return 3 * self.forward_flops(length)
