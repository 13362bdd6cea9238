"""The few shapes that models, objectives, decoding and evaluation agree on. See docs/architecture.md."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from llmanac.core.errors import RequestError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IGNORE = -100  # a target that carries no loss; the value that every peer uses

MaskKind = Literal["causal", "prefix", "bidirectional"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a model reads: token ids, or embeddings in place of ids.

    Attributes:
        ids: (B, T) token ids; None where `embeddings` are given.
        embeddings: (B, T, D) vectors in the place of token embeddings (soft prompts, images).
        targets: (B, T) the token to predict at each place, `IGNORE` where there is none.
        positions: (B, T) position of each token in its own document; `None` counts from the state's length.
        segments: (B, T) which document of a packed row a token belongs to: a run of equal numbers, negative for
            padding. Nothing passes from one document to the next.
        lengths: (B,) how many tokens of each row are real; `None` means all of them (padding is on the right).
        mask: what a token may see: the past, the whole row, or a whole prefix and then the past.
        prefix: (B,) prefix length of each row, for `mask="prefix"`.
        token_types: (B, T) which text of a pair a token is of, for encoders that tell them apart; None for all 0.
        within: (B, T) place of each token in a span that fills a blank, for two-dimensional positions; None for all 0.
        source: the sequence that an encoder reads, for encoder-decoders and cross-attention. With a state it is given
            once, with the first tokens.
    """

    ids: Tensor | None = None
    embeddings: Tensor | None = None
    targets: Tensor | None = None
    positions: Tensor | None = None
    segments: Tensor | None = None
    lengths: Tensor | None = None
    mask: MaskKind = "causal"
    prefix: Tensor | None = None
    token_types: Tensor | None = None
    within: Tensor | None = None
    source: Batch | None = None

    @classmethod
    def padded(
        cls, rows: Sequence[Any], targets: Sequence[Any] | None = None, *, device: torch.device | str | None = None
    ) -> Batch:
        """Rows of token ids (lists or arrays of any lengths), padded on the right with 0; their targets with `IGNORE`.

        `lengths` is set only where they differ.
        """
        import torch

        counts = [len(row) for row in rows]
        shape = (len(rows), max(counts))
        if min(counts) == shape[1] and targets is None and isinstance(rows[0], list):
            return cls(ids=torch.tensor(rows, device=device))  # the usual step of decoding
        lengths = torch.tensor(counts)

        def filled(values: Sequence[Any], padding: int) -> Tensor:
            out = np.full(shape, padding, np.int64)
            for line, row in zip(out, values, strict=True):
                line[: len(row)] = row
            return torch.from_numpy(out)

        batch = cls(
            ids=filled(rows, 0),
            targets=None if targets is None else filled(targets, IGNORE),
            lengths=None if int(lengths.min()) == shape[1] else lengths,
        )
        return batch if device is None else batch.to(torch.device(device))

    def to(self, device: torch.device) -> Batch:
        """The same batch with every tensor on `device`."""
        import torch

        moved: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Batch):
                moved[name] = value.to(device)
            elif isinstance(value, torch.Tensor):
                # a copy to CUDA that waits would stop the host once a micro-batch
                moved[name] = value.to(device, non_blocking=device.type == "cuda")
        return replace(self, **moved)

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T). Raises RequestError where there is neither ids nor embeddings, both, or no token."""
        if (self.ids is None) == (self.embeddings is None):
            raise RequestError("batch: give either ids or embeddings")
        given, name, axes = (self.ids, "ids", 2) if self.ids is not None else (self.embeddings, "embeddings", 3)
        assert given is not None
        if given.ndim != axes or not given.shape[1]:
            what = "(batch, at least one token)" if axes == 2 else "(batch, at least one token, width)"
            raise RequestError(f"{name}: expected {what}, got shape {tuple(given.shape)}")
        return given.shape[0], given.shape[1]

    def check(self) -> None:
        """Raises RequestError that names the field whose shape, type or value does not fit."""
        import torch

        rows, length = self.shape
        if self.ids is not None and self.ids.dtype not in (torch.int64, torch.int32):
            raise RequestError(f"ids: expected integers (int64), got {self.ids.dtype}")
        each: tuple[int, ...] = (rows, length)
        shapes: dict[str, list[tuple[int, ...]]] = {
            "targets": [each], "segments": [each], "positions": [each, (1, length)], "lengths": [(rows,)],
            "prefix": [(rows,)], "token_types": [each], "within": [each],
        }  # fmt: skip
        for name, fit in shapes.items():
            value = getattr(self, name)
            if value is not None and (tuple(value.shape) not in fit or value.is_floating_point()):
                what = f"{tuple(value.shape)} {value.dtype}"
                raise RequestError(f"{name}: expected integers of shape {fit[0]}, got {what}")
        if self.lengths is not None and not torch.compiler.is_compiling():
            wrong = [n for n in self.lengths.tolist() if not 0 <= n <= length]
            if wrong:
                raise RequestError(f"lengths: {wrong[0]} is not between 0 and the row's {length} tokens")
        if self.source is not None and self.source.shape[0] != rows:
            raise RequestError(f"source: {self.source.shape[0]} rows for a batch of {rows}")

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        given = self.ids if self.ids is not None else self.embeddings
        assert given is not None
        return given.device

    @property
    def units(self) -> int:
        """How many places carry loss."""
        if self.targets is None:
            return 0
        return int((self.targets != IGNORE).sum())

    @property
    def last(self) -> Tensor:
        """(B,) the index of each row's last real token (0 where it has none)."""
        import torch

        rows, length = self.shape
        if self.lengths is None:
            return torch.full((rows,), length - 1, device=self.device)
        return (self.lengths - 1).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class BagOfWords:
    """Lists of ids without an order, as bag-of-words models read them.

    Attributes:
        ids: (N,) all lists one after the other.
        lengths: (B,) how many ids each list has.
        targets: (B,) the class of each list.
    """

    ids: Tensor
    lengths: Tensor
    targets: Tensor | None = None

    def to(self, device: torch.device) -> BagOfWords:
        """The same with every tensor on `device`."""
        return replace(self, **{k: v.to(device) for k, v in vars(self).items() if v is not None})

    @property
    def shape(self) -> tuple[int, int]:
        """(1, N)."""
        return 1, len(self.ids)


