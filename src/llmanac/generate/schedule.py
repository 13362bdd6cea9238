"""What the model computes next, decided without a tensor.

Every running sequence is one row of the runner's state: rows that decode come first, then rows whose prompts are being
read, in the order of their arrival. A step has two kinds of calls: one for the rows that decode (each has one pending
token, or several where tokens were forced), and, within a budget of padded tokens, calls that read the next piece of
the prompts. So a long prompt delays those that decode by one piece, not by its whole length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmanac.generate._requests import Request
    from llmanac.generate._requests import Sequence as Generated

READ_TOKENS = 2048  # padded prompt tokens a call, and a step where others decode
SCORED_LOGITS = 2**25  # logits held at once while a prompt's own tokens are scored (128 MiB in float32)


@dataclass
class Row:
    """One row of the runner's state.

    Attributes:
        request: whose prompt is read; its sequences fork from this row when the prompt has been read.
        sequence: what decodes here; None while the prompt is read.
        pending: tokens that the state does not hold yet.
        source: tokens of the source that an encoder reads with the first of them.
        read: tokens that it holds.
        drafted: how many of the pending tokens, its last ones, are a drafter's guesses.
    """

    request: Request
    pending: list[int]
    sequence: Generated | None = None
    read: int = 0
    source: int = 0
    drafted: int = 0

    @property
    def cost(self) -> int:
        """Tokens that the next call reads for it."""
        return max(len(self.pending), self.source if self.sequence is None else 0)


@dataclass(frozen=True)
class Call:
    """Rows `start` to `stop` read `tokens` pending tokens each (those that have fewer read all they have)."""

    start: int
    stop: int
    tokens: int
    scored: bool  # whether the logits of every token are needed


def admit(waiting: deque[Request], rows: int, free: int) -> list[Request]:
    """Take the requests that start now from the queue, first come first served.

    Args:
        rows: of the engine; free: of them not in use. A request with more samples than there are rows runs alone.
    """
    taken: list[Request] = []
    while waiting and (len(waiting[0].sequences) <= free or (free == rows and not taken)):
        taken.append(waiting.popleft())
        free -= len(taken[-1].sequences)
    # prompts of like length are read together; those whose own tokens are scored by themselves
    return sorted(taken, key=lambda r: (r.prompt_logprobs is not None, len(r.prompt)))


def schedule(rows: Sequence[Row], vocabulary: int) -> list[Call]:
    """The calls of one step, in order."""
    calls = []
    decoding = sum(row.sequence is not None for row in rows)
    at = 0
    while at < decoding:
        calls.append(_decode(rows, at, decoding, vocabulary))
        at = calls[-1].stop
    left, start = READ_TOKENS, decoding
    while start < len(rows) and left > 0:
        call = _read(rows, start, min(left, budget(rows[start].request, vocabulary)))
        calls.append(call)
        if len(rows[start].pending) > call.tokens:
            break  # the rest of this prompt comes before those behind it
        left -= (call.stop - call.start) * max(row.cost for row in rows[call.start : call.stop])
        start = call.stop
    return calls


def budget(request: Request, vocabulary: int) -> int:
    """Padded tokens of one call that reads a prompt."""
    if request.prompt_logprobs is None:
        return READ_TOKENS
    return max(1, min(READ_TOKENS, SCORED_LOGITS // vocabulary))


def _decode(rows: Sequence[Row], start: int, end: int, vocabulary: int) -> Call:
    """Rows from `start` on whose pending tokens fill at least half of the padded call."""
    longest, real, stop = len(rows[start].pending), len(rows[start].pending), start + 1
    while stop < end:
        longer, more = max(longest, len(rows[stop].pending)), real + len(rows[stop].pending)
        if (stop + 1 - start) * longer > 2 * more:
            break
        longest, real, stop = longer, more, stop + 1
    most = max(1, SCORED_LOGITS // vocabulary // (stop - start))
    return Call(start, stop, min(longest, most), longest > 1)


def _read(rows: Sequence[Row], start: int, limit: int) -> Call:
    """The rows from `start` on that fit one call; one row alone may read a part of its pending tokens."""
    scored = rows[start].request.prompt_logprobs is not None
    cost, longest, stop = rows[start].cost, len(rows[start].pending), start + 1
    while stop < len(rows) and (rows[stop].request.prompt_logprobs is not None) == scored:
        dearer = max(cost, rows[stop].cost)
        if (stop + 1 - start) * dearer > limit:
            break
        cost, longest, stop = dearer, max(longest, len(rows[stop].pending)), stop + 1
    return Call(start, stop, min(longest, limit) if stop == start + 1 else longest, scored)
