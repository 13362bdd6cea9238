"""A request: its checked options, the sequences generated from it, and what the engine returns for it.

The Gumbel noise of one sequence, V numbers a token: g = -log E with E = -log(1 - u), u uniform in [0, 1).

u is made of 53 bits of two numbers of the Mersenne twister. These are the numbers of `torch.Tensor.exponential_` in
float64 on a CPU, to the last bit of the logarithm; they are the same on every machine, with torch or without it.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from llmanac.core.errors import RequestError, nearest
from llmanac.core.rng import seed_of
from llmanac.generate._options import Constraint, Forced, Options, decoding_of, optional, whole
from llmanac.generate._text import TextStream
from llmanac.generate.constrain import parser_of
from llmanac.generate.decoding import Array, beam

LEAST = np.finfo(np.float64).tiny  # an exponential number of 0 would be infinite noise, also for what was cut


class Noise:
    """See the module. `names` are those of the stream (`core/rng.py`)."""

    def __init__(self, seed: int, *names: object) -> None:
        self._twister = np.random.RandomState(seed_of(seed, *names) & 0xFFFFFFFF)
        self._ready: deque[Array] = deque()

    def ahead(self, vocabulary: int, places: int = 0) -> Array:
        """(V,) float64, of the token `places` after the next one; drawn once, in order."""
        while len(self._ready) <= places:
            bits = self._twister.randint(0, 1 << 32, 2 * vocabulary, np.uint32).view("<u8")  # a pair: high, low
            uniform = ((bits << 32 | bits >> 32) & ((1 << 53) - 1)) * 2.0**-53
            self._ready.append(-np.log(np.maximum(-np.log1p(-uniform), LEAST)))
        return self._ready[places]

    def take(self, vocabulary: int) -> Array:
        """That of the next token, which is then used up."""
        self.ahead(vocabulary)
        return self._ready.popleft()


FinishReason = Literal["stop", "length"]
MOST_SAMPLES = 4096  # of one prompt
FIRST_DRAFT = 3  # tokens; then as many as were accepted
FIRST_PAUSE = 8  # steps after drafts that lost; then twice as many
LARGEST_TOP = 100  # alternatives a token; the peers allow 20


@dataclass(frozen=True)
class TokenLogprob:
    """One token with its natural log-probability under the raw distribution (no temperature).

    Attributes:
        logprob: `None` for the first token of a prompt, which nothing predicts.
        top: the most probable tokens there, best first.
        sampled: its log-probability under the distribution that it was drawn from (after constraint, temperature and
            cuts); 0 where the best token was taken.
        margin: by how much the token won over the runner-up in the score that decided (logits, plus the random draw
            when sampling) among the tokens that no method cut; 0 where it was not chosen by the engine.
    """

    id: int
    logprob: float | None
    top: dict[int, float] = field(default_factory=dict)
    margin: float = 0.0
    sampled: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What a sequence gained: text that is safe to show, and the tokens behind it (text may lag behind tokens)."""

    text: str
    token_logprobs: tuple[TokenLogprob, ...]
    index: int = 0
    finish_reason: FinishReason | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(s.id for s in self.token_logprobs)


