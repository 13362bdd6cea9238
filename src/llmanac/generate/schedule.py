"""What the model computes next, decided without a tensor.

Every running sequence is one row of the runner's state: rows that decode come first, then rows whose prompts are being
read, in the order of their arrival. A step has two kinds of calls: one for the rows that decode (each has one pending
token, or several where tokens were forced), and, within a budget of padded tokens, calls that read the next piece of
the prompts. So a long prompt delays those that decode by one piece, not by its whole length; `PromptPieces` chooses it
by time. Where the rows may hold only so many tokens together, the youngest request goes back to the queue and is read
again later, with what it has generated.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmanac.generate.requests import Request
    from llmanac.generate.requests import Sequence as Generated

READ_TOKENS = 2048  # padded prompt tokens a call, and a step where others decode
LEAST_PIECE, FIRST_PIECE = 8, 32  # tokens of a prompt in a step, where time decides; before anything was measured
GROWTH = 32  # tokens by which each running row will grow before a request that starts now may be put back
SMOOTH, MARGIN = 0.3, 0.6  # of measured times; of the time that may be used, since later tokens of a prompt cost more
SCORED_LOGITS = 2**25  # logits held at once while a prompt's own tokens are scored (128 MiB in float32)


@dataclass
class ScheduledRow:
    """One row of the runner's state.

    Attributes:
        request: whose prompt is read; its sequences fork from this row when the prompt has been read.
        sequence: what decodes here; None while the prompt is read.
        pending: tokens that the state does not hold yet.
        source: tokens of the source that an encoder reads with the first of them.
        read: tokens that it holds.
        drafted: how many of the pending tokens, its last ones, are a drafter's guesses.
        resumes: a sequence that was put back and its pending tokens, while what it held before is read again.
    """

    request: Request
    pending: list[int]
    sequence: Generated | None = None
    read: int = 0
    source: int = 0
    drafted: int = 0
    resumes: tuple[Generated, list[int]] | None = None

    @property
    def scored(self) -> bool:
        """Whether the prompt's tokens are scored."""
        return self.request.prompt_logprobs is not None and self.resumes is None

    @property
    def length(self) -> int:
        """Tokens that it has once all that is no guess is read."""
        return self.read + len(self.pending) - self.drafted

    @property
    def held(self) -> list[int]:
        """The tokens that the state of a row that decodes holds."""
        assert self.sequence is not None
        return [*self.request.prompt, *self.sequence.ids][: self.read]

    @property
    def rows(self) -> int:
        """Rows that it needs: one a sample once the prompt is read."""
        return 1 if self.sequence is not None or self.resumes is not None else self.request.width

    @property
    def cost(self) -> int:
        """Tokens that the next call reads for it."""
        return max(len(self.pending), self.source if self.sequence is None else 0)


@dataclass(frozen=True)
class ReadCall:
    """Rows `start` to `stop` read `tokens` pending tokens each (those that have fewer read all they have)."""

    start: int
    stop: int
    tokens: int
    scored: bool  # whether the logits of every token are needed


@dataclass
class PromptPieces:
    """How much of the prompts a step reads while others decode.

    Attributes:
        slower: how many times as long as without it such a step may take; None does not look at the time.
        patience: seconds that such a step may take in any case: small pieces are read at a lower rate.
        decoding, token: seconds of a step's decoding, and of reading a token of a prompt.
    """

    slower: float | None = None
    decoding: float = 0.0
    token: float = 0.0
    patience: float = 0.0

    @property
    def most(self) -> int | None:
        if self.slower is None:
            return None
        if not self.decoding or not self.token:
            return FIRST_PIECE
        longer = max((self.slower - 1) * self.decoding, self.patience - self.decoding)
        fits = int(MARGIN * longer / self.token)
        return max(LEAST_PIECE, min(READ_TOKENS, fits))

    def add(self, decoding: float, reading: float, tokens: int) -> None:
        """Note the seconds of a step, in which `tokens` of prompts were read (padding included)."""
        if decoding:
            self.decoding += (SMOOTH if self.decoding else 1.0) * (decoding - self.decoding)
        if tokens:
            self.token += (SMOOTH if self.token else 1.0) * (reading / tokens - self.token)


