"""A draft model: a smaller language model with the same vocabulary proposes its own choice of each next token.

    d_i = argmax_v (z'_v + g_{i,v})      z': the draft's logits after the request's own methods, g: the same Gumbel
                                         noise that the model's own choice at that place will use (0 where greedy)

With shared noise the two choices are equal as often as a coupling by noise allows: with probability at least
(1 - D) / (1 + D) for total variation D between the two distributions, and always where they are equal. The draft's own
state follows the text by rewinding to the last confirmed token, so every kind of state can draft (n-gram models too).

Papers: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding"; Daliri et al. 2025,
"Coupling without Communication and Drafter-Invariant Speculative Decoding" (the coupling by Gumbel noise).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmanac.core.errors import SpecError
from llmanac.core.types import LAST, Batch, LanguageModel
from llmanac.generate._sampling import draft_choice
from llmanac.generate.drafters import DrafterSpec
from llmanac.generate.requests import Sequence as Generated
from llmanac.generate.runner import on_host

CARD = {
    "title": "Draft model",
    "paper": "https://arxiv.org/abs/2211.17192",
    "reference": "the engine without a drafter: the same tokens",
    "test": "tests/references/test_speculative.py::test_tokens_are_those_without_drafts",
}
READ = 2048  # padded tokens a call


@dataclass(frozen=True, kw_only=True)
class Spec(DrafterSpec):
    """No further choices; `build` needs the draft model."""

    def build(self, *, model: Any = None, **dims: Any) -> DraftModel:
        if model is None:
            raise SpecError("drafter: the method model needs a draft model; give the model itself or its path")
        return DraftModel(self, model)


class DraftModel:
    """The drafter; see the module's formula."""

    def __init__(self, spec: Spec, model: LanguageModel) -> None:
        self.spec, self.model = spec, model
        self.reset()

    def reset(self) -> None:
        self._sequences: list[Generated] = []
        self._state: Any = None
        self._mark: Any = None

    @torch.inference_mode()
    def propose(self, sequences: Sequence[Generated], most: Sequence[int]) -> list[list[int]]:
        limit = self.model.max_length
        room = [
            min(count, self.spec.tokens) if limit is None else min(count, self.spec.tokens, limit - _length(sequence))
            for sequence, count in zip(sequences, most, strict=True)
        ]
        rows = [i for i, count in enumerate(room) if count > 0]
        found: list[list[int]] = [[] for _ in sequences]
        if not rows:
            return found
        chosen = [sequences[i] for i in rows]
        logits = self._follow(chosen)
        self._mark = self._state.mark()
        for ahead in range(max(room[i] for i in rows)):
            tokens = draft_choice(logits, chosen, ahead)
            for i, token in zip(rows, tokens, strict=True):
                if len(found[i]) < room[i]:
                    found[i].append(token)
            if ahead + 1 < max(room[i] for i in rows):
                logits = self._read([[token] for token in tokens])
        return found

    def _follow(self, sequences: list[Generated]) -> np.ndarray:
        """Make the state's rows those of `sequences`, read what each is missing; logits (B, V) of what comes next."""
        places = {id(sequence): i for i, sequence in enumerate(self._sequences)}
        known = [s for s in sequences if id(s) in places]
        if known:
            new = [s for s in sequences if id(s) not in places]
            self._state.rewind(self._mark)
            self._state.arrange([places[id(s)] for s in known])
            self._state.extend(len(new))
            places = {id(s): i for i, s in enumerate([*known, *new])}
            self._state.arrange([places[id(s)] for s in sequences])
        else:
            self._state = self.model.start(len(sequences))
        self._sequences = sequences
        missing = [_tokens(sequence, count) for sequence, count in zip(sequences, self._state.counts, strict=True)]
        longest = max(map(len, missing))
        piece = max(1, READ // len(sequences))
        logits: np.ndarray | None = None
        for at in range(0, longest, piece):  # rows that are short wait for the last piece, so that all end together
            cut = [row[max(0, len(row) - longest + at) : max(0, len(row) - longest + at + piece)] for row in missing]
            logits = self._read(cut)
        assert logits is not None  # a sequence's last token was not read yet
        return logits

    def _read(self, tokens: list[list[int]]) -> np.ndarray:
        output = self.model.forward(Batch.padded(tokens, device=self._device), self._state, LAST)
        assert output.logits is not None
        return on_host(output.logits[:, -1])

    @property
    def _device(self) -> Any:
        return "cpu" if self._state is None else self._state.device


def _length(sequence: Generated) -> int:
    return len(sequence.prompt_ids) + len(sequence.token_logprobs)


def _tokens(sequence: Generated, start: int) -> list[int]:
    """A sequence's tokens from `start` on."""
    prompt = sequence.prompt_ids
    later = [token.id for token in sequence.token_logprobs[max(0, start - len(prompt)) :]]
    return [*prompt[start:], *later]