class Request:
    """One prompt and how to continue it; it grows `n` sequences.

    Attributes:
        prompt: token ids, at least one.
        prompt_token_logprobs: one TokenLogprob a prompt token, once prefilled, if `prompt_logprobs` asked for them.
        context: the most tokens that the model can read, or `None`.
        cached_tokens: how many prompt tokens were not computed; `None` without a prefix cache.
        arrival: its place among the requests of a scheduler.
        paused: sequences that were put back into the queue, each with the tokens that it was to read next.
    """

    def __init__(
        self,
        prompt: Items[int],
        options: Options,
        *,
        stop_ids: frozenset[int],
        context: int | None,
        tokenizer: Any,
        start_id: int | None = None,
        constraint: Callable[[], Constraint] | None = None,
        forced: tuple[int | None, int | None] = (None, None),
    ):
        self.prompt = tuple(prompt)
        self.context = context
        self.max_new_tokens = whole("max_new_tokens", options.get("max_new_tokens", 64), least=0)
        self.logprobs = optional("logprobs", options.get("logprobs"), least=0, most=LARGEST_TOP)
        self.prompt_logprobs = optional("prompt_logprobs", options.get("prompt_logprobs"), least=0, most=LARGEST_TOP)
        self.constraint = options.get("constraint") or constraint
        if self.constraint is not None and not callable(self.constraint):
            raise RequestError("constraint: give a function or class that makes one for each sample")
        if self.constraint is not None and options.get("allowed_ids") is not None:
            raise RequestError("allowed_ids: give either a constraint or allowed_ids, not both")
        self.parser = parser_of(options)
        # what the row of an answer begins with: an encoder reads its prompt apart
        self.begun = self.prompt if start_id is None else (start_id,)
        self.first = len(self.begun)
        self.adapter = options.get("adapter")
        self.images = options.get("images")
        self.stop_ids = stop_ids
        self.prompt_token_logprobs: list[TokenLogprob] = []
        self.cached_tokens: int | None = None
        self.arrival = 0
        self.paused: list[tuple[Sequence, list[int]]] = []
        stops = stop_strings(options.get("stop", ()))
        if stops and tokenizer is None:
            raise RequestError("stop: stop strings need a tokenizer; give stop_ids")
        special = tokenizer.special_tokens if tokenizer else {}
        self.stop_ids |= {special[s] for s in stops if s in special}
        self.decoding = decoding_of(options, [*self.stop_ids])
        if self.constraint is None and any(token is not None for token in forced):
            self.decoding = (Forced(first=forced[0], last=forced[1], most=self.max_new_tokens), *self.decoding)
        last = self.decoding[-1] if self.decoding else None
        self.search: beam.Spec | None = last if isinstance(last, beam.Spec) else None
        self.searching: beam.Search | None = None
        self.speculative = bool(options.get("speculative", True)) and self.search is None
        seed = whole("seed", options.get("seed", 0))
        key = hashlib.sha256(np.asarray(self.prompt, np.int64).tobytes()).hexdigest()
        count = whole("n", options.get("n", 1), least=1, most=MOST_SAMPLES)
        if self.search is not None and count > self.search.beams:
            raise RequestError(f"n: {count} texts of {self.search.beams} beams; give at least as many beams")
        self.width = count if self.search is None else self.search.beams
        self._ends = len(self.stop_ids) + len(stops)
        texts = TextStream(tokenizer, stops, frozenset(options.get("shown_ids") or ()))
        self.sequences = [Sequence(self, i, (seed, key, i), texts.fork()) for i in range(count)]

    @property
    def stochastic(self) -> bool:
        """Whether any random number is used."""
        return all(spec.stochastic for spec in self.decoding)

    @property
    def rows(self) -> int:
        """How many sequences are to run."""
        return len(self.paused) or self.width

    @property
    def tokens(self) -> int:
        """Tokens that are to be read before it goes on."""
        if not self.paused:
            return len(self.prompt)
        return sum(len(self.prompt) + len(sequence.token_logprobs) for sequence, _ in self.paused)

    def parsed(self, sequence: Sequence) -> Any:
        """The object of a text that follows the request's schema; None where it was cut short."""
        follower = sequence.constraint
        if self.parser is None or follower is None or not getattr(follower, "accepting", bool)():
            return None
        try:
            return self.parser(sequence.text.text)
        except ValueError:  # a stop string has cut it
            return None

    @property
    def finished(self) -> bool:
        return all(s.finish_reason for s in self.sequences)

    def start_search(self) -> beam.Search:
        """A new beam search from the first sequence, which has no tokens yet."""
        assert self.search is not None
        room = math.inf if self.context is None else self.context - self.first + 1
        self.searching = self.search.search(self.sequences[0], int(min(self.max_new_tokens, room)), self._ends)
        return self.searching


