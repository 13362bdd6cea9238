"""Runners: who computes what the schedule decided. `TorchRunner` runs any `LanguageModel` on its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.core.types import ALL, LAST, Batch, LanguageModel, Want
from llmanac.generate.prefix_cache import PrefixCache

ROOM = 256  # tokens of room made ahead a row, so that appending rarely reallocates


class Runner(Protocol):
    """Holds the state of all rows and computes logits; `schedule.py` says which rows and how many tokens."""

    def extend(self, prompts: Sequence[Sequence[int] | None], reserve: int, planned: Sequence[int] = ()) -> list[int]:
        """Add a row for each prompt; returns how many of its tokens the row holds already (a prefix cache's).

        A prompt of None is one of which nothing may be taken from a cache; `reserve` is the tokens a row will read;
        `planned` the most tokens that each row may have in the end.
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
    _state: Any = None

    def mark(self, start: int, stop: int) -> Any:
        return self._state.view(start, stop).mark()

    def rewind(self, start: int, mark: Any, lengths: Sequence[int], marked: Sequence[int]) -> list[int]:
        state = self._state.view(start, start + len(lengths))
        try:
            state.rewind(mark, lengths)
            return list(lengths)
        except RequestError:
            back = [n if n == c else m for n, c, m in zip(lengths, state.counts, marked, strict=True)]
            state.rewind(mark, back)
            return back

    def arrange(self, order: Sequence[int]) -> None:
        if order:
            self._state.arrange(order)
        else:
            self.reset()

    def keep(self, row: int, tokens: Sequence[int]) -> None:
        if self.prefix_cache is not None:
            self.prefix_cache.keep(self._state, row, tokens)

    def reset(self) -> None:
        if self._state is not None:
            self._state.close()
        self._state = None


class TorchRunner(StateRunner):
    """Runs a model in torch.

    Args:
        prefix_cache: where beginnings are kept; the state is then paged.
    """

    def __init__(self, model: LanguageModel, prefix_cache: PrefixCache | None = None) -> None:
        self.model, self.prefix_cache = model, prefix_cache
        self.device = device_of(model)
        self.reads_source = bool(getattr(model, "reads_source", False))
        self._call: Any = model if isinstance(model, torch.nn.Module) else model.forward  # a call runs a module's hooks

    def extend(self, prompts: Sequence[Sequence[int] | None], reserve: int, planned: Sequence[int] = ()) -> list[int]:
        held = [0] * len(prompts)
        if self.prefix_cache is not None:
            found, held = self.prefix_cache.start(prompts)
            if self._state is None or not self._state.rows:
                self._state = found
            else:
                self._state.take(found)
        elif self._state is None:
            self._state = self.model.start(len(prompts))
        else:
            self._state.extend(len(prompts))
        limit = self.model.max_length
        new = self._state.view(self._state.batch - len(prompts), self._state.batch)
        new.reserve(reserve if limit is None else min(reserve, limit))
        if planned and getattr(new, "by_length", False):
            new.plan([n if limit is None else min(n, limit) for n in planned])
        return held

    def read(self, start: int, tokens: Sequence[Sequence[int]], *, every: bool, source: Any = None) -> Tensor:
        state, stop = self._state, start + len(tokens)
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
