"""From logits to tokens: decoding methods, the random draw, and the log-probabilities that are reported.

The draw is the Gumbel-max trick (Gumbel 1954): argmax_v (z_v + g_v) with independent g_v = -log E_v, E_v exponential,
is an exact draw from softmax(z). A row's g come from its own stream, V numbers a token whatever was cut, so its batch
cannot change them; and when rounding moves a logit by d, the token changes only if the two best scores were within 2 d
(a near-tie), while an inverse of the cumulative sum would move every one of its V boundaries.
"""

import itertools
from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Any

import numpy as np

from llmanac.core.errors import LlmanacError, RequestError
from llmanac.generate.decoding import (
    Array,
    DecodingSpec,
    LogitsProcessor,
    compose,
    gather,
    largest,
    log_softmax,
    logsumexp,
)
from llmanac.generate.requests import Sequence, TokenLogprob

Best = Callable[[Array], list[tuple[Any, ...]] | None]  # logits (B, V) -> the fields of each row's TokenLogprob


def choose(logits: Array, sequences: Items[Sequence], own_best: Best = lambda logits: None) -> list[TokenLogprob]:
    """One token for each row of logits (B, V), as each row's own request asks.

    Args:
        own_best: a runner's own code for rows that take their best token and ask for nothing else.

    Raises:
        LlmanacError: a row of logits has no finite maximum.
    """
    if all(_plain(sequence) for sequence in sequences) and (found := own_best(logits)) is not None:
        return [TokenLogprob(*row) for row in found]
    logits, log_total = _finite(logits)
    processed = _processed(_constrained(logits, sequences), sequences)
    for row, sequence in enumerate(sequences):
        if sequence.due is not None:  # it has a constraint, so this is a copy of the logits
            processed[row] = -np.inf
            processed[row, sequence.due] = 0.0
    drawing = [row for row, s in enumerate(sequences) if s.noise is not None and s.due is None]
    decided = _with_noise(processed, [(row, sequences[row].noise) for row in drawing])
    best, margin = _best_two(decided)
    if (gather(decided, best) == -np.inf).any():
        raise LlmanacError("no token is left to choose from: what the request allows has nothing in common")
    counts = [s.request.logprobs or 0 for s in sequences]
    own = gather(logits, best) - log_total
    sampled = np.zeros_like(own)  # a row that takes its best token draws from a distribution of one token
    if drawing:
        rows = processed[drawing]
        sampled[drawing] = gather(rows, best[drawing]) - logsumexp(rows)
    tops = _tops(logits - log_total, counts) if any(counts) else [{}] * len(sequences)
    columns = (best[:, 0].tolist(), own[:, 0].tolist(), tops, margin.tolist(), sampled[:, 0].tolist())
    return [TokenLogprob(*row) for row in zip(*columns, strict=True)]


def _plain(sequence: Sequence) -> bool:
    request = sequence.request
    first = request.decoding[:1]  # nothing is done to logits before a method that takes the best
    return sequence.constraint is None and not request.logprobs and bool(first) and not first[0].stochastic


def continuations(logits: Array, sequences: Items[Sequence]) -> tuple[Array, Array, list[dict[int, float]]]:
    """What a beam search chooses from, for each row of logits (B, V).

    Returns:
        the model's log-probabilities (B, V), the same after constraints and methods, and alternatives to report.
    """
    logits, log_total = _finite(logits)
    logprobs = logits - log_total
    counts = [s.request.logprobs or 0 for s in sequences]
    tops = _tops(logprobs, counts) if any(counts) else [{}] * len(sequences)
    return logprobs, _processed(_constrained(logprobs, sequences), sequences), tops


def _finite(logits: Array) -> tuple[Array, Array]:
    """Logits (B, V), and each row's log-sum-exp (B, 1). Raises LlmanacError where it is not finite."""
    log_total = logsumexp(logits)
    if not np.isfinite(log_total).all():
        raise LlmanacError("the model gave logits that are not finite numbers; its weights are damaged or overflowed")
    return logits, log_total


def draft_choice(logits: Array, sequences: Items[Sequence], ahead: int) -> list[int]:
    """What each row of a draft model's logits (B, V) chooses `ahead` places after its next token, with the noise that
    the model's own choice there will use."""
    processed = _processed(logits, sequences)
    noise = [0 if sequence.noise is None else sequence.noise.ahead(logits.shape[-1], ahead) for sequence in sequences]
    return [int((row + own).argmax()) for row, own in zip(processed, noise, strict=True)]


