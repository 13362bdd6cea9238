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
        read: tokens that it holds.
    """

    request: Request
    pending: list[int]
    sequence: Generated | None = None
    read: int = 0


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
    if decoding:
        most = max(len(row.pending) for row in rows[:decoding])
        calls.append(Call(0, decoding, most, most > 1))
    left, start = READ_TOKENS, decoding
    while start < len(rows) and left > 0:
        call = _read(rows, start, min(left, budget(rows[start].request, vocabulary)))
        calls.append(call)
        if len(rows[start].pending) > call.tokens:
            break  # the rest of this prompt comes before those behind it
        left -= (call.stop - call.start) * call.tokens
        start = call.stop
    return calls


def budget(request: Request, vocabulary: int) -> int:
    """Padded tokens of one call that reads a prompt."""
    if request.prompt_logprobs is None:
        return READ_TOKENS
    return max(1, min(READ_TOKENS, SCORED_LOGITS // vocabulary))


def _read(rows: Sequence[Row], start: int, limit: int) -> Call:
    """The rows from `start` on whose pending tokens fit one call; one row alone may read a part of its tokens."""
    scored = rows[start].request.prompt_logprobs is not None
    longest, stop = len(rows[start].pending), start + 1
    while stop < len(rows) and (rows[stop].request.prompt_logprobs is not None) == scored:
        longer = max(longest, len(rows[stop].pending))
        if (stop + 1 - start) * longer > limit:
            break
        longest, stop = longer, stop + 1
    return Call(start, stop, min(longest, limit) if stop == start + 1 else longest, scored)
