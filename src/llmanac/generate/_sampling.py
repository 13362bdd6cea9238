"""From logits to tokens: decoding methods, the random draw, and the log-probabilities that are reported.

The draw is the Gumbel-max trick (Gumbel 1954): argmax_v (z_v + g_v) with independent g_v = -log E_v, E_v exponential,
is an exact draw from softmax(z). A row's g come from its own stream, V numbers a token whatever was cut, so its batch
cannot change them; and when rounding moves a logit by d, the token changes only if the two best scores were within 2 d
(a near-tie), while an inverse of the cumulative sum would move every one of its V boundaries.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Any

import torch
from torch import Tensor

from llmanac.core.errors import LlmanacError, RequestError
from llmanac.generate._requests import Sequence, TokenLogprob
from llmanac.generate.decoding import DecodingSpec, LogitsProcessor, compose

Best = Callable[[Tensor], list[tuple[Any, ...]] | None]  # logits (B, V) -> the fields of each row's TokenLogprob


def choose(logits: Tensor, sequences: Items[Sequence], own_best: Best | None = None) -> list[TokenLogprob]:
    """One token for each row of logits (B, V), as each row's own request asks.

    Args:
        own_best: a runner's own code for rows that take their best token and ask for nothing else.

    Raises:
        LlmanacError: a row of logits has no finite maximum.
    """
    if own_best is not None and all(_plain(sequence) for sequence in sequences):
        found = own_best(logits)
        if found is not None:
            return [TokenLogprob(*row) for row in found]
    logits, log_total = _finite(logits)
    processed = _processed(_constrained(logits, sequences), sequences)
    for row, sequence in enumerate(sequences):
        if sequence.due is not None:  # it has a constraint, so this is a copy of the logits
            processed[row] = -torch.inf
            processed[row, sequence.due] = 0.0
    drawing = [row for row, s in enumerate(sequences) if s.generator is not None and s.due is None]
    decided = _with_noise(processed, sequences, drawing)
    best, margin = _best_two(decided)
    if bool((decided.gather(-1, best) == -torch.inf).any()):
        raise LlmanacError("no token is left to choose from: what the request allows has nothing in common")
    counts = [s.request.logprobs or 0 for s in sequences]
    own = logits.gather(-1, best) - log_total
    sampled = torch.zeros_like(own)  # a row that takes its best token draws from a distribution of one token
    if drawing:
        index = torch.tensor(drawing, device=logits.device)
        rows = processed[index]
        sampled[index] = rows.gather(-1, best[index]) - rows.logsumexp(dim=-1, keepdim=True)
    tops = _tops(logits - log_total, counts) if any(counts) else [{}] * len(sequences)
    columns = (best[:, 0].tolist(), own[:, 0].tolist(), tops, margin.tolist(), sampled[:, 0].tolist())
    return [TokenLogprob(*row) for row in zip(*columns, strict=True)]


def _plain(sequence: Sequence) -> bool:
    request = sequence.request
    first = request.decoding[:1]  # nothing is done to logits before a method that takes the best
    return sequence.constraint is None and not request.logprobs and bool(first) and not first[0].stochastic


def continuations(logits: Tensor, sequences: Items[Sequence]) -> tuple[Tensor, Tensor, list[dict[int, float]]]:
    """What a beam search chooses from, for each row of logits (B, V).

    Returns:
        the model's log-probabilities (B, V), the same after constraints and methods, and alternatives to report.
    """
    logits, log_total = _finite(logits)
    logprobs = logits - log_total
    counts = [s.request.logprobs or 0 for s in sequences]
    tops = _tops(logprobs, counts) if any(counts) else [{}] * len(sequences)
    return logprobs, _processed(_constrained(logprobs, sequences), sequences), tops


def _finite(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, V) as floats, and each row's log-sum-exp (B, 1). Raises LlmanacError where it is not finite."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_total = logits.logsumexp(dim=-1, keepdim=True)
    if not bool(torch.isfinite(log_total).all()):
        raise LlmanacError("the model gave logits that are not finite numbers; its weights are damaged or overflowed")
    return logits, log_total


def draft_choice(logits: Tensor, sequences: Items[Sequence], ahead: int) -> list[int]:
    """What each row of a draft model's logits (B, V) chooses `ahead` places after its next token, with the noise that
    the model's own choice there will use."""
    processed = _processed(logits.float(), sequences).cpu()
    for row, sequence in enumerate(sequences):
        if sequence.generator is not None:
            processed[row] = processed[row] + sequence.noise(logits.shape[-1], ahead)
    found: list[int] = processed.argmax(dim=-1).tolist()
    return found


