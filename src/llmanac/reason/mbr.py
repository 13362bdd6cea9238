"""Minimum Bayes risk: sample N texts, give the one that is most like all of them.

    y* = argmax over y_i of 1/N sum over j of u(y_i, y_j)             y_j: samples as pseudo-references

u is exact match of the answers (then it is voting), sentence BLEU, the F of ROUGE-L, or the F of BERTScore under an
encoder. It works for free text, where nothing is ever equal, and is as good as its utility: what u does not see, such
as a number in a long text, does not count. The first of equal texts wins.

Cost: the prompt once, N texts, and for BERTScore what the encoder reads; N^2 utilities.
Kumar & Byrne 2004; Eikema & Aziz 2020, arXiv:2005.10283; Bertsch et al. 2023, arXiv:2310.01387.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.metrics.answers import convention
from llmanac.reason import Candidate, Question, ReasoningMethod, ReasonSpec
from llmanac.reason._sampling import Chooser
from llmanac.rewards import Reward

CARD = {
    "title": "Minimum Bayes risk",
    "paper": "https://arxiv.org/abs/2005.10283",
    "reference": "voting, with exact match; the argmax over sacrebleu's, rouge-score's and bert-score's scores",
    "test": "tests/references/test_reason.py::test_mbr_with_exact_match_is_voting",
}
Utility = Callable[[Sequence[str], Sequence[str]], tuple[np.ndarray, int]]  # of P pairs; the tokens read


@dataclass(frozen=True, kw_only=True)
class Spec(ReasonSpec):
    """Attributes: utility: u; encoder: the folder of BERTScore's encoder."""

    utility: Literal["exact-match", "bleu", "rouge", "bertscore"] = "exact-match"
    encoder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.utility == "bertscore") != (self.encoder is not None):
            raise SpecError("encoder: bertscore needs the folder of an encoder, and no other utility takes one")

    def build(self, *, engine: Engine, reward: Reward | None = None, **context: Any) -> ReasoningMethod:
        return MinimumRisk(self, engine)


class MinimumRisk(Chooser):
    """See the module."""

    spec: Spec

    def __init__(self, spec: Spec, engine: Engine) -> None:
        super().__init__(spec, engine)
        self.utility = None if spec.utility == "exact-match" else utility_of(spec)

    def supports(
        self, questions: Sequence[Question], groups: Sequence[Sequence[Candidate]]
    ) -> list[tuple[np.ndarray, int]]:
        if self.utility is None:
            same = convention(self.spec.convention).equal
            return [(_equal([one.answer for one in group], same), 0) for group in groups]
        return [pairwise(self.utility, [one.text.strip() for one in group]) for group in groups]


def pairwise(utility: Utility, texts: Sequence[str]) -> tuple[np.ndarray, int]:
    """(n, n) utilities u(y_i, y_j); equal texts are compared once."""
    own = list(dict.fromkeys(texts))
    values, tokens = utility([one for one in own for _ in own], [other for _ in own for other in own])
    place = np.array([own.index(text) for text in texts])
    return values.reshape(len(own), len(own))[np.ix_(place, place)], tokens


def utility_of(spec: Spec) -> Utility:
    """A utility over pairs of texts."""
    metric = make_method("metric", {"bleu": "sentence-bleu"}.get(spec.utility, spec.utility)).build()
    if spec.utility == "bleu":
        return lambda texts, others: (metric(texts, others).sentences, 0)
    if spec.utility == "rouge":
        return lambda texts, others: (metric(texts, others).scores["rougeL"][:, 2], 0)
    from llmanac.evaluate.embed import Embedder

    assert spec.encoder is not None
    encoder = Embedder.load(spec.encoder)

    def bertscore(texts: Sequence[str], others: Sequence[str]) -> tuple[np.ndarray, int]:
        read = sum(map(len, encoder.tokens(list(dict.fromkeys([*texts, *others])))[0]))
        return metric(texts, others, encoder).scores[:, 2], read

    return bertscore


def _equal(answers: Sequence[str | None], same: Callable[[str, str], bool]) -> np.ndarray:
    """u(y_i, y_j): 1 where the answers are equal."""
    found = [
        [float(one is not None and other is not None and same(one, other)) for other in answers] for one in answers
    ]
    return np.array(found)