@dataclass(frozen=True, kw_only=True)
class OutputRequest:
    """What a forward pass is asked for; several things at once cost one pass.

    Attributes:
        logits: of all places, of each row's last real token, or None.
        hidden: whether to return the final normed hidden states.
        layers: numbers of blocks whose outputs are returned (0: the embeddings, n: after block n).
        nll: negative log-likelihoods of the targets: their sum, or one a place.
        entropy: whether to return the entropy of each place's distribution.

    `nll` and `entropy` are computed in chunks; full logits are held only where `logits` asks for them.
    """

    logits: Literal["all", "last"] | None = None
    hidden: bool = False
    layers: tuple[int, ...] = ()
    nll: Literal["sum", "none"] | None = None
    entropy: bool = False

    def __post_init__(self) -> None:
        for name, known in (("logits", ("all", "last", None)), ("nll", ("sum", "none", None))):
            if getattr(self, name) not in known:
                raise RequestError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(map(repr, known))}")
        if not isinstance(self.layers, tuple) or any(type(n) is not int for n in self.layers):
            raise RequestError(f"layers: {self.layers!r} is not a tuple of numbers of blocks")


ALL = OutputRequest(logits="all")
LAST = OutputRequest(logits="last")
HIDDEN = OutputRequest(hidden=True)


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """What a model returns, as `OutputRequest` asked; the rest is None.

    Attributes:
        logits: (B, T, V) or (B, 1, V).
        hidden: (B, T, D), what the head reads.
        layers: a (B, T, D) for each number of `OutputRequest.layers`.
        nll: nats; () the sum, or (B, T) with 0 where there is no target.
        entropy: (B, T), nats.
        aux: losses of parts by name (a load-balance loss), each () and already weighted; where gradients are computed.
    """

    logits: Tensor | None = None
    hidden: Tensor | None = None
    layers: tuple[Tensor, ...] = ()
    nll: Tensor | None = None
    entropy: Tensor | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a model can do that not every one can; `capabilities` reads it of any model.

    Attributes:
        writes: whether it continues a text; an encoder does not.
        reads_source: whether an encoder reads its prompts; start_id: what every answer then begins with.
        sees: whether its prompts may have images.
        counted: whether it is estimated from counts and has no parameters.
        soft_prompts: whether an adapter may put trained vectors before its tokens.
        places_within: whether its positions read `Batch.within` too.
        counts_flops: whether it has `flops_per_token(length)`.
        settings: which attributes that say how it is computed may be set: `compute_dtype`, `attention_form` and
            `recompute`.
    """

    writes: bool = True
    reads_source: bool = False
    start_id: int | None = None
    sees: bool = False
    counted: bool = False
    soft_prompts: bool = False
    places_within: bool = False
    counts_flops: bool = False
    settings: frozenset[str] = frozenset()


def capabilities(model: Any) -> Capabilities:
    """What a model says that it can do; one that says nothing can do what every one can."""
    found: Capabilities = getattr(model, "capabilities", Capabilities())
    return found


@contextlib.contextmanager
def evaluating(*models: Any) -> Iterator[None]:
    """Dropout off while generating, and back as it was afterwards."""
    training = [model for model in models if getattr(model, "training", False)]  # an n-gram model is never trained
    for model in training:
        model.eval()
    try:
        yield
    finally:
        for model in training:
            model.train()


class State(Protocol):
    """What decoding remembers, one row a sequence; see `models/state`.

    Attributes:
        lengths: (B,) tokens seen by each row; counts: the same on the host.
        device: where its tensors are.
        by_length: see `DecodingState`; None where positions do not depend on a row's length.
    """

    by_length: Any
    device: Any

    @property
    def lengths(self) -> Tensor: ...
    @property
    def counts(self) -> list[int]: ...
    @property
    def nbytes(self) -> int: ...
    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more tokens a row, so that appending does not reallocate."""

    def select(self, rows: Tensor) -> State:
        """An independent state of the given rows (repeats allowed: this is how beams and samples fork)."""

    def join(self, other: Any) -> State:
        """An independent state of the rows of both."""

    def extend(self, rows: int = 1) -> None:
        """Add empty rows at the end."""

    def arrange(self, order: Sequence[int]) -> None:
        """Row i becomes what row `order[i]` was; repeats copy, rows not named are dropped."""

    def view(self, start: int, stop: int) -> State:
        """A range of rows as a state over the same memory."""

    def mark(self) -> Any:
        """This moment, for `rewind`."""

    def rewind(self, mark: Any, lengths: Any = None) -> None:
        """Forget each row's tokens past its new length. Raises RequestError where a layer cannot."""

    def close(self) -> None:
        """Return what it holds, where others may use it."""


