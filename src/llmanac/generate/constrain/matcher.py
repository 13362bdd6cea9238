"""Constraints that follow a grammar: the mask of the next token, forced tokens, going back, copies.

A `Matcher` is made once for a grammar and a tokenizer; each sample has a `MaskFollower` of its own, which is a
`generate.constraint.Constraint`. Sets of the recognizer and masks are kept for all of them, up to `MOST_BYTES`.
"""

from __future__ import annotations

import codecs
import threading
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from llmanac.core.errors import RequestError
from llmanac.generate.constrain.automaton import compile_grammar
from llmanac.generate.constrain.expressions import Grammar
from llmanac.generate.constrain.vocabulary import vocabulary_of
from llmanac.kernels.constrain import recognize
from llmanac.kernels.constrain.items import ACCEPTS, FRESH, FULL, LONGEST_TOKEN, SET_RUN, VARIED, memory_for

if TYPE_CHECKING:
    from llmanac.tokenizers import Tokenizer

MOST_BYTES = 1 << 26  # of the moves of sets, and of masks
LEAST_SETS, GROWTHS = 1 << 11, 4  # sets at first; how often there is room for eight times as many
MOST_FORCED = 512  # bytes
MOST_KEPT = 10_000  # sets whose forced tokens are kept
UTF_8 = codecs.getincrementaldecoder("utf-8")
NO_TOKENS: list[int] = []
NO_BYTES = np.zeros(4 * LONGEST_TOKEN, np.uint8)


