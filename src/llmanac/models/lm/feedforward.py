"""The feed-forward neural language model: the embeddings of the last n - 1 words, a hidden layer, a softmax.

    x = [C(w_{t-1}); ...; C(w_{t-n+1})]          h = tanh(d + H x)
    p(w_t | context) = softmax(b + U h + W x)     W x only with direct connections

C (V + 1, m) embeds each word the same way wherever it stands, so that what is learned of a word serves all contexts it
occurs in, and words that behave alike come to lie close together: that is what counting cannot do. The window is fixed
at n - 1 words; places before the start of a document have an embedding of their own, row V of C. A forward pass is one
matrix product of width (n - 1) m a token.

Shapes: ids (B, T) -> windows (B, T, n - 1) -> x (B, T, (n - 1) m) -> h (B, T, hidden) -> logits (B, T, V).
Bengio, Ducharme, Vincent & Jauvin 2003, A neural probabilistic language model, equations 5 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.core.ranges import COUNT, Range, within
from llmanac.core.types import ALL, LAST, Batch, ModelOutput, OutputRequest
from llmanac.kernels.nn.cross_entropy import fused_cross_entropy
from llmanac.kernels.nn.entropy import chunked_entropy
from llmanac.models.forward import check_targets, documents, pick, place
from llmanac.models.layers import Embedding, Linear, upcast
from llmanac.models.lm import LanguageModelSpec, TrainedModel
from llmanac.models.state import DecodingState
from llmanac.models.state.kv import KVCache

CARD = {
    "title": "Feed-forward neural language model",
    "paper": "Bengio et al. 2003, A neural probabilistic language model (JMLR 3)",
    "reference": "the formula written out in float64 numpy",
    "aliases": {"feedforward-direct": {"direct": True}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(LanguageModelSpec):
    """order: n, so that a token sees n - 1 before it; dim: m, of an embedding; hidden: units of the tanh layer.

    direct: whether the embeddings are connected to the output too (W).
    """

    order: int = 5
    dim: int = 64
    hidden: int = 256
    direct: bool = False

    ranges = within(Range(2), "order") | within(COUNT, "dim hidden")

    def build(self, *, vocab_size: int, **dims: Any) -> FeedForward:
        """A model with the initial weights of seed 0 (none on the meta device)."""
        return FeedForward(self, vocab_size)


class FeedForward(TrainedModel):
    """See the module.

    Attributes:
        embed_tokens: C; hidden_layer: H and d; lm_head: U and b; direct: W, or None.
        max_length: None; a window is all that is ever seen.
        compute_dtype: what activations are computed in; None for the weights' own dtype.
        generation: what generation_config.json holds.
    """

    def __init__(self, spec: Spec, vocab_size: int) -> None:
        super().__init__(spec, vocab_size)
        width = (spec.order - 1) * spec.dim
        self.embed_tokens = Embedding(vocab_size + 1, spec.dim, std=1.0)
        self.hidden_layer = Linear(width, spec.hidden, bias=True)
        self.lm_head = Linear(spec.hidden, vocab_size, bias=True, std=0.1 * spec.hidden**-0.5)
        self.direct = Linear(width, vocab_size, std=0.1 * width**-0.5) if spec.direct else None
        self.max_length: int | None = None
        if self.device.type != "meta":
            self.initialise(0)

    @property
    def embedding(self) -> Embedding:
        return self.embed_tokens

    def start(self, batch: int) -> DecodingState:
        """An empty state for `batch` rows: the tokens seen."""
        ids = KVCache([torch.zeros(batch, 0, dtype=torch.long, device=self.device)], dim=1)
        return DecodingState([ids], batch, self.device)

    def forward(
        self, batch: Batch | Tensor, state: DecodingState | None = None, want: OutputRequest = ALL
    ) -> ModelOutput:
        """What `want` asks for; `hidden` is the hidden layer (B, T, hidden).

        Raises:
            RequestError: ids outside the vocabulary, attention other than causal, or nll without targets.
        """
        batch = Batch(ids=batch) if isinstance(batch, Tensor) else batch
        batch.check()
        check_targets(batch, want)
        if batch.source is not None:
            raise RequestError("source: this model reads one sequence; leave it out")
        if want.layers:
            raise RequestError("layers: this model has no blocks; ask for hidden")
        windows = self._windows(batch, state)
        if state is not None:
            state.advance(batch.shape[1], batch.lengths)
        if want == LAST:
            windows = windows.gather(1, batch.last[:, None, None].expand(-1, 1, windows.shape[-1]))
        x, h = self._layers(windows)
        logits = nll = entropy = None
        if want.logits is not None:
            at = None if want == LAST or want.logits == "all" else batch.last
            logits = self._logits(pick(x, at), pick(h, at))
        if want.nll is not None:
            nll = self._nll(x.flatten(0, 1), h.flatten(0, 1), batch, want.nll)
        if want.entropy:
            entropy = chunked_entropy(*self._joined(x.flatten(0, 1), h.flatten(0, 1)), self.lm_head.bias)
        entropy = None if entropy is None else entropy.view(batch.shape)
        return ModelOutput(logits=logits, hidden=h if want.hidden else None, nll=nll, entropy=entropy)

    def _logits(self, x: Tensor, h: Tensor) -> Tensor:
        return upcast(self.lm_head(h) if self.direct is None else self.lm_head(h) + self.direct(x))

    def _joined(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """What one product with the vocabulary is made of: U h + W x = [U W] [h; x]."""
        if self.direct is None:
            return self.lm_head.joined(h)
        (h, u), (x, w) = self.lm_head.joined(h), self.direct.joined(x)
        return torch.cat([h, x], -1), torch.cat([u, w], -1)

    def _nll(self, x: Tensor, h: Tensor, batch: Batch, reduction: Literal["sum", "none"]) -> Tensor:
        assert batch.targets is not None
        joined, weight = self._joined(x, h)
        targets = batch.targets.flatten()
        values = fused_cross_entropy(joined, weight, targets, bias=self.lm_head.bias, reduction=reduction)
        return values if reduction == "sum" else values.view(batch.shape)

    def _layers(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., (n - 1) m) and h (..., hidden) of windows (..., n - 1)."""
        x = self.embed_tokens(windows).flatten(-2).to(self.dtype)
        return x, torch.tanh(self.hidden_layer(x))

    def _windows(self, batch: Batch, state: DecodingState | None) -> Tensor:
        """(B, T, n - 1) the last n - 1 tokens up to each place, nearest first; V before the start of a document."""
        ids = batch.ids
        if ids is None:
            raise RequestError("embeddings: this model reads token ids")
        length = batch.shape[1]
        if batch.mask != "causal":
            raise RequestError(f"mask: this model sees the past alone, not {batch.mask!r}; use causal")
        if not torch.compiler.is_compiling() and bool(((ids < 0) | (ids >= self.vocab_size)).any()):
            raise self.wrong_id(ids)
        reach = self.spec.order - 1
        if state is None:
            padded = F.pad(ids, (reach - 1, 0), value=self.vocab_size)
            windows = padded.unfold(1, reach, 1).flip(-1)
            if batch.segments is not None:
                segments = F.pad(documents(batch.segments), (reach - 1, 0), value=-1).unfold(1, reach, 1).flip(-1)
                windows = windows.masked_fill(segments != segments[..., :1], self.vocab_size)
            return windows
        slots, _ = place(batch, state)
        assert slots is not None
        whole = state.layers[0].append(slots, ids)[0]
        steps = torch.arange(length, device=ids.device)[:, None] - torch.arange(reach, device=ids.device)
        columns = slots.offsets[:, None, None] + steps
        found = whole.gather(1, columns.clamp(min=0).flatten(1)).view(columns.shape)
        return found.masked_fill(columns < 0, self.vocab_size)

    def flops_per_token(self, length: int) -> float:
        """FLOPs of training on one token: forward and twice that backward, each product as 2 m n k."""
        direct = 0 if self.direct is None else self.direct.weight.numel()
        return 6.0 * (self.hidden_layer.weight.numel() + self.lm_head.weight.numel() + direct)