@runtime_checkable
class LanguageModel(Protocol):
    """All that decoding, evaluation and serving use; an n-gram model is one too.

    A model that can do more has `capabilities`, and one whose texts end with tokens of its own has `generation`.
    """

    vocab_size: int

    @property
    def max_length(self) -> int | None:
        """The context that it was built for; None where there is no limit."""

    def start(self, batch: int) -> State:
        """An empty state for `batch` rows."""

    def forward(self, batch: Batch | Tensor, state: Any = None, want: OutputRequest = ALL) -> ModelOutput:
        """What `want` asks for; with a state, for the tokens that follow what the state holds."""

    def nll(self, batch: Batch, reduction: Literal["sum", "none"] = "sum") -> Tensor:
        """Negative log-likelihood in nats of `batch.targets`: the sum, or (B, T) with 0 where there is no target."""


# (sum of losses, how many units it sums over, sums of metrics over the same units). Units and metrics may be tensors
# (), which stay on the device until the end of the step.
LossSum: TypeAlias = "tuple[Tensor, Tensor | int, Mapping[str, Tensor | float]]"


@runtime_checkable
class Objective(Protocol):
    """A loss. Only the trainer divides by the units, over micro-batches and ranks.

    The trainer also asks for models, generators and metrics: derive from `objectives/_base.py`, which has them all.
    """

    def collate(self, rows: Sequence[Any]) -> Batch: ...
    def loss(self, model: Any, batch: Batch) -> LossSum:
        """`(sum of losses, how many units it sums over, sums of metrics)`; see `LossSum`."""


SourceState: TypeAlias = "tuple[dict[str, Any], dict[str, Tensor]]"


@runtime_checkable
class Source(Protocol):
    """A resumable stream of the rows of each step.

    A source whose rows are expensive (rollouts) may also have `sample_rows()`: rows of one step, of the usual shape,
    that cost nothing, or None. A training is planned with them and draws none.
    """

    def __next__(self) -> Any: ...
    def state(self) -> SourceState:
        """Where it is now: a table that JSON can hold, and tensors by name (most sources have none)."""

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue from a `state`. Raises DataError where it belongs to other data."""