def _constrained(logits: Tensor, sequences: Items[Sequence]) -> Tensor:
    """-inf where a row's constraint does not allow a token."""
    held = [(row, s.constraint) for row, s in enumerate(sequences) if s.constraint is not None]
    if not held:
        return logits
    masked = logits.clone()
    for row, constraint in held:
        try:
            allowed = constraint.mask()
        except RequestError as error:  # this text has no continuation: it ends, and the others go on
            sequences[row].error = error
            continue
        if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool or allowed.shape != logits.shape[1:]:
            what = f"{tuple(allowed.shape)} {allowed.dtype}" if isinstance(allowed, Tensor) else type(allowed).__name__
            raise RequestError(f"constraint: its mask is {what}; it must be a bool tensor of {logits.shape[1]} tokens")
        masked[row].masked_fill_(~allowed.to(logits.device), -torch.inf)
    return masked


def _processed(logits: Tensor, sequences: Items[Sequence]) -> Tensor:
    """(B, V): logits after each row's own decoding methods, the one that takes the best left out."""
    groups: dict[tuple[DecodingSpec, ...], list[int]] = {}
    for row, sequence in enumerate(sequences):
        groups.setdefault(sequence.request.decoding, []).append(row)
    if len(groups) == 1:
        return _processor(next(iter(groups)))(logits, sequences)
    processed = torch.empty_like(logits)
    for specs, rows in groups.items():
        index = torch.tensor(rows, device=logits.device)
        processed[index] = _processor(specs)(logits[index], [sequences[row] for row in rows])
    return processed


def _with_noise(logits: Tensor, sequences: Items[Sequence], drawing: Items[int]) -> Tensor:
    """Gumbel noise on the rows that sample; the largest of a row is then its token."""
    if not drawing:
        return logits
    noise = torch.zeros(logits.shape, dtype=torch.float64)
    for row in drawing:
        noise[row] = sequences[row].take_noise(logits.shape[-1])
    return logits + noise.to(logits.device)


def _processor(specs: tuple[DecodingSpec, ...]) -> LogitsProcessor:
    """The methods before the one that only takes the best: `choose` takes the best too, and needs the runner-up."""
    return compose(tuple(itertools.takewhile(lambda spec: spec.stochastic, specs)))


def _best_two(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The first maximum of each row (B, 1), and its lead over the runner-up (B,)."""
    best = scores.argmax(dim=-1, keepdim=True)
    lead = scores.gather(-1, best)
    rest = scores.scatter(-1, best, -torch.inf)
    return best, (lead - rest.amax(dim=-1, keepdim=True))[:, 0]


def _tops(logprobs: Tensor, counts: Items[int]) -> list[dict[int, float]]:
    """For each row of (B, V) its `counts[row]` most probable tokens, best first."""
    values, ids = logprobs.topk(min(max(counts), logprobs.shape[-1]), dim=-1)
    rows = zip(ids.tolist(), values.tolist(), counts, strict=True)
    return [dict(zip(i[:count], v[:count], strict=True)) for i, v, count in rows]


def score_prompt(logits: Tensor, targets: Items[int], alternatives: int) -> list[TokenLogprob]:
    """Score given tokens: `logits` (T, V) at the places before them, `targets` T ids.

    A token's log-probability and its alternatives are read from the same numbers, so that a token which is the best
    one has exactly the largest value of the alternatives.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logprobs = logits.log_softmax(dim=-1)
    own = logprobs.gather(-1, torch.tensor(targets, device=logits.device)[:, None])[:, 0].tolist()
    tops = _tops(logprobs, [alternatives] * len(targets)) if alternatives else [{}] * len(targets)
    return [TokenLogprob(token, value, top) for token, value, top in zip(targets, own, tops, strict=True)]


def score_given(sequence: Sequence, first: int, targets: Items[int], logits: Tensor) -> None:
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
