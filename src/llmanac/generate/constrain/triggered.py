"""Free text until a marker, and what follows the marker held to another constraint: text, or a call of a tool."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from llmanac.generate._options import Constraint

if TYPE_CHECKING:
    from llmanac.tokenizers import Tokenizer

Array = np.ndarray[Any, np.dtype[np.bool_]]
_PASSING: weakref.WeakKeyDictionary[Tokenizer, dict[tuple[bytes, int], list[int]]] = weakref.WeakKeyDictionary()


class Triggered:
    """One text; see `generate.constraint.Constraint`.

    Tokens that would run past the marker cannot come, so that the other constraint begins exactly behind it.

    Args:
        marker: not empty.
        following: makes the constraint of what follows the marker.
        size: tokens of the model.
    """

    def __init__(self, tokenizer: Tokenizer, marker: str, following: Callable[[], Constraint], size: int) -> None:
        self.inner: Constraint | None = None
        self._following, self._tokenizer = following, tokenizer
        self._marker, self._tail = marker.encode(), b""
        self._size = size

    def mask(self) -> Array:
        if self.inner is not None:
            return np.asarray(self.inner.mask())
        found = np.ones(self._size, np.bool_)
        for held in range(len(self._marker)):
            if self._tail.endswith(self._marker[:held]):
                found[self._passing(held)] = False
        return found

    def forced(self) -> int | None:
        return None if self.inner is None else self.inner.forced()

    def advance(self, token: int) -> None:
        if self.inner is not None:
            self.inner.advance(token)
            return
        more = self._tokenizer.token_bytes(token) if token < self._tokenizer.vocab_size else b""
        self._tail = (self._tail + more)[-len(self._marker) :]
        if self._tail == self._marker:
            self.inner = self._following()

    def _passing(self, held: int) -> list[int]:
        """Tokens that hold the rest of the marker and more, where its first `held` bytes are there."""
        known = _PASSING.setdefault(self._tokenizer, {})
        if (self._marker, held) not in known:
            rest = self._marker[held:]
            texts = ((i, self._tokenizer.token_bytes(i)) for i in range(min(self._size, self._tokenizer.vocab_size)))
            inside = (i for i, text in texts if (text.startswith(rest) if held else rest in text) and text != rest)
            known[self._marker, held] = [i for i in inside if held or not self._ends(i)]
        return known[self._marker, held]

    def _ends(self, token: int) -> bool:
        """Whether a token has the marker once, at its end."""
        text = self._tokenizer.token_bytes(token)
        return text.endswith(self._marker) and text.count(self._marker) == 1
