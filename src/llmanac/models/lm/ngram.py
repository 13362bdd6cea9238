"""The n-gram: count what follows each context of n - 1 tokens, and smooth.

    p(w | x_1 .. x_t) = p(w | x_{t-n+2} .. x_t)        by the counts of n-grams and a smoothing (kind `smoothing`)

Nothing is trained step by step: one pass over the text counts, one pass over the counts estimates. A token costs n
look-ups, whatever the size of the model; memory grows with the number of different n-grams, and a context never seen
is answered from a shorter one. A bigram by relative frequencies is order 2 with `mle`.

The model reads the token ids of any tokenizer. Before its first token a sequence has no context; give it the
tokenizer's start token, as training did. Shannon 1948; Jelinek 1976; Chen & Goodman 1998.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError, RequestError, SpecError
from llmanac.core.types import ALL, IGNORE, Batch, Capabilities, ModelOutput, OutputRequest
from llmanac.models.card import model_card
from llmanac.models.folder import RECORD, read_generation, read_record, record_of
from llmanac.models.forward import check_targets, place
from llmanac.models.lm import LanguageModelSpec
from llmanac.models.ngrams.binary import read_binary, write_binary
from llmanac.models.ngrams.counts import check_order, count
from llmanac.models.ngrams.trie import Trie, places, untrained
from llmanac.models.ngrams.words import estimate
from llmanac.models.smoothing import SmoothingSpec
from llmanac.models.smoothing.modified_kneser_ney import Spec as ModifiedKneserNey
from llmanac.models.state import DecodingState
from llmanac.models.state.kv import KVCache

CARD = {
    "title": "N-gram by counting",
    "paper": "Chen & Goodman 1998, An empirical study of smoothing techniques for language modeling",
    "reference": "KenLM (lmplz, query and its Python module)",
    "aliases": {"bigram": {"order": 2, "smoothing": "mle"}},
}
MODEL_TYPE = "llmanac-ngram"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Spec(LanguageModelSpec):
    """order: n, the longest n-gram counted; smoothing: how counts become probabilities."""

    estimated: ClassVar[bool] = True  # by counting: there are no steps to train

    order: int = 5
    smoothing: SmoothingSpec = field(default_factory=ModifiedKneserNey)

    def __post_init__(self) -> None:
        check_order(self.order)

    def build(self, *, vocab_size: int, **dims: Any) -> Ngram:
        """A model that has counted nothing: every token is equally likely."""
        return Ngram(self, vocab_size)


class Ngram(nn.Module):
    """See the module. It has no parameters that a gradient could reach; the trie stays on the CPU.

    Attributes:
        trie: what was estimated.
        max_length: None; any length can be read.
        generation: what generation_config.json holds.
        family: None; no family holds it.
    """

    capabilities = Capabilities(counted=True, counts_flops=True)
    family: str | None = None

    def __init__(self, spec: Spec, vocab_size: int, trie: Trie | None = None) -> None:
        super().__init__()
        if vocab_size < 1:
            raise SpecError(f"vocab_size: {vocab_size} must be at least 1")
        self.spec, self.vocab_size = spec, vocab_size
        self.trie = untrained(vocab_size, spec.order) if trie is None else trie
        self.max_length: int | None = None
        self.generation: dict[str, Any] = {}

    def initialise(self, seed: int) -> Ngram:
        """Nothing here is random."""
        return self

    def estimate(
        self, documents: Iterable[np.ndarray], *, start: int | None = None, memory: int | None = None
    ) -> Ngram:
        """Count documents and estimate; returns the model.

        Args:
            documents: token ids (T,) each; no n-gram spans two.
            start: the token that stands before each document; put there where it is missing.
            memory: bytes that counting may take; four fifths of what is free by default.

        Raises:
            DataError: no tokens, ids outside the vocabulary, or too many for the memory.
        """
        if start is not None and not 0 <= start < self.vocab_size:
            raise DataError(f"start: {start} is not a token id below {self.vocab_size}")
        rows = [np.asarray(ids, np.int32) for ids in documents]
        if start is not None:
            rows = [r if len(r) and r[0] == start else np.concatenate([[np.int32(start)], r]) for r in rows]
        lengths = np.array([len(r) for r in rows], np.int64)
        words = np.ascontiguousarray(np.concatenate(rows) if rows else np.zeros(0), np.int32)
        del rows
        counts = count(words, places(lengths), self.vocab_size, self.spec.order, start=start, memory=memory)
        about = {"kind": "tokens", "smoothing": self.spec.smoothing.name}
        self.trie = estimate(counts, self.spec.smoothing.build(), about)
        return self

    def start(self, batch: int) -> DecodingState:
        """An empty state for `batch` rows: the tokens seen, so that any of them can be taken back."""
        ids = KVCache([torch.zeros(batch, 0, dtype=torch.long)], dim=1)
        return DecodingState([ids], batch)

    def forward(
        self, batch: Batch | Tensor, state: DecodingState | None = None, want: OutputRequest = ALL
    ) -> ModelOutput:
        """What `want` asks for; logits are log-probabilities, `hidden` the trie's nodes (B, T, order - 1), int64.

        Args:
            batch: token ids (B, T), or a Batch of them.
            state: what `start` gave; the tokens then follow what it holds.

        Raises:
            RequestError: ids outside the vocabulary, attention other than causal, or nll without targets.
        """
        batch = Batch(ids=batch) if isinstance(batch, Tensor) else batch
        batch.check()
        check_targets(batch, want)
        if want.layers:
            raise RequestError("layers: an n-gram has no blocks")
        device = batch.device
        tokens, before = self._stream(batch, state)
        nodes, depth = self._contexts(tokens, before, batch.shape)
        if state is not None:
            state.advance(batch.shape[1], None if batch.lengths is None else batch.lengths.cpu())
        found: dict[str, Any] = {}
        if want.hidden:
            found["hidden"] = torch.from_numpy(nodes).to(device)
        if want.nll is not None:
            found["nll"] = self._nll(nodes, depth, batch, want.nll)
        if want.entropy:
            log_p = self._logits(nodes, depth)
            found["entropy"] = -(log_p.exp() * log_p.clamp(min=-1e300)).sum(-1).to(device)
        if want.logits == "last":
            rows, last = np.arange(len(nodes)), batch.last.cpu().numpy()
            nodes, depth = nodes[rows, last][:, None], depth[rows, last][:, None]
        if want.logits is not None:
            found["logits"] = self._logits(nodes, depth).to(device)
        return ModelOutput(**found)

    def _logits(self, nodes: np.ndarray, depth: np.ndarray) -> Tensor:
        flat = np.ascontiguousarray(nodes.reshape(depth.size, self.spec.order - 1))
        logits = self.trie.distributions(flat, np.ascontiguousarray(depth.reshape(-1)))
        return torch.from_numpy(logits.reshape((*nodes.shape[:2], self.vocab_size)))

    def nll(self, batch: Batch, reduction: Literal["sum", "none"] = "sum") -> Tensor:
        """Negative log-likelihood in nats of `batch.targets` in float64: the sum, or (B, T) with 0 where there is none.

        Raises:
            RequestError: a batch without targets, or ids outside the vocabulary.
        """
        value = self.forward(batch, want=OutputRequest(nll=reduction)).nll
        assert value is not None
        return value

    def _nll(self, nodes: np.ndarray, depth: np.ndarray, batch: Batch, reduction: Literal["sum", "none"]) -> Tensor:
        assert batch.targets is not None
        targets = batch.targets.detach().cpu().numpy().reshape(-1)
        wrong = (targets >= self.vocab_size) | ((targets < 0) & (targets != IGNORE))
        if wrong.any():
            raise RequestError(f"targets: {int(targets[wrong][0])} is not a token id below {self.vocab_size}")
        flat = nodes.reshape(len(targets), self.spec.order - 1)
        scores = self.trie.score_targets(flat, depth.reshape(-1), targets) * -math.log(10)
        if reduction == "sum":
            return torch.tensor(float(scores.sum()), dtype=torch.float64)
        return torch.from_numpy(scores.reshape(batch.shape))

    def _stream(self, batch: Batch, state: DecodingState | None) -> tuple[np.ndarray, np.ndarray]:
        """(B, before + T) tokens, with as much of what the state holds before them as matters, and their places."""
        ids = batch.ids
        if ids is None:
            raise RequestError("embeddings: an n-gram reads token ids")
        length = batch.shape[1]
        if batch.mask != "causal":
            raise RequestError(f"mask: an n-gram sees the past alone, not {batch.mask!r}; use causal")
        new = ids.detach().cpu()
        low, high = int(new.min()), int(new.max())
        if low < 0 or high >= self.vocab_size:
            wrong = low if low < 0 else high
            raise RequestError(f"ids: {wrong} is not a token id below {self.vocab_size}")
        if state is None:
            return new.numpy().astype(np.int32), self._places(batch)
        slots, _ = place(batch, state)
        assert slots is not None
        held: Any = state.layers[0]  # a cache, or blocks of a pool
        whole = held.append(slots, new)[0]
        before = self.spec.order - 1
        columns = slots.offsets[:, None] + torch.arange(-before, length)
        tokens = whole.gather(1, columns.clamp(min=0)).numpy().astype(np.int32)
        inside = np.arange(tokens.shape[1])
        return tokens, np.clip(np.minimum(columns.numpy(), inside), 0, 255).astype(np.uint8)

    def _places(self, batch: Batch) -> np.ndarray:
        """(B, T) uint8: how many tokens of its own document stand before each."""
        rows, length = batch.shape
        place = np.broadcast_to(np.arange(length), (rows, length))
        if batch.segments is not None:
            segments = batch.segments.detach().cpu().numpy()
            begins = np.ones((rows, length), np.bool_)
            begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
            place = place - np.maximum.accumulate(np.where(begins, place, 0), axis=1)
        return np.minimum(place, 255).astype(np.uint8)

    def _contexts(self, tokens: np.ndarray, place: np.ndarray, shape: Any) -> tuple[np.ndarray, np.ndarray]:
        """(B, T, order - 1) nodes and (B, T) context tokens of the last T places of each row."""
        nodes = self.trie.contexts(np.ascontiguousarray(tokens.reshape(-1)), np.ascontiguousarray(place.reshape(-1)))
        length = shape[1]
        nodes = nodes.reshape(*tokens.shape, self.spec.order - 1)[:, -length:]
        return nodes, place[:, -length:].astype(np.int64) + 1

    def flops_per_token(self, length: int) -> float:
        """0: there is no matrix product."""
        return 0.0

    def parameter_count(self) -> int:
        """Every log-probability and every back-off weight."""
        return self.trie.parameters

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json, model.safetensors (a trie, see `models/ngrams/binary.py`), generation_config.json,
        llmanac.json and README.md; returns the folder. Raises LlmanacError where the disk refuses.
        """
        folder = Path(folder)
        (folder / "config.json").unlink(missing_ok=True)  # without its config a folder is no checkpoint
        write_binary(self.trie, folder / WEIGHTS)
        files.write_json(folder / RECORD, record_of(self))
        files.write_json(folder / "generation_config.json", self.generation)
        config = {"architectures": ["Ngram"], "model_type": MODEL_TYPE, "vocab_size": self.vocab_size}
        model_card(folder, config, None)
        files.write_json(folder / "config.json", config)
        return folder


def load_pretrained(folder: Path) -> Ngram:
    """The model that `save_pretrained` wrote; its trie is mapped, not read. Raises CheckpointError."""
    spec, vocab_size = read_record(folder)
    trie = read_binary(folder / WEIGHTS)
    if not isinstance(trie, Trie):
        trie = trie.trie
    if not isinstance(spec, Spec) or trie.vocab_size != vocab_size or trie.order != spec.order:
        raise CheckpointError(f"{folder / RECORD}: does not fit {folder / WEIGHTS}; save the model again")
    model = Ngram(spec, vocab_size, trie)
    model.generation = read_generation(folder, {})
    return model