def _constrained(logits: Array, sequences: Items[Sequence]) -> Array:
    """-inf where a row's constraint does not allow a token."""
    held = [(row, s.constraint) for row, s in enumerate(sequences) if s.constraint is not None]
    if not held:
        return logits
    masked = logits.copy()
    for row, constraint in held:
        try:
            allowed = np.asarray(constraint.mask())
        except RequestError as error:  # this text has no continuation: it ends, and the others go on
            sequences[row].error = error
            continue
        if allowed.dtype != np.bool_ or allowed.shape != logits.shape[1:]:
            what = f"{allowed.shape} {allowed.dtype}"
            raise RequestError(f"constraint: its mask is {what}; it must be a bool array of {logits.shape[1]} tokens")
        masked[row, ~allowed] = -np.inf
    return masked


def _processed(logits: Array, sequences: Items[Sequence]) -> Array:
    """(B, V): logits after each row's own decoding methods, the one that takes the best left out."""
    groups: dict[tuple[DecodingSpec, ...], list[int]] = {}
    for row, sequence in enumerate(sequences):
        groups.setdefault(sequence.request.decoding, []).append(row)
    if len(groups) == 1:
        return _processor(next(iter(groups)))(logits, sequences)
    processed = np.empty_like(logits)
    for specs, rows in groups.items():
        processed[rows] = _processor(specs)(logits[rows], [sequences[row] for row in rows])
    return processed


def _with_noise(logits: Array, drawing: Items[tuple[int, Any]]) -> Array:
    """Gumbel noise on the rows that sample; the largest of a row is then its token."""
    if not drawing:
        return logits
    noisy = logits.astype(np.float64)
    for row, noise in drawing:
        noisy[row] += noise.take(logits.shape[-1])
    return noisy


def _processor(specs: tuple[DecodingSpec, ...]) -> LogitsProcessor:
    """The methods before the one that only takes the best: `choose` takes the best too, and needs the runner-up."""
    return compose(tuple(itertools.takewhile(lambda spec: spec.stochastic, specs)))


def _best_two(scores: Array) -> tuple[Array, Array]:
    """The first maximum of each row (B, 1), and its lead over the runner-up (B,)."""
    best, rest = scores.argmax(-1)[:, None], scores.copy()
    np.put_along_axis(rest, best, -np.inf, -1)
    with np.errstate(invalid="ignore"):  # of a row that has no token left
        return best, gather(scores, best)[:, 0] - rest.max(-1)


def _tops(logprobs: Array, counts: Items[int]) -> list[dict[int, float]]:
    """For each row of (B, V) its `counts[row]` most probable tokens, best first."""
    values, ids = largest(logprobs, max(counts))
    rows = zip(ids.tolist(), values.tolist(), counts, strict=True)
    return [dict(zip(i[:count], v[:count], strict=True)) for i, v, count in rows]


def score_prompt(logits: Array, targets: Items[int], alternatives: int) -> list[TokenLogprob]:
    """Score given tokens: `logits` (T, V) at the places before them, `targets` T ids.

    A token's log-probability and its alternatives are read from the same numbers, so that a token which is the best
    one has exactly the largest value of the alternatives.
    """
    logprobs = log_softmax(logits)
    own = gather(logprobs, np.array(targets)[:, None])[:, 0].tolist()
    tops = _tops(logprobs, [alternatives] * len(targets)) if alternatives else [{}] * len(targets)
    return [TokenLogprob(token, value, top) for token, value, top in zip(targets, own, tops, strict=True)]


def score_given(sequence: Sequence, first: int, targets: Items[int], logits: Array) -> None:
    """Fill in the log-probabilities of forced tokens that have none yet.

    `targets` are the generated tokens from number `first` on; `logits` (T, V) are those of the places before them.
    """
    own = sequence.token_logprobs[first : first + len(targets)]
    if all(token.logprob is not None for token in own):
        return
    scored = score_prompt(logits[: len(targets)], targets, sequence.request.logprobs or 0)
    for at, (token, found) in enumerate(zip(own, scored, strict=True), first):
        if token.logprob is None:
            sequence.token_logprobs[at] = found
