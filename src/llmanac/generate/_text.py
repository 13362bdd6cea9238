"""Tokens to text, one token at a time: never part of a character, never part of a stop string."""

from __future__ import annotations

import codecs
import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmanac.tokenizers import Tokenizer


class StopStrings:
    """Finds the first stop string to be complete, reading character by character.

    So the answer never depends on how the text was cut into tokens. Where two stop strings end at the same character,
    the longer one counts (it began earlier).
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stops = tuple(stops)
        self._longest = max((len(s) for s in self.stops), default=0)

    def find(self, text: str) -> tuple[int, str] | None:
        """Where the text must be cut, and the stop string there that is complete first; `None` without one."""
        hits = [(start + len(s), start, s) for s in self.stops if (start := text.find(s)) >= 0]
        return min(hits)[1:] if hits else None

    def held(self, text: str) -> int:
        """How many characters at the end of `text` could be the beginning of a stop string."""
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-size:]
            if any(s.startswith(tail) for s in self.stops):
                return size
        return 0


class TextStream:
    """The text of one generated sequence as it grows.

    Bytes of an incomplete character wait for the next token; bytes that can never be one become U+FFFD, as in a decode
    of all tokens. Special tokens but those `shown` have no text. Without a tokenizer there is no text at all.

    Attributes:
        text: all the text that was released so far.
        stopped_by: the stop string that ended the text, which is not part of it; None where none did.
    """

    def __init__(
        self, tokenizer: Tokenizer | None, stops: Sequence[str] = (), shown: frozenset[int] = frozenset()
    ) -> None:
        self.text = ""
        self.stopped_by: str | None = None
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.special_tokens.values()) - shown if tokenizer else frozenset()
        self._stops = StopStrings(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting = ""
        self._taken = 0
        self._begun = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the text."""
        return self.stopped_by is not None

    def fork(self) -> TextStream:
        """An independent stream with the same text so far."""
        other = copy.copy(self)
        other._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        other._decoder.setstate(self._decoder.getstate())
        return other

    def push(self, token: int) -> bool:
        """Add a token. Returns whether a stop string is now complete."""
        if self.stopped or self._tokenizer is None:
            return self.stopped
        if token not in self._special and token < self._tokenizer.vocab_size:  # a padded vocabulary has no text
            between = self._tokenizer.separator if self._begun else b""
            self._begun = True
            self._add(self._decoder.decode(between + self._tokenizer.token_bytes(token)))
        return self.stopped

    def close(self) -> None:
        """The sequence is over: what was held back is text after all."""
        if not self.stopped:
            self._add(self._decoder.decode(b"", final=True))
            self._release(len(self._waiting))

    def take(self) -> str:
        """The text released since the last call."""
        piece, self._taken = self.text[self._taken :], len(self.text)
        return piece

    def _add(self, text: str) -> None:
        if not text:
            return
        self._waiting += text
        cut = self._stops.find(self._waiting)
        if cut is None:
            self._release(len(self._waiting) - self._stops.held(self._waiting))
        else:
            self._release(cut[0])
            self._waiting, self.stopped_by = "", cut[1]

    def _release(self, size: int) -> None:
        self.text += self._waiting[:size]
        self._waiting = self._waiting[size:]