def admit(waiting: deque[Request], rows: int, free: int, room: float = math.inf) -> list[Request]:
    """Take the requests that start now from the queue, first come first served.

    Args:
        rows: of the engine; free: of them not in use; room: tokens that may be added to those held. A request that
            needs more than there is runs alone.
    """
    taken: list[Request] = []
    while waiting and ((waiting[0].rows <= free and waiting[0].tokens <= room) or (free == rows and not taken)):
        taken.append(waiting.popleft())
        free, room = free - taken[-1].rows, room - taken[-1].tokens
    # prompts of like length are read together; those whose own tokens are scored by themselves
    return sorted(taken, key=lambda r: (r.prompt_logprobs is not None, len(r.prompt)))


def schedule(rows: Sequence[ScheduledRow], vocabulary: int, piece: int | None = None) -> list[ReadCall]:
    """The calls of one step, in order; `piece`: tokens of prompts where others decode."""
    calls = []
    decoding = sum(row.sequence is not None for row in rows)
    at = 0
    while at < decoding:
        calls.append(_decode(rows, at, decoding, vocabulary))
        at = calls[-1].stop
    left, start = READ_TOKENS if piece is None or not decoding else piece, decoding
    while start < len(rows) and left > 0:
        call = _read(rows, start, min(left, budget(rows[start], vocabulary)))
        calls.append(call)
        if len(rows[start].pending) > call.tokens:
            break  # the rest of this prompt comes before those behind it
        left -= (call.stop - call.start) * max(row.cost for row in rows[call.start : call.stop])
        start = call.stop
    return calls


def budget(row: ScheduledRow, vocabulary: int) -> int:
    """Padded tokens of one call that reads a prompt."""
    return max(1, min(READ_TOKENS, SCORED_LOGITS // vocabulary)) if row.scored else READ_TOKENS


def _decode(rows: Sequence[ScheduledRow], start: int, end: int, vocabulary: int) -> ReadCall:
    """Rows from `start` on whose pending tokens fill at least half of the padded call."""
    longest, real, stop = len(rows[start].pending), len(rows[start].pending), start + 1
    while stop < end:
        longer, more = max(longest, len(rows[stop].pending)), real + len(rows[stop].pending)
        if (stop + 1 - start) * longer > 2 * more:
            break
        longest, real, stop = longer, more, stop + 1
    most = max(1, SCORED_LOGITS // vocabulary // (stop - start))
    return ReadCall(start, stop, min(longest, most), longest > 1)


def _read(rows: Sequence[ScheduledRow], start: int, limit: int) -> ReadCall:
    """The rows from `start` on that fit one call; one row alone may read a part of its pending tokens."""
    scored = rows[start].scored
    cost, longest, stop = rows[start].cost, len(rows[start].pending), start + 1
    while stop < len(rows) and rows[stop].scored == scored:
        dearer = max(cost, rows[stop].cost)
        if (stop + 1 - start) * dearer > limit:
            break
        cost, longest, stop = dearer, max(longest, len(rows[stop].pending)), stop + 1
    return ReadCall(start, stop, min(longest, limit) if stop == start + 1 else longest, scored)


def compact(decoding: list[bool], keep: list[bool]) -> list[int]:
    """The order of the kept rows that moves the fewest: rows that decode first, holes filled from the end."""
    running, reading = ([i for i, kept in enumerate(keep) if kept and decoding[i] is kind] for kind in (True, False))
    moving = [i for i in running if i >= len(running)]
    filled = [i if keep[i] and decoding[i] else moving.pop() for i in range(len(running))]
    return [*filled, *reading]  # prompts keep their order of arrival


def exchanged(order: list[int], empty: list[bool]) -> list[int]:
    """The order with rows that hold nothing exchanged for each other, so that most of them need not move."""
    places = [place for place, i in enumerate(order) if empty[i]]
    free = {order[place] for place in places}
    out = list(order)
    for place in [p for p in places if p in free]:
        out[place] = place
        free.remove(place)
    for place in [p for p in places if out[p] != p]:
        out[place] = free.pop()
    return out
