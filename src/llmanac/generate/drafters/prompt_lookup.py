"""Prompt lookup: propose what followed the same few tokens earlier in the text.

    the longest n <= `longest` with x_{t-n+1..t} = x_{j-n+1..j} for some j < t   ->   x_{j+1}, x_{j+2}, ...

The last such j counts. It needs no model and no training, and helps where answers quote their prompt or repeat
themselves: code edits, summaries, extraction. Each sequence keeps a table of its n-grams that grows with it, so a
proposal costs O(`longest`) and not the length of the text.

Source: Saxena 2023, "Prompt Lookup Decoding"; Yang et al. 2023, "Inference with Reference", section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from llmanac.core.errors import SpecError
from llmanac.generate.drafters import DrafterSpec
from llmanac.generate.requests import Sequence as Generated

CARD = {
    "title": "Prompt lookup drafts",
    "paper": "https://arxiv.org/abs/2304.04487",
    "reference": "the engine without a drafter: the same tokens",
    "test": "tests/references/test_speculative.py::test_tokens_are_those_without_drafts",
}


@dataclass(frozen=True, kw_only=True)
class Spec(DrafterSpec):
    """`longest` and `shortest`: tokens that must be equal before a proposal."""

    tokens: int = 8
    longest: int = 3
    shortest: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.shortest <= self.longest <= 16:
            raise SpecError(
                f"shortest, longest: 1 <= shortest <= longest <= 16 is needed, got {self.shortest} and {self.longest}"
            )

    def build(self, *, model: Any = None, **dims: Any) -> PromptLookup:
        return PromptLookup(self)


class PromptLookup:
    """The drafter; see the module's formula."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.reset()

    def reset(self) -> None:
        self._tables: WeakKeyDictionary[Generated, _NgramTable] = WeakKeyDictionary()  # one goes with its sequence

    def propose(self, sequences: Sequence[Generated], most: Sequence[int]) -> list[list[int]]:
        found = []
        for sequence, count in zip(sequences, most, strict=True):
            table = self._tables.get(sequence)
            if table is None:
                table = self._tables[sequence] = _NgramTable(self.spec)
                table.add(sequence.request.prompt)
            known = len(table.tokens) - len(sequence.request.prompt)
            table.add([token.id for token in sequence.token_logprobs[known:]])
            found.append(table.after(min(count, self.spec.tokens)))
        return found


class _NgramTable:
    """A sequence's tokens, and where each n-gram of theirs was followed by something last."""

    def __init__(self, spec: Spec) -> None:
        self.tokens: list[int] = []
        self.sizes = range(spec.longest, spec.shortest - 1, -1)
        self.places: dict[tuple[int, ...], int] = {}

    def add(self, new: Sequence[int]) -> None:
        for token in new:
            end = len(self.tokens)
            for n in self.sizes:  # what ends here is now followed by a token
                if n <= end:
                    self.places[tuple(self.tokens[end - n :])] = end
            self.tokens.append(token)

    def after(self, count: int) -> list[int]:
        for n in self.sizes:
            place = self.places.get(tuple(self.tokens[-n:])) if n <= len(self.tokens) else None
            if place is not None:
                return self.tokens[place : place + count]
        return []
