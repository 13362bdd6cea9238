"""Runners: who computes what the schedule decided. `TorchRunner` runs any `LanguageModel` on its device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.adapters._bank import Bank
from llmanac.core.errors import RequestError
from llmanac.core.types import ALL, LAST, Batch, LanguageModel, Want
from llmanac.generate.prefix_cache import PrefixCache
from llmanac.generate.schedule import READ_TOKENS
from llmanac.models._lead import prime

FRONT = -1  # in the place of a token where an adapter's places are
ROOM = 256  # tokens of room made ahead a row, so that appending rarely reallocates


class Runner(Protocol):
    """Holds the state of all rows and computes logits; `schedule.py` says which rows and how many tokens."""

    def extend(
        self,
        prompts: Sequence[Sequence[int] | None],
        reserve: int,
        planned: Sequence[int] = (),
        adapters: Sequence[str | None] = (),
        images: Sequence[Any] = (),
    ) -> list[int]:
        """Add a row for each prompt; returns how many of its tokens the row holds already (a prefix cache's).

        A prompt of None is one of which nothing may be taken from a cache; `reserve` is the tokens a row will read;
        `planned` the tokens that each row reads before it goes on; `adapters` the adapter of each row and `images`
        those of its prompt, by default none.
        """

    def read(self, start: int, tokens: Sequence[Sequence[int]], *, every: bool, source: Any = None) -> Tensor:
        """Append tokens to the rows from `start` on.

        Returns:
            logits of what follows each row's last token (B, 1, V), or of `every` token (B, T, V).
        """

    def mark(self, start: int, stop: int) -> Any:
        """This moment of rows `start` to `stop`, for `rewind`."""

    def rewind(self, start: int, mark: Any, lengths: Sequence[int], marked: Sequence[int]) -> list[int]:
        """Forget the tokens of the rows from `start` on past `lengths`; returns the lengths that they have now.

        A row whose state cannot return to its length (a recurrent one) returns to the one it had at the mark,
        `marked`.
        """

    def lasts(self, row: int) -> float:
        """How many tokens a row may have until it has to be read again (its positions depend on its length)."""

    def read_again(self, row: int, tokens: Sequence[int], length: int) -> None:
        """Read the tokens that a row holds anew, as those of a row that grows to `length`."""

    def arrange(self, order: Sequence[int]) -> None:
        """Row i becomes what row `order[i]` was; repeats fork, rows not named end."""

    def keep(self, row: int, tokens: Sequence[int]) -> None:
        """Let later prompts that begin with the row's tokens find them."""

    def reset(self) -> None:
        """Forget all rows."""


class StateRunner:
    """What runners of a `State` share: rows that move, end, are kept for later prompts, and go back.

    Attributes:
        prefix_cache: where beginnings are kept, or None.
    """

    prefix_cache: PrefixCache | None
    bank: Bank | None = None
    _state: Any = None

    def __init__(self) -> None:
        self._names: list[str | None] = []  # the adapter of each row

    def mark(self, start: int, stop: int) -> Any:
        return self._state.view(start, stop).mark()

    def rewind(self, start: int, mark: Any, lengths: Sequence[int], marked: Sequence[int]) -> list[int]:
        state = self._state.view(start, start + len(lengths))
        leads = [getattr(row, "lead", 0) for row in state.rows]  # places that the scheduler does not count
        places = [n + lead for n, lead in zip(lengths, leads, strict=True)]
        try:
            state.rewind(mark, places)
            return list(lengths)
        except RequestError:
            before = [m + lead for m, lead in zip(marked, leads, strict=True)]
            back = [n if n == c else m for n, c, m in zip(places, state.counts, before, strict=True)]
            state.rewind(mark, back)
            return [n - lead for n, lead in zip(back, leads, strict=True)]

    def lasts(self, row: int) -> float:
        if getattr(self._state, "by_length", None) is None:
            return math.inf
        own = self._state.rows[row]
        return int(own.planned - own.lead)

    def arrange(self, order: Sequence[int]) -> None:
        self._names = [self._names[i] for i in order]
        if order:
            self._state.arrange(order)
        else:
            self.reset()

    def keep(self, row: int, tokens: Sequence[int]) -> None:
        if self.prefix_cache is not None:
            self.prefix_cache.keep(self._state, row, tokens, (self._names[row] or "").encode())

    def reset(self) -> None:
        self._names = []
        if self._state is not None:
            self._state.close()
        self._state = None


class TorchRunner(StateRunner):
    """Runs a model in torch.

    Args:
        prefix_cache: where beginnings are kept; the state is then paged.
        bank: the adapters that rows may have.
    """

    def __init__(self, model: LanguageModel, prefix_cache: PrefixCache | None = None, bank: Bank | None = None) -> None:
        super().__init__()
        self.model, self.prefix_cache, self.bank = model, prefix_cache, bank
        self.device = device_of(model)
        self.reads_source = bool(getattr(model, "reads_source", False))
        self._call: Any = model if isinstance(model, torch.nn.Module) else model.forward  # a call runs a module's hooks

    def extend(
        self,
        prompts: Sequence[Sequence[int] | None],
        reserve: int,
        planned: Sequence[int] = (),
        adapters: Sequence[str | None] = (),
        images: Sequence[Any] = (),
    ) -> list[int]:
        held, names = [0] * len(prompts), list(adapters) or [None] * len(prompts)
        leads = [self._lead(name) for name in names]
        counts = [0 if lead is None else lead.tokens for lead in leads]
        if self.prefix_cache is not None:
            given = [None if p is None else [FRONT] * n + list(p) for p, n in zip(prompts, counts, strict=True)]
            found, places = self.prefix_cache.start(given, [(name or "").encode() for name in names])
            held = [max(0, n - own) for n, own in zip(places, counts, strict=True)]
            if self._state is None or not self._state.rows:
                self._state = found
            else:
                self._state.take(found)
        elif self._state is None:
            self._state = self.model.start(len(prompts))
        else:
            self._state.extend(len(prompts))
        limit = self.model.max_length
        first = self._state.batch - len(prompts)
        new = self._state.view(first, self._state.batch)
        new.reserve(max(counts) + (reserve if limit is None else min(reserve, limit)))
        if planned and getattr(new, "by_length", None) is not None:
            new.plan([new.by_length(n + own) for n, own in zip(planned, counts, strict=True)])
        for row, image in zip(new.rows, images, strict=False):
            row.images = image
        self._names = [*self._names[:first], *names]
        for index, lead in enumerate(leads, first):
            self._prime(index, lead)
        return held

    def _prime(self, index: int, lead: Any) -> None:
        """Note what comes before a row's tokens, and read what is not the model's own."""
        if lead is not None:
            row = self._state.view(index, index + 1)
            row.rows[0].lead = lead.tokens
            if self._names[index] is not None:  # that of the model itself is read by the model
                prime(self.model, lead, row)

    def read_again(self, row: int, tokens: Sequence[int], length: int) -> None:
        self.replan(row, length)
        for at in range(0, len(tokens), READ_TOKENS):
            self.read(row, [tokens[at : at + READ_TOKENS]], every=False)

    def replan(self, row: int, length: int) -> None:
        """Empty a row, and let it be read as one of `length` tokens."""
        state, lead = self._state.view(row, row + 1), self._lead(self._names[row])
        state.rewind(None, [0])
        state.plan([state.by_length(length + (0 if lead is None else lead.tokens))])
        self._prime(row, lead)

    def _lead(self, name: str | None) -> Any:
        """What comes before a row's tokens, or None."""
        if name is not None and self.bank is not None:
            return self.bank.leads.get(name)
        lead = getattr(self.model, "lead", None)
        return lead if lead is not None and lead.enabled else None

    def keep(self, row: int, tokens: Sequence[int]) -> None:
        if self.prefix_cache is not None and self._state.rows[row].images is None:  # tokens do not say which image
            lead = self._state.rows[row].lead
            super().keep(row, [FRONT] * lead + list(tokens))

    def read(self, start: int, tokens: Sequence[Sequence[int]], *, every: bool, source: Any = None) -> Tensor:
        state, stop = self._state, start + len(tokens)
        if self.bank is not None:
            names = self._names[start:stop]
            ends = [i for i in range(1, len(names)) if names[i] != names[i - 1]] if self.bank.one_by_one else []
            if ends:  # neighbours with the same adapter together
                parts = [
                    self.read(start + a, tokens[a:b], every=every, source=None if source is None else source[a:b])
                    for a, b in itertools.pairwise([0, *ends, len(names)])
                ]
                longest = max(part.shape[1] for part in parts)
                return torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
            with self.bank.rows(names):
                return self._read(state, start, stop, tokens, every, source)
        return self._read(state, start, stop, tokens, every, source)

    def _read(
        self, state: Any, start: int, stop: int, tokens: Sequence[Sequence[int]], every: bool, source: Any
    ) -> Tensor:
        if (start, stop) != (0, state.batch):
            state = state.view(start, stop)
        given = None if source is None else Batch.padded(source, device=self.device)
        batch = replace(Batch.padded(tokens, device=self.device), source=given)
        want: Want = ALL if every else LAST
        logits: Tensor = self._call(batch, state, want).logits
        return logits


def device_of(model: Any) -> torch.device:
    """Where a model's parameters are; the CPU for a model without any."""
    if isinstance(model, torch.nn.Module):
        for parameter in model.parameters():
            return parameter.device
    return torch.device("cpu")
