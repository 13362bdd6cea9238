"""Voting (self-consistency): sample N answers, give the one that most of them have.

    a* = argmax over answers a of sum over samples i with answer a of w_i

w is 1 (count), the mean probability exp(log p(y) / |y|) of a token (probability), or a verifier's score, at least 0
(verifier). Answers are found and compared by a convention; samples without an answer do not vote. Of answers with the
same weight the one that was sampled first wins, and `Found.tied` names all of them. It needs answers that can be equal:
free text has no majority.

Cost: the prompt once and N answers. Wang et al. 2022, arXiv:2203.11171; weighted: Li et al. 2022, arXiv:2206.02336.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import DataError, SpecError
from llmanac.generate.engine import Engine
from llmanac.metrics.answers import convention
from llmanac.reason import Candidate, Question, ReasoningMethod, ReasonSpec
from llmanac.reason._sampling import Chooser, equal_answers
from llmanac.reason.best_of_n import verified
from llmanac.rewards import Reward

CARD = {
    "title": "Voting over sampled answers",
    "paper": "https://arxiv.org/abs/2203.11171",
    "reference": "the closed form of a majority of N draws; collections.Counter over the answers",
    "test": "tests/references/test_reason.py::test_voting_follows_its_closed_form",
    "aliases": {"weighted-voting": {"weights": "verifier"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(ReasonSpec):
    """Attributes: weights: count, probability or verifier."""

    weights: Literal["count", "probability", "verifier"] = "count"

    def build(self, *, engine: Engine, reward: Reward | None = None, **context: Any) -> ReasoningMethod:
        if self.weights == "verifier" and reward is None:
            raise SpecError("weights: verifier needs a reward; name one, or take count or probability")
        return Voting(self, engine, reward)


class Voting(Chooser):
    """See the module."""

    spec: Spec

    def __init__(self, spec: Spec, engine: Engine, reward: Reward | None) -> None:
        super().__init__(spec, engine)
        self.reward = reward

    def supports(
        self, questions: Sequence[Question], groups: Sequence[Sequence[Candidate]]
    ) -> list[tuple[np.ndarray, int]]:
        same = convention(self.spec.convention).equal
        equal = [equal_answers([one.answer for one in group], same) for group in groups]
        if self.spec.weights == "count":
            return [(matrix, 0) for matrix in equal]
        found = verified(questions, groups, self.reward if self.spec.weights == "verifier" else None)
        if self.spec.weights == "probability":
            return [(matrix * np.exp(values), 0) for matrix, (values, _) in zip(equal, found, strict=True)]
        worst = min(float(values.min()) for values, _ in found)
        if worst < 0:
            raise DataError(
                f"verifier: gave {worst:g}; a vote's weight is at least 0, take best-of-n or weights = count"
            )
        return [(matrix * values, tokens) for matrix, (values, tokens) in zip(equal, found, strict=True)]
