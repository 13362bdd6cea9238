"""Inference scaling: more compute at the answer, counted in tokens. `build(engine=, reward=) -> Method`.

    method = make_method("reason", {"name": "voting", "n": 16}).build(engine=engine)
    found = method([Question.of(engine, "Tom has 3 boxes of 4 pens. How many pens?")], seed=0)[0]
    found.answer, found.cost.total

The n samples of a question read its prompt once. Tokens go in and come out: no text is decoded and encoded again, so
what a method continues is what the model wrote. What a question gets does not depend on the questions next to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from llmanac.core.errors import DataError, SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.core.spec import Spec
from llmanac.generate.engine import Engine
from llmanac.metrics.answers import convention
from llmanac.rewards import Reward, RewardScore, Sample


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt's token ids and text, and the row that it came from (its columns are what verifiers read)."""

    ids: tuple[int, ...]
    text: str
    row: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, engine: Engine, text: str, row: Mapping[str, Any] | None = None, *, chat: bool = False) -> Question:
        """A question as the engine reads it; `chat` sends it as a user's message through the chat template."""
        if chat and engine.tokenizer is not None:
            ids = engine.tokenizer.chat_ids([{"role": "user", "content": text}], add_generation_prompt=True)
        else:
            ids = list(engine.request(text, max_new_tokens=1).prompt)
        return cls(ids=tuple(map(int, ids)), text=text, row=row or {})


@dataclass(frozen=True)
class Cost:
    """Tokens: of prompts that were read (without those that a prefix cache held), sampled, and read by verifiers."""

    prompt: int = 0
    sampled: int = 0
    verifier: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.sampled + self.verifier

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.prompt + other.prompt, self.sampled + other.sampled, self.verifier + other.verifier)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One answer to a question.

    Attributes:
        ids, text: what was written; answer: what the convention finds in it, or None.
        score: what it was ranked by; logprob: of its sampled tokens, in nats; finished: whether it ended by itself.
    """

    ids: tuple[int, ...]
    text: str
    answer: str | None
    score: float = 0.0
    logprob: float = 0.0
    finished: bool = True


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a method found for a question.

    Attributes:
        candidates: all complete answers; chosen: the number of the one that is given.
        tied: the answers that were as good as the chosen one, it included; empty where it won alone.
        support: (n, n) for methods that choose among n independent samples: what sample j adds to candidate i. Only
            they have a curve over n.
    """

    candidates: tuple[Candidate, ...]
    chosen: int
    cost: Cost
    tied: tuple[str, ...] = ()
    support: np.ndarray | None = None

    @property
    def text(self) -> str:
        return self.candidates[self.chosen].text

    @property
    def answer(self) -> str | None:
        return self.candidates[self.chosen].answer


class ReasoningMethod(Protocol):
    """Answers questions; the same seed gives the same answers."""

    def __call__(self, questions: Sequence[Question], *, seed: int = 0) -> list[Found]: ...


@dataclass(frozen=True, kw_only=True)
class ReasonSpec(Spec):
    """`build(engine=, reward=) -> Method`.

    Attributes:
        n: samples of a question; tokens: the longest answer. temperature, top_p, stop: of sampling.
        convention: how answers are found in texts and compared (`metrics/answers`).
    """

    kind: ClassVar[str] = "reason"

    n: int = 16
    tokens: int = 256
    temperature: float = 0.7
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    convention: str = "gsm8k-flexible"

    ranges = within(COUNT, "n tokens")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0 and self.n > 1:
            raise SpecError(f"temperature: {self.temperature} makes {self.n} equal samples; it must be above 0")
        convention(self.convention)

    def build(self, *, engine: Engine, reward: Reward | None = None, **context: Any) -> ReasoningMethod:
        """Raises SpecError where it needs a reward and has none."""
        raise NotImplementedError


def scored(reward: Reward, samples: Sequence[Sample]) -> list[RewardScore]:
    """The scores of a verifier. Raises DataError where they are not as many as the samples, or not finite."""
    scores = reward(samples)
    if len(scores) != len(samples):
        raise DataError(f"verifier: gave {len(scores)} scores for {len(samples)} answers")
    for score, sample in zip(scores, samples, strict=True):
        if not np.isfinite(score.value):
            raise DataError(f"verifier: gave {score.value} for the answer {sample.text[:80]!r}")
    return scores


def as_sample(question: Question, candidate: Candidate) -> Sample:
    """An answer as a reward sees it."""
    return Sample(
        row=question.row, prompt=question.text, text=candidate.text, finished=candidate.finished,
        tokens=len(candidate.ids),
    )  # fmt: skip
