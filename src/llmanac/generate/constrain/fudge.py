"""Future discriminators (FUDGE): a classifier of beginnings steers the next token towards texts with an attribute.

    p'(x_t | x_<t, a) = p(x_t | x_<t) p(a | x_<=t)^w / Z        over the k most probable x_t

By Bayes' rule this is p(x_t | x_<t, a) where w = 1, k = V and the classifier knows how probable the attribute a is for
the text that the model will have written in the end, given its beginning x_<=t. The language model stays as it is. The
classifier keeps a state for each text, so a token costs it one step of k candidates from that state.

    classifier = train_prefix_classifier(texts, labels, tokenizer)      # recipes/prefix_classifier.py
    engine.generate(prompt, decoding=[Fudge(classifier=classifier, k=50), make_method("decoding", "top-p")])

Shapes: logits (B, V) in and out; states (B, ...), candidates (B k,). Yang & Klein 2021, arXiv:2104.05218.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.core.errors import RequestError
from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
from llmanac.core.types import Batch
from llmanac.generate.decoding import Array, DecodingSpec, LogitsProcessor, RowTokens, Sequences, largest, nothing
from llmanac.models.layers import Embedding, Linear
from llmanac.models.lm import draw_parameters
from llmanac.models.mixers.gru import GRU


class PrefixClassifier(Protocol):
    """Log-odds that a text which begins like this has the attribute, token by token."""

    def start(self, rows: int) -> Tensor:
        """(rows, ...): the states of empty beginnings."""

    def step(self, state: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """States and log-odds (rows,) after one more token each, of ids (rows,)."""


@dataclass
class ClassifierCost:
    """What classifiers computed: calls, and tokens in all of them."""

    calls: int = 0
    tokens: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Fudge(DecodingSpec):
    """A decoding method; any sampler may follow it. Two are the same only if they are one object.

    Attributes:
        classifier: a PrefixClassifier.
        k: candidates a token; a k beyond the vocabulary takes all. No other token is generated.
        weight: the exponent w.
        reads: whether the classifier reads the generated tokens alone, or the prompt before them too.
        cost: counts what the classifier computes.
    """

    reads_text: ClassVar[bool] = True

    classifier: Any
    k: int = 200
    weight: float = 1.0
    reads: Literal["answer", "text"] = "answer"
    cost: ClassifierCost = field(default_factory=ClassifierCost)

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    ranges = within(COUNT, "k") | within(NOT_NEGATIVE, "weight")

    def build(self, **dims: Any) -> LogitsProcessor:
        known: weakref.WeakKeyDictionary[RowTokens, tuple[int, Tensor]] = weakref.WeakKeyDictionary()

        def steer(logits: Array, sequences: Sequences = ()) -> Array:
            if len(sequences) != len(logits):
                raise RequestError("fudge: needs the texts so far; give one for each row of logits")
            states = self._states(sequences, known)
            values, ids = largest(logits, self.k)
            odds = self._step(states.repeat_interleave(ids.shape[1], 0), torch.from_numpy(ids.flatten()))[1]
            values = values + self.weight * F.logsigmoid(
                odds.to("cpu", torch.from_numpy(values).dtype)
            ).numpy().reshape(values.shape)
            steered = nothing(logits)
            np.put_along_axis(steered, ids, values, -1)
            return steered

        return steer

    def _states(self, sequences: Sequences, known: Any) -> Tensor:
        """(B, ...): the states after all that each text has; tokens that are new to the classifier are read."""
        found = [known.get(s) or (0, self.classifier.start(1)) for s in sequences]
        texts = [[*(s.prompt_ids if self.reads == "text" else ()), *s.ids] for s in sequences]
        counts, states = [count for count, _ in found], torch.cat([state for _, state in found])
        while rows := [row for row, text in enumerate(texts) if counts[row] < len(text)]:
            ids = torch.tensor([texts[row][counts[row]] for row in rows], device=states.device)
            states = states.index_copy(0, torch.tensor(rows, device=states.device), self._step(states[rows], ids)[0])
            counts = [count + (row in rows) for row, count in enumerate(counts)]
        for row, sequence in enumerate(sequences):
            known[sequence] = counts[row], states[row : row + 1]
        return states

    def _step(self, states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        self.cost.calls, self.cost.tokens = self.cost.calls + 1, self.cost.tokens + len(ids)
        with torch.no_grad():
            after: tuple[Tensor, Tensor] = self.classifier.step(states, ids.to(states.device))
        return after


class GRUClassifier(nn.Module):
    """A GRU over token embeddings with one score: log-odds of the attribute after every token.

    Args:
        vocab_size, dim, hidden: tokens, width of an embedding, and of the state.
    """

    def __init__(self, vocab_size: int, *, dim: int = 64, hidden: int = 128) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embed = Embedding(vocab_size, dim, std=0.1)
        self.gru = GRU(dim, hidden)
        self.gru.o_proj = Linear(hidden, 1, bias=True)

    def initialise(self, seed: int) -> GRUClassifier:
        """Draw the weights by seed, name and shape; returns itself."""
        draw_parameters(self, seed)
        return self

    def start(self, rows: int) -> Tensor:
        """(rows, hidden) zeros."""
        return self.gru.hidden_proj.weight.new_zeros(rows, self.gru.hidden)

    def step(self, state: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """See PrefixClassifier."""
        (after,) = self.gru.cell(self.gru.input_proj(self.embed(ids)), (state,))
        return after, self.gru.o_proj(after)[:, 0]

    def forward(self, batch: Batch) -> Tensor:
        """Log-odds (B, T) after every token of ids (B, T)."""
        assert batch.ids is not None
        states, _ = self.gru.steps(
            self.gru.input_proj(self.embed(batch.ids)), (self.start(len(batch.ids)),), None, None
        )
        scores: Tensor = self.gru.o_proj(states)[..., 0]
        return scores
