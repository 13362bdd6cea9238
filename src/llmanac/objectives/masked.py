"""Masked language modelling: hide some tokens, predict them from both sides.

    loss = - sum over hidden t of log p(x_t | the text with its hidden tokens replaced)

Of the tokens of a row, `rate` are chosen. Of these, 80% become the mask token, 10% a random token and 10% stay: the
model cannot know which of the tokens that it sees were chosen, so it must represent all of them. Nothing is shifted:
the target of a place is its own token. Only `rate` of the tokens teach something; a causal model learns from each.

`units` decides what is chosen together: single tokens; whole words (a piece of a word is easy to guess from the
others); or spans whose lengths are geometric (SpanBERT). Each epoch hides other tokens (RoBERTa's dynamic masking).

Shapes: rows of n tokens -> ids, targets (B, n), bidirectional.

Papers: Devlin et al. 2019 (https://arxiv.org/abs/1810.04805), section 3.1 and appendix A.1; Liu et al. 2019
(https://arxiv.org/abs/1907.11692), section 4.1; Joshi et al. 2020 (https://arxiv.org/abs/1907.10529), section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from llmanac.core.errors import DataError, SpecError
from llmanac.core.ranges import FRACTION, SOME, within
from llmanac.core.types import IGNORE, Batch, LossSum, OutputRequest
from llmanac.data.pack import PADDING
from llmanac.metrics import Metric
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives._drawn import Drawn, special_id
from llmanac.objectives._measured import LOSS

CARD = {
    "title": "Masked language modelling",
    "paper": "https://arxiv.org/abs/1810.04805",
    "reference": "transformers.BertForMaskedLM: loss and gradient",
    "aliases": {"whole-word": {"units": "words"}, "span-masked": {"units": "spans"}},
}

SUM = OutputRequest(nll="sum")
GEOMETRIC, LONGEST = 0.2, 10  # SpanBERT's: a mean of 3.8 tokens


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    """Choices of masking.

    Attributes:
        rate: how many of the tokens are chosen (at least one a row).
        masked, random: how many of the chosen become the mask token, and a random token; the others stay.
        units: what is chosen together.
    """

    special_tokens: ClassVar[tuple[str, ...]] = ("<|mask|>",)

    rate: float = 0.15
    masked: float = 0.8
    random: float = 0.1
    units: Literal["tokens", "words", "spans"] = "tokens"

    ranges = within(SOME, "rate") | within(FRACTION, "masked random")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masked + self.random > 1 + 1e-9:
            raise SpecError(f"masked, random: {self.masked} and {self.random} must be at most 1 together")

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> Masked:
        """The objective. Raises SpecError where the tokenizer has no mask token."""
        return Masked(self, tokenizer)


class Masked(Drawn):
    """The objective; see the module's formula."""

    adds_aux = True
    metrics = (LOSS, Metric("accuracy", "", "higher", "hidden tokens that were guessed, held out"))

    def __init__(self, spec: Spec, tokenizer: Any) -> None:
        super().__init__()
        self.spec, self.tokenizer = spec, tokenizer
        self.mask = special_id(tokenizer, "masked", "<|mask|>", "[MASK]", "<mask>")
        self._special = np.array(sorted(tokenizer.special_tokens.values()), np.int64)
        self._plain = np.setdiff1d(np.arange(tokenizer.vocab_size), self._special)
        self._letters: tuple[np.ndarray, np.ndarray] | None = None

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Rows of a stream, packed rows, or token ids -> a bidirectional batch with hidden tokens.

        Raises:
            DataError: a row with nothing that can be hidden.
        """
        made = []
        for number, given in enumerate(rows):
            row, generator = self.opened(given)
            may = (row.segments != PADDING) & ~np.isin(row.ids, self._special)
            may = may if row.loss is None else may & row.loss
            if not may.any():
                raise DataError(f"row {number}: has no token that may be hidden")
            chosen = self.choose(row.ids, row.segments, may, generator)
            made.append((row, self.hide(row.ids, chosen, generator), np.where(chosen, row.ids, IGNORE)))
        longest = max(len(row.ids) for row, _, _ in made)
        lengths = torch.tensor([int((row.segments != PADDING).sum()) for row, _, _ in made])

        def stacked(values: Sequence[np.ndarray], padding: int) -> torch.Tensor:
            out = np.full((len(made), longest), padding, np.int64)
            for line, value in zip(out, values, strict=True):
                line[: len(value)] = value
            return torch.from_numpy(out)

        ids, targets = stacked([ids for _, ids, _ in made], 0), stacked([t for _, _, t in made], IGNORE)
        if all(int(row.segments.max()) == 0 for row, _, _ in made):  # a document each, padded behind
            whole = int(lengths.min()) == longest
            return Batch(ids=ids, targets=targets, lengths=None if whole else lengths, mask="bidirectional")
        segments = stacked([row.segments for row, _, _ in made], PADDING)
        positions = stacked([row.positions for row, _, _ in made], 0)
        return Batch(ids=ids, targets=targets, segments=segments, positions=positions, mask="bidirectional")

    def choose(
        self, ids: np.ndarray, segments: np.ndarray, may: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        """(n,) bool: `rate` of the places that may be, rounded; groups of `units` until there are as many."""
        wanted = max(1, round(self.spec.rate * int(may.sum())))
        chosen = np.zeros(len(ids), np.bool_)
        if self.spec.units == "tokens":
            chosen[generator.choice(np.flatnonzero(may), wanted, replace=False)] = True
            return chosen
        starts = self.word_starts(ids, segments)
        words = [part[may[part]] for part in np.split(np.arange(len(ids)), np.flatnonzero(starts)[1:])]
        words = [word for word in words if len(word)]
        if self.spec.units == "words":
            for number in generator.permutation(len(words)):
                left = wanted - int(chosen.sum())
                if left <= 0:
                    break
                if len(words[number]) <= left or not chosen.any():  # a word that is too long is passed over
                    chosen[words[number]] = True
            return chosen
        while (left := wanted - int(chosen.sum())) > 0:
            place = int(generator.choice(np.flatnonzero(may & ~chosen)))
            length = min(int(generator.geometric(GEOMETRIC)), LONGEST, left)
            span = np.arange(place, min(place + length, len(ids)))
            chosen[span[may[span] & (segments[span] == segments[place])]] = True
        return chosen

    def hide(self, ids: np.ndarray, chosen: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The row as the model reads it."""
        fate = generator.random(len(ids))
        other = generator.choice(self._plain, len(ids))
        hidden = np.where(
            fate < self.spec.masked, self.mask, np.where(fate < self.spec.masked + self.spec.random, other, ids)
        )
        return np.where(chosen, hidden, ids)

    def word_starts(self, ids: np.ndarray, segments: np.ndarray) -> np.ndarray:
        """(n,) bool: whether a token begins a word: not where letters or digits of two neighbours touch."""
        if self._letters is None:
            first, last = np.zeros(self.tokenizer.vocab_size, np.bool_), np.zeros(self.tokenizer.vocab_size, np.bool_)
            for token in self._plain.tolist():
                data = self.tokenizer.token_bytes(token)
                if data:  # a byte above 127 is a part of a character, which is a letter more often than not
                    first[token], last[token] = (bytes([b]).isalnum() or b > 127 for b in (data[0], data[-1]))
            self._letters = first, last
        first, last = self._letters
        inside = first[ids[1:]] & last[ids[:-1]] & (segments[1:] == segments[:-1])
        return np.concatenate([[True], ~inside])

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """The sum over hidden tokens, and how many were guessed (in evaluation alone: it needs all logits)."""
        assert batch.targets is not None
        run = model if isinstance(model, nn.Module) else model.forward
        units = (batch.targets != IGNORE).sum()
        if torch.is_grad_enabled():
            output = run(batch, want=SUM)
            total, metrics = output.nll, {}
        else:
            output = run(batch, want=OutputRequest(logits="all", nll="sum"))
            total = output.nll
            metrics = {"accuracy": (output.logits.argmax(-1) == batch.targets).sum()}
        total, more = self.with_aux(total, units, output)
        return total, units, metrics | more
