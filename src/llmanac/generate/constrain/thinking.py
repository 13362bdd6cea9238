"""A thought before an answer: at most so many tokens, and what follows it held to another constraint.

Reasoning models write `<think>`, a thought, `</think>`, and then the answer. A thought that reached its budget is
closed by force: the closing marker's tokens are the only ones that may come.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmanac.generate.constraint import Constraint

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
        opening = [int(i) for i in tokenizer.encode(markers.opening, special="all")]
        self._opening = opening[0] if len(opening) == 1 else None
        self._inside = np.ones(size, np.bool_)
        self._inside[[i for i in ends if i < size]] = False
        self._every = np.ones(size, np.bool_)
        self._state = "thought" if begun else "start"
        self._due: list[int] = []
        self._used, self._tail = 0, b""
        if begun and budget == 0:
            self._close()

    def mask(self) -> Array:
        if self._due:
            found = np.zeros_like(self._every)
            found[self._due[0]] = True
            return found
        if self._state == "thought":
            return self._inside
        free = self._every if self.answer is None else np.asarray(self.answer.mask())
        if self._state == "start" and self.answer is not None and self._opening is not None:
            free = free.copy()
            free[self._opening] = True
        return free

    def forced(self) -> int | None:
        if self._due:
            return self._due[0]
        if self._state == "thought" or self.answer is None or (self._state == "start" and self._opening is not None):
            return None
        return self.answer.forced()

    def advance(self, token: int) -> None:
        if self._due:
            self._due.pop(0)
            self._state = "thought" if self._due else "answer"
        elif self._state == "thought":
            self._think(token)
        elif self._state == "start" and self._opens(token):
            self._state, self._tail = "thought", b""
            if self.budget == 0:
                self._close()
        else:
            if self._state == "start" and not self._may_open():
                self._state = "answer"
            if self.answer is not None:
                self.answer.advance(token)

    def _think(self, token: int) -> None:
        closing = self._markers.closing.encode()
        self._used += 1
        self._tail = (self._tail + self._bytes(token))[-len(closing) - 64 :]
        if closing in self._tail:
            self._state = "answer"
        elif self.budget is not None and self._used >= self.budget:
            self._close()

    def _opens(self, token: int) -> bool:
        if token == self._opening and self._tail == b"":
            return True
        if self.answer is None:  # the marker may come in pieces
            self._tail += self._bytes(token)
            return self._tail.lstrip().startswith(self._markers.opening.encode())
        return False

    def _bytes(self, token: int) -> bytes:
        """Of a token; a padded vocabulary has tokens without text."""
        return self._tokenizer.token_bytes(token) if token < self._tokenizer.vocab_size else b""

    def _may_open(self) -> bool:
        return self.answer is None and self._markers.opening.encode().startswith(self._tail.lstrip())

    def _close(self) -> None:
        self._due = list(self._closing)
