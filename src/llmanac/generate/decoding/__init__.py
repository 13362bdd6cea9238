"""Decoding methods: each reshapes the logits of the next token; the engine then draws one token from what is left.

A method is a closure `(logits (B, V), sequences) -> (B, V)` over NumPy arrays of float logits; `sequences` are the
rows' texts so far. It is built once and composed once (`compose`), never rebuilt in the loop. A token that a method
rules out gets `-inf`; every row keeps at least one finite logit.

Order. Methods apply from left to right, and the order matters: temperature before top-k or top-p means that the cut is
made on the tempered distribution. The engine's own order for its options is the one of transformers: logit bias,
repetition penalty, presence and frequency penalties, n-gram blocking, temperature, top-k, top-p, min-p, typical. Last
comes what chooses: a draw, `greedy` or `beam`. Before a beam search the methods get log-probabilities, not logits.

Operations on rows of logits (B, V) that samplers share. Each row is computed by itself; results have its dtype.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import numpy as np

from llmanac.core.spec import Spec


class RowTokens(Protocol):
    """A row's text so far."""

    @property
    def prompt_ids(self) -> Sequence[int]: ...
    @property
    def ids(self) -> Sequence[int]:
        """The generated tokens."""


Sequences = Sequence[RowTokens]
Array = np.ndarray[Any, Any]
LogitsProcessor = Callable[..., Array]  # (logits (B, V), sequences) -> (B, V)


@dataclass(frozen=True, kw_only=True)
class DecodingSpec(Spec):
    """A decoding method's choices.

    `stochastic` is False for a method that keeps only each row's best token, so that no random number is used;
    `reads_text` is True for one that looks at the rows' tokens so far; `searches` for one that decides over several
    continuations of a prompt together (`search`), so that it is the last of a request's methods.
    """

    kind: ClassVar[str] = "decoding"
    stochastic: ClassVar[bool] = True
    reads_text: ClassVar[bool] = False
    searches: ClassVar[bool] = False
    ids = cast("tuple[int, ...]", ())  # tokens that it names, a field of some

    def build(self, **dims: Any) -> LogitsProcessor:
        """The closure `(logits (B, V), sequences) -> logits (B, V)`."""
        raise NotImplementedError


@functools.lru_cache(maxsize=1024)
def compose(specs: tuple[DecodingSpec, ...]) -> LogitsProcessor:
    """One closure that applies the methods from left to right; without methods, the identity."""
    processors = [spec.build() for spec in specs]

    def apply(logits: Array, sequences: Sequences = ()) -> Array:
        for processor in processors:
            logits = processor(logits, sequences)
        return logits

    return apply


PIECE = 64


def logsumexp(logits: Array) -> Array:
    """(B, V) -> (B, 1); not finite where a row has no finite maximum."""
    top = logits.max(-1, keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf of damaged logits
        total: Array = np.log(np.exp(logits - top).sum(-1, keepdims=True)) + top
    return total


def log_softmax(logits: Array) -> Array:
    """(B, V) -> (B, V)."""
    found: Array = logits - logsumexp(logits)
    return found


def gather(values: Array, ids: Array) -> Array:
    """(B, V) and (B, K) places -> (B, K)."""
    return np.take_along_axis(values, ids, -1)


def largest(values: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest numbers of each row (B, K), largest first, and their places; of equals the first first."""
    count = min(count, values.shape[-1])
    ids = np.array([_largest(row, count) for row in values], np.int64).reshape(len(values), count)
    return gather(values, ids), ids


def _largest(row: Array, count: int) -> Array:
    """Places (K,) in one row (V,): among what is at least as large as the K-th largest maximum of pieces of it."""
    pieces, tops = len(row) // PIECE, row
    if pieces > count:
        tops = row[: pieces * PIECE].reshape(pieces, PIECE).max(-1)
    least = np.partition(tops, -count)[-count]
    if least > -np.inf:
        at = np.flatnonzero(row >= least)
    else:  # most of the row was ruled out
        at = np.concatenate([np.flatnonzero(row > least), np.flatnonzero(row == least)[:count]])
    found: Array = at[np.argsort(-row[at], kind="stable")[:count]]
    return found


def cut(logits: Array, dropped: Array) -> Array:
    """The logits with -inf where `dropped` (B, V) is true."""
    return np.where(dropped, np.array(-np.inf, logits.dtype), logits)


def nothing(logits: Array) -> Array:
    """(B, V) of -inf."""
    return np.full_like(logits, -np.inf)
