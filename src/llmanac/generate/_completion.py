"""What the engine returns for a request: the text, its tokens, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from llmanac.generate._requests import FinishReason, Request, TokenLogprob


class Arrays(NamedTuple):
    """Generated tokens: ids (T,) int64, and natural log-probabilities (T,) float64.

    `logprobs` are the model's own; `sampled_logprobs` are of the distribution that each token was drawn from.
    """

    ids: np.ndarray
    logprobs: np.ndarray
    sampled_logprobs: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One continuation of one prompt.

    Attributes:
        text: without the stop string or stop token that ended it; special tokens have no text.
        token_logprobs: a TokenLogprob (id, log-probability, alternatives, margin) for each generated token.
        finish_reason: "stop" (a stop token or stop string) or "length" (max_new_tokens, or the context is full).
        prompt_token_logprobs: one TokenLogprob a prompt token where `prompt_logprobs` was asked for, else empty.
        index: which of the prompt's `n` samples this is; of beams, the best is the first.
        score: what a beam search ranked it by, else None.
        drafted, accepted: tokens that a drafter proposed for it, and those of them that the model chose too.
        parsed: the object of a complete text where `schema` was given, the slots where `template` was; else None.
    """

    text: str
    token_logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason
    prompt_ids: tuple[int, ...]
    prompt_token_logprobs: tuple[TokenLogprob, ...] = ()
    index: int = 0
    score: float | None = None
    drafted: int = 0
    accepted: int = 0
    parsed: Any = None

    @property
    def ids(self) -> list[int]:
        """The generated token ids."""
        return [s.id for s in self.token_logprobs]

    @property
    def logprobs(self) -> list[float | None]:
        """The natural log-probability of each generated token under the model (before temperature and cuts).

        None for tokens that a constraint forced at the very end, where `logprobs` was not asked for: the model never
        read what comes before them.
        """
        return [s.logprob for s in self.token_logprobs]

    @property
    def arrays(self) -> Arrays:
        """The generated tokens as arrays."""
        given = (
            [t.id for t in self.token_logprobs],
            [np.nan if t.logprob is None else t.logprob for t in self.token_logprobs],
            [t.sampled for t in self.token_logprobs],
        )
        return Arrays(*[np.array(x, kind) for x, kind in zip(given, (np.int64, np.float64, np.float64), strict=True)])

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_ids)


def completions(request: Request) -> list[Completion]:
    """The completions of a finished request. Raises RequestError where a constraint left no token to go on with."""
    for sequence in request.sequences:
        if sequence.error is not None:
            raise sequence.error
    return [
        Completion(
            text=sequence.text.text,
            token_logprobs=tuple(sequence.token_logprobs),
            finish_reason=cast(FinishReason, sequence.finish_reason),
            prompt_ids=request.prompt,
            prompt_token_logprobs=tuple(request.prompt_token_logprobs),
            index=sequence.index,
            score=sequence.score,
            drafted=sequence.drafted,
            accepted=sequence.accepted,
            parsed=request.parsed(sequence),
        )
        for sequence in request.sequences
    ]