class Matcher:
    """A grammar's recognizer over the tokens of a tokenizer.

    Args:
        shown: special tokens that may be written.
        sets: how many sets of the recognizer are kept; beyond that all are made anew from the text. None: as many as
            `MOST_BYTES` holds.

    Raises:
        RequestError: as `compile_grammar`.
    """

    def __init__(
        self,
        grammar: Grammar,
        tokenizer: Tokenizer,
        *,
        shown: frozenset[int] = frozenset(),
        sets: int | None = None,
    ) -> None:
        self.tokenizer, self.vocabulary = tokenizer, vocabulary_of(tokenizer, shown)
        self._shown: Any = frozenset(text for text, i in tokenizer.special_tokens.items() if i in shown) or "never"
        self.network = compile_grammar(grammar)
        self.reads_text = bool((self.network.rules[:, 1] == FRESH).any())
        self._counts = np.bincount(self.network.classes)
        letters = np.searchsorted(self.network.classes, np.arange(len(self._counts)))
        self._letters = np.where(self._counts == 1, letters, -1)  # the byte of each class that has only one
        self._most = sets or max(LEAST_SETS, min(1 << 16, MOST_BYTES // (4 * len(self._counts))))
        self._sets = min(LEAST_SETS, self._most)
        self._lock = threading.RLock()
        self.version = 0
        self._new()

    def clear(self) -> None:
        """Forget all sets and masks, and have room for more of them."""
        with self._lock:
            self.version, self._sets = self.version + 1, min(8 * self._sets, self._most)
            self._new()

    def _new(self) -> None:
        self._memory = memory_for(len(self._counts), self._sets)
        self._masks: dict[int, np.ndarray] = {}
        self._forced: dict[int, list[int]] = {}
        self.start = self.follow(-1, NO_BYTES, 0, 0)
        if self.start < 0:
            raise RequestError("the constraint is too ambiguous to be followed; simplify it")

    def follow(self, state: int, buffer: np.ndarray, start: int, stop: int) -> int:
        """The set after `buffer[start:stop]`, -1 where it may not follow, FULL where memory is used up."""
        with self._lock:
            return int(recognize.follow(self.network, self._memory, state, buffer, start, stop))

    def accepts(self, state: int) -> bool:
        """Whether the text may end."""
        return bool(self._memory.sets[state, ACCEPTS])

    def mask(self, state: int, buffer: np.ndarray, at: int) -> np.ndarray | None:
        """(words,) uint32: the tokens that may follow, bit by bit, without end-of-text; None: memory is used up."""
        found = self._masks.get(state)
        if found is not None:
            return found
        with self._lock:
            memory = self._memory
            run, varied = memory.sets[state, SET_RUN], memory.counts[VARIED]
            chosen = next(part for part in self.vocabulary.slices if part.run <= run)
            mask = chosen.plain.copy()
            if recognize.walk(self.network, memory, chosen.nodes, chosen.same, state, mask, buffer, at) == FULL:
                return None
            if memory.counts[VARIED] == varied:  # the mask does not depend on the text itself
                if len(self._masks) * mask.nbytes > MOST_BYTES:
                    self._masks.clear()
                self._masks[state] = mask
            return mask

    def forced(self, state: int, buffer: np.ndarray, at: int) -> list[int]:
        """The tokens of the bytes that must follow, as the tokenizer encodes them; none where there is a choice.

        Tokens at the end which could be part of a longer one that the grammar allows are left to the model.
        """
        found = self._forced.get(state)
        if found is not None:
            return found
        with self._lock:
            varied = self._memory.counts[VARIED]
            size = int(recognize.forced(self.network, self._memory, state, self._letters, buffer, at, MOST_FORCED))
            found = self._encoded(state, buffer.copy(), at, size) if size > 0 else []
            if size >= 0 and self._memory.counts[VARIED] == varied:
                if len(self._forced) > MOST_KEPT:
                    self._forced.clear()
                self._forced[state] = found
        return found

    def _encoded(self, state: int, buffer: np.ndarray, at: int, size: int) -> list[int]:
        data = buffer[at : at + size].tobytes()
        try:
            text = UTF_8().decode(data)  # without a character that is not complete at the end
        except UnicodeDecodeError:  # the text so far ends inside of a character, which no encoding begins with
            return []
        ids = [int(i) for i in self.tokenizer.encode(text, special=self._shown)] if text else []
        words = self.vocabulary.token
        parts = [words[i] if i < len(words) else b"" for i in ids]
        if not all(parts) or b"".join(parts) != text.encode():
            return []
        longer, stop = self._first_longer(state, buffer, at, data), 0
        for count, part in enumerate(parts):
            stop += len(part)
            if stop > longer:
                return ids[:count]
        return ids

    def _first_longer(self, state: int, buffer: np.ndarray, at: int, data: bytes) -> int:
        """The first place from which on `data`, which must follow, may be the beginning of a longer token."""
        for place in self.vocabulary.longer(data):
            after = self.follow(state, buffer, at, at + place)
            bits = self.mask(after, buffer.copy(), at + place) if after >= 0 else None
            if bits is None:  # memory is used up
                return place
            allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
            if self.vocabulary.lengths[allowed].max(initial=0) > len(data) - place:
                return place
        return len(data)


class MaskFollower:
    """One text that follows a grammar; see `generate.constraint.Constraint`.

    Args:
        ends: ids of end-of-text tokens; they are allowed where the text may end.
        size: tokens of the model, of which the mask has a place each.
    """

    def __init__(self, matcher: Matcher, ends: Collection[int], size: int) -> None:
        self.matcher, self.ends, self.size = matcher, tuple(sorted(i for i in ends if i < size)), size
        eos = matcher.tokenizer.eos_id
        self._end = eos if eos in self.ends else next(iter(self.ends), None)
        self._buffer, self._length = NO_BYTES.copy(), 0
        self._version, self._states, self._lengths = matcher.version, [matcher.start], [0]
        self._ended, self._forced = False, NO_TOKENS

    @property
    def text(self) -> bytes:
        """The bytes so far."""
        return self._buffer[: self._length].tobytes()

    @property
    def state(self) -> int:
        """The recognizer's set; made anew from the text where sets were forgotten in between."""
        if self._version != self.matcher.version:
            self._replay()
        return self._states[-1]

    def _replay(self) -> None:
        for _ in range(GROWTHS):
            self._version, states = self.matcher.version, [self.matcher.start]
            for start, stop in zip(self._lengths, self._lengths[1:], strict=False):
                states.append(self.matcher.follow(states[-1], self._buffer, start, stop))
                if states[-1] < 0:
                    break
            if states[-1] >= 0:
                self._states = states
                return
            self.matcher.clear()
        raise RequestError("the constraint is too ambiguous for a text of this length; simplify it")

    def _full(self) -> None:
        self.matcher.clear()
        self._replay()

    def bits(self) -> np.ndarray:
        """(words,) uint32: as `mask`, of the tokenizer's tokens and without end-of-text."""
        for _ in range(GROWTHS):
            found = self.matcher.mask(self.state, self._buffer, self._length)
            if found is not None:
                return found
            self._full()
        raise RequestError("the constraint needs more memory for one token than it may have; simplify it")

    def mask(self) -> np.ndarray:
        """(V,) bool: tokens that may come next; at least one. End-of-text is allowed where the text may end.

        Raises:
            RequestError: no token of this tokenizer may follow.
        """
        allowed = np.zeros(self.size, np.bool_)
        if not self._ended:
            bits = np.unpackbits(self.bits().view(np.uint8), bitorder="little")[: self.size]
            allowed[: len(bits)] = bits
        if self.accepting():
            allowed[list(self.ends)] = True
        if not allowed.any():
            why = "its text is complete, and there is no end-of-text token" if self.accepting() else ""
            raise RequestError(f"constraint: no token may follow {self.text[-40:]!r}" + (f": {why}" if why else ""))
        return allowed

    def forced(self) -> int | None:
        """The one token that may come next, where there is no choice and none has to be drawn; else None.

        Where the bytes that follow are known, the tokenizer's encoding of them counts as the only choice.
        """
        if self._ended:
            return None
        if not self._forced:
            self._forced = self.matcher.forced(self.state, self._buffer, self._length)
            if not self._forced:
                return self._end if self._end is not None and self.accepting() and not self.bits().any() else None
        return self._forced[0]

    def advance(self, token: int) -> None:
        """Take a token that the mask allowed. Raises RequestError for another one."""
        if token in self.ends:
            if not self.accepting():
                raise RequestError(f"constraint: the text cannot end after {self.text[-40:]!r}")
            self._states.append(self.state)
            self._lengths.append(self._length)
            self._ended = True
            return
        words = self.matcher.vocabulary.token
        data = words[token] if 0 <= token < len(words) else b""
        if not data or self._ended:
            raise RequestError(f"constraint: token {token} may not follow {self.text[-40:]!r}")
        state, start, stop = self.state, self._length, self._length + len(data)
        if stop + 2 * LONGEST_TOKEN >= len(self._buffer):
            self._buffer = np.concatenate([self._buffer, np.zeros(len(self._buffer) + len(data), np.uint8)])
        self._buffer[start:stop] = np.frombuffer(data, np.uint8)
        after = self.matcher.follow(state, self._buffer, start, stop)
        for _ in range(GROWTHS):
            if after == FULL:
                self._full()
                after = self.matcher.follow(self.state, self._buffer, start, stop)
        if after < 0:
            raise RequestError(f"constraint: token {token} ({data!r}) may not follow {self.text[-40:]!r}")
        self._forced = self._forced[1:] if self._forced[:1] == [token] else NO_TOKENS
        self._states.append(after)
        self._lengths.append(stop)
        self._length = stop

    def rewind(self, count: int) -> None:
        """Take back the last `count` tokens."""
        if not 0 <= count < len(self._states):
            raise ValueError(f"count: {count} is not between 0 and the {len(self._states) - 1} tokens so far")
        if count:
            del self._states[-count:], self._lengths[-count:]
            self._length, self._ended, self._forced = self._lengths[-1], False, NO_TOKENS

    def copy(self) -> MaskFollower:
        """Another one at the same place."""
        made = MaskFollower.__new__(MaskFollower)
        made.__dict__ |= self.__dict__
        made._buffer, made._states, made._lengths = self._buffer.copy(), list(self._states), list(self._lengths)
        return made

    def accepting(self) -> bool:
        """Whether the text may end."""
        return self.matcher.accepts(self.state)
