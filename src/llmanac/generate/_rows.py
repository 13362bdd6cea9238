"""What computes the rows of a batch: the interface of runners, and what those of a `DecodingState` share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from llmanac.core.errors import RequestError
from llmanac.generate.decoding import Array
from llmanac.generate.prefix_cache import PrefixCache

if TYPE_CHECKING:
    from llmanac.adapters import AdapterRegistry

ROOM = 256  # tokens of room made ahead a row, so that appending rarely reallocates


class ModelRunner(Protocol):
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

    def read(self, start: int, tokens: Sequence[Sequence[int]], *, every: bool, source: Any = None) -> Array:
        """Append tokens to the rows from `start` on.

        Returns:
            float32 or float64 logits of what follows each row's last token (B, 1, V), or of `every` token (B, T, V).
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

    def best(self, logits: Array) -> list[tuple[Any, ...]] | None:
        """See `_sampling.choose`: the runner's own code for the best tokens of rows; None where it has none."""


class StateRunner:
    """What runners of a `State` share: rows that move, end, are kept for later prompts, and go back.

    Attributes:
        prefix_cache: where beginnings are kept, or None.
        soft_prompts: whether rows may hold trained vectors before their tokens, which the scheduler does not count.
    """

    prefix_cache: PrefixCache | None
    registry: AdapterRegistry | None = None
    soft_prompts = False
    _state: Any = None

    def __init__(self) -> None:
        self._names: list[str | None] = []  # the adapter of each row

    def mark(self, start: int, stop: int) -> Any:
        return self._state.view(start, stop).mark()

    def rewind(self, start: int, mark: Any, lengths: Sequence[int], marked: Sequence[int]) -> list[int]:
        state = self._state.view(start, start + len(lengths))
        # places that the scheduler does not count
        soft = [row.soft_tokens if self.soft_prompts else 0 for row in state.rows]
        places = [n + own for n, own in zip(lengths, soft, strict=True)]
        try:
            state.rewind(mark, places)
            return list(lengths)
        except RequestError:
            before = [m + own for m, own in zip(marked, soft, strict=True)]
            back = [n if n == c else m for n, c, m in zip(places, state.counts, before, strict=True)]
            state.rewind(mark, back)
            return [n - own for n, own in zip(back, soft, strict=True)]

    def lasts(self, row: int) -> float:
        if self._state is None or self._state.by_length is None:
            return math.inf
        own = self._state.rows[row]
        return int(own.planned - own.soft_tokens)

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

    def best(self, logits: Array) -> list[tuple[Any, ...]] | None:
        return None