class Sequence:
    """One continuation of a request: its tokens, its text, its own random stream, and why it ended."""

    def __init__(self, request: Request, index: int, stream: tuple[int, str, int], text: TextStream) -> None:
        self.request = request
        self.index = index
        self.token_logprobs: list[TokenLogprob] = []
        self.text = text
        self.finish_reason: FinishReason | None = None
        self.error: RequestError | None = None  # why its constraint allows nothing more; no other row is affected
        seed, key, number = stream
        self.noise = Noise(seed, "sample", key, number) if request.stochastic else None
        self.constraint = request.constraint() if request.constraint is not None else None
        self.due: int | None = None  # the next token, where its constraint leaves no choice and it is to be scored
        self.score: float | None = None  # of a beam search
        self.drafted = self.accepted = 0  # tokens of a drafter
        self.draft_length, self.drafted_at = FIRST_DRAFT, 0
        self.draft_trust = (0.0, 0.0)  # of its last tokens: drafted, accepted
        self.draft_wait, self.draft_pause = 0, FIRST_PAUSE
        self._taken = 0

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.request.begun

    @property
    def ids(self) -> list[int]:
        """The generated tokens."""
        return [token.id for token in self.token_logprobs]

    def forced(self) -> int | None:
        """The token that a constraint leaves no choice about, or None."""
        return None if self.constraint is None else self.constraint.forced()

    def continued(self, token: int, logprob: float, top: dict[int, float]) -> Sequence:
        """A new sequence: this one and a token."""
        other = copy.copy(self)
        other.token_logprobs, other.text = [*self.token_logprobs], self.text.fork()
        if self.constraint is not None:
            if hasattr(self.constraint, "copy"):
                other.constraint = self.constraint.copy()
            else:
                assert self.request.constraint is not None
                other.constraint = self.request.constraint()
                for earlier in self.ids:
                    other.constraint.advance(earlier)
        try:
            other.push(TokenLogprob(token, logprob, top))
        except RequestError as error:  # its constraint failed; no other request is affected
            other.error = error
        if other.error is not None:
            other.finish_reason = "length"
        return other

    def push(self, token: TokenLogprob) -> None:
        """Add a token and decide whether the sequence ends with it."""
        request = self.request
        self.token_logprobs.append(token)
        if self.constraint is not None and token.id not in request.stop_ids:
            self.constraint.advance(token.id)
        read = request.first + len(self.token_logprobs)  # how long the context must be to go on from here
        if token.id in request.stop_ids or self.text.push(token.id):
            self.finish("stop")
        elif len(self.token_logprobs) >= request.max_new_tokens or (
            request.context is not None and read > request.context
        ):
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """End the sequence; text that was held back comes out."""
        self.finish_reason = reason
        self.text.close()

    def take(self) -> Piece:
        """What the sequence gained since the last call."""
        gained = self.token_logprobs[self._taken :]
        if self.finish_reason is None:  # forced tokens wait until the model has scored them
            gained = list(itertools.takewhile(lambda token: token.logprob is not None, gained))
        self._taken += len(gained)
        return Piece(
            text=self.text.take(), token_logprobs=tuple(gained), index=self.index, finish_reason=self.finish_reason
        )


def check_names(options: dict[str, Any]) -> None:
    """Refuse an option that does not exist, naming the nearest one that does."""
    for name in options:
        if name not in Options.__annotations__:
            known = ", ".join(Options.__annotations__)
            raise RequestError(f"{name}: no such option{nearest(name, Options.__annotations__)} (known: {known})")


def stop_strings(stop: str | Items[str] | None) -> tuple[str, ...]:
    """`stop` as a tuple. Raises RequestError for an empty or non-text stop string."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    for s in stops:
        if not isinstance(s, str) or not s:
            raise RequestError(f"stop: {s!r} is not a non-empty string")
    return stops


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
