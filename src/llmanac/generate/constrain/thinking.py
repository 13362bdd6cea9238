"""A thought before an answer: at most so many tokens, and what follows it held to another constraint.

Reasoning models write `<think>`, a thought, `</think>`, and then the answer. A thought that reached its budget is
closed by force: the closing marker's tokens are the only ones that may come.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmanac.generate._options import Constraint

if TYPE_CHECKING:
    from llmanac.tokenizers import Tokenizer

Array = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Markers:
    """What opens a thought and what closes it, as text."""

    opening: str
    closing: str

    def closing_ids(self, tokenizer: Tokenizer | None) -> list[int]:
        """The tokens that close a thought; none without a tokenizer."""
        return [] if tokenizer is None else [int(i) for i in tokenizer.encode(self.closing, special="all")]


class Thinking:
    """One text's thought and answer; see `generate.constraint.Constraint`.

    Args:
        begun: whether the prompt ends inside a thought; else one begins where the text begins with its marker.
        budget: tokens of the thought; None sets no bound.
        answer: what the text behind the thought (or without one) must be; None leaves it free.
        ends: ids of end-of-text tokens, which cannot come inside a thought.
        size: tokens of the model.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        markers: Markers,
        *,
        begun: bool,
        budget: int | None,
        answer: Constraint | None,
        ends: Collection[int],
        size: int,
    ) -> None:
        self.answer, self.budget = answer, budget
        self._tokenizer, self._markers = tokenizer, markers
        self._closing = markers.closing_ids(tokenizer)
        self._opening = [int(i) for i in tokenizer.encode(markers.opening, special="all")]
        self._inside = np.ones(size, np.bool_)
        self._inside[[i for i in ends if i < size]] = False
        self._every = np.ones(size, np.bool_)
        self._state = "thought" if begun else "start"  # then answer
        self._due: list[int] = []  # tokens of a marker that must come, before the next state
        self._used, self._tail = 0, b""
        if begun:
            self._bound()

    def mask(self) -> Array:
        if self._due:
            found = np.zeros_like(self._every)
            found[self._due[0]] = True
            return found
        if self._state == "thought":
            return self._inside
        if self.answer is None:
            return self._every
        allowed = np.asarray(self.answer.mask())
        if self._state == "start" and self._opening:
            allowed = allowed.copy()
            allowed[self._opening[0]] = True
        return allowed

    def forced(self) -> int | None:
        if self._due:
            return self._due[0]
        return None if self._state != "answer" or self.answer is None else self.answer.forced()

    def advance(self, token: int) -> None:
        if self._due:
            self._due.pop(0)
            if not self._due and self._state == "thought":
                self._bound()
        elif self._state == "thought":
            self._used += 1
            self._tail = (self._tail + self._bytes(token))[-len(self._markers.closing.encode()) - 64 :]
            if self._markers.closing.encode() in self._tail:
                self._state = "answer"
            else:
                self._bound()
        elif self._state == "start":
            self._begin(token)
        elif self.answer is not None:
            self.answer.advance(token)

    def _begin(self, token: int) -> None:
        """The first tokens: of the opening marker, or of an answer without a thought."""
        if self.answer is not None:  # the marker's other tokens are forced, since the mask has to hold
            own = bool(np.asarray(self.answer.mask())[token]) and len(self._opening) > 1
            if token == self._opening[0] and not own:
                self._state, self._due = "thought", self._opening[1:]
                if not self._due:
                    self._bound()
            else:
                self._state = "answer"
                self.answer.advance(token)
            return
        opening = self._markers.opening.encode()
        self._tail = (self._tail + self._bytes(token)).lstrip()
        if self._tail.startswith(opening):
            self._state, self._tail = "thought", b""
            self._bound()
        elif not opening.startswith(self._tail):
            self._state = "answer"

    def _bound(self) -> None:
        """Close a thought that has no tokens left."""
        if self.budget is not None and self._used >= self.budget:
            self._state, self._due = "answer", list(self._closing)

    def _bytes(self, token: int) -> bytes:
        """Of a token; a padded vocabulary has tokens without text."""
        return self._tokenizer.token_bytes(token) if token < self._tokenizer.vocab_size else b""
