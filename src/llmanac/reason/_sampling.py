"""Samples of many prompts in one batch, and what is chosen among the samples of one question."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llmanac.generate.engine import Completion, Engine
from llmanac.generate.prefix_cache import DEFAULT_BYTES
from llmanac.metrics.answers import extract
from llmanac.reason import Candidate, Cost, Found, Question, ReasonSpec


def keep_prefixes(engine: Engine) -> None:
    """A prefix cache for methods that read a text again with a little more behind it, where the model can have one."""
    if engine.prefix_cache is None and engine.keeps_prefixes:
        engine.keep_prefixes(DEFAULT_BYTES)


def sampling(spec: ReasonSpec) -> dict[str, Any]:
    """The engine's options of a Spec."""
    top = {} if spec.top_p == 1.0 else {"top_p": spec.top_p}
    return {"temperature": spec.temperature, **top, "stop": spec.stop}


def written(tokenizer: Any, ids: Sequence[int], last: Completion) -> str:
    """The text of tokens whose end is a completion, without what stopped it."""
    tail = tokenizer.decode(last.ids, skip_special=True)[len(last.text) :]
    return str(tokenizer.decode(ids, skip_special=True).removesuffix(tail))


def logprob(completion: Completion) -> float:
    return math.fsum(value for value in completion.logprobs if value is not None)


class Chooser:
    """Samples n answers to each question and chooses by the support that they give each other.

        chosen among a set S of samples = argmax over i in S of sum over j in S of support[i, j]

    The first sample of equal ones wins. A subclass says what the support is.
    """

    def __init__(self, spec: ReasonSpec, engine: Engine) -> None:
        self.spec, self.engine = spec, engine

    def __call__(self, questions: Sequence[Question], *, seed: int = 0) -> list[Found]:
        """Raises RequestError for a prompt that does not fit the model's context."""
        options = {**sampling(self.spec), "n": self.spec.n, "max_new_tokens": self.spec.tokens, "seed": seed}
        done = self.engine.sample([(question.ids, {}) for question in questions], **options)
        groups = [[self._candidate(one) for one in own] for own, _ in done]
        costs = [Cost(prompt=read, sampled=sum(len(one.ids) for one in own)) for own, read in done]
        supports = self.supports(questions, groups)
        return [choice(group, cost, *found) for group, cost, found in zip(groups, costs, supports, strict=True)]

    def supports(
        self, questions: Sequence[Question], groups: Sequence[Sequence[Candidate]]
    ) -> list[tuple[np.ndarray, int]]:
        """(n, n) for each question's samples, and the tokens that a verifier read for it."""
        raise NotImplementedError

    def _candidate(self, done: Completion) -> Candidate:
        return Candidate(
            ids=tuple(done.ids), text=done.text, answer=extract(done.text, self.spec.convention),
            logprob=logprob(done), finished=done.finish_reason == "stop",
        )  # fmt: skip


def choice(group: Sequence[Candidate], cost: Cost, matrix: np.ndarray, tokens: int) -> Found:
    """The candidate with the largest support (n, n); `tokens` were read by a verifier."""
    totals = matrix.sum(1)
    best = int(totals.argmax())
    names = [one.answer or "" for one, total in zip(group, totals, strict=True) if total == totals[best]]
    tied = tuple(dict.fromkeys(names))
    candidates = tuple(replace(one, score=float(total)) for one, total in zip(group, totals, strict=True))
    return Found(
        candidates=candidates, chosen=best, cost=cost + Cost(verifier=tokens), tied=tied if len(tied) > 1 else (),
        support=matrix,
    )  # fmt: skip


def equal_answers(answers: Sequence[str | None], same: Any) -> np.ndarray:
    """(n, n) 1 where two samples have the same answer; a sample without one has no equal.

    Samples are grouped by the first answer that they equal, so that the groups of a voting are well defined.
    """
    leaders: list[int] = []
    group = np.full(len(answers), -1)
    for i, answer in enumerate(answers):
        if answer is None:
            continue
        known = next((j for j in leaders if same(answers[j], answer)), None)
        if known is None:
            leaders.append(i)
            known = i
        group[i] = known
    return ((group[:, None] == group[None]) & (group >= 0)[:, None]).astype(np.float64)
