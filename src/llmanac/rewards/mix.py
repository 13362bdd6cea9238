"""Several rewards as one: a weighted sum, or a product in which one part is worth nothing without the others.

    sum       r = sum_i w_i r_i
    product   r = prod_i r_i^(w_i)          (parts clipped to at least 0)

A sum can be raised by the part that is easiest to fool. In a product a format reward of 0 makes the answer worth 0, so
that a hack of one part alone earns nothing. Every part is in the log under its name.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.rewards import Reward, RewardScore, RewardSpec, Sample, checked

CARD = {
    "title": "Combined rewards",
    "paper": "https://arxiv.org/abs/2501.12948",
    "reference": "the formula",
    "test": "tests/references/test_rewards.py::test_combinations",
    "aliases": {"gated": {"form": "product"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(RewardSpec):
    """Attributes: parts: the rewards; weights: one a part, 1 each where left out; form: sum or product."""

    parts: tuple[RewardSpec, ...] = field(default_factory=lambda: (make_method("reward", "exact-match"),))
    weights: tuple[float, ...] = ()
    form: Literal["sum", "product"] = "sum"

    def __post_init__(self) -> None:
        if not self.parts:
            raise SpecError("parts: needs at least one reward")
        if self.weights and len(self.weights) != len(self.parts):
            raise SpecError(f"weights: {len(self.weights)} for {len(self.parts)} parts")
        if self.form == "product" and any(w < 0 for w in self.weights):
            raise SpecError("weights: of a product must be at least 0")

    def build(self, **context: Any) -> Reward:
        built = [part.build(**context) for part in self.parts]
        weights = self.weights or (1.0,) * len(built)
        names = [part.name for part in self.parts]
        labels = [n if names.count(n) == 1 else f"{n}-{i + 1}" for i, n in enumerate(names)]

        def reward(samples: Sequence[Sample]) -> list[RewardScore]:
            found = [_combined(self.form, labels, weights, s) for s in zip(*(p(samples) for p in built), strict=True)]
            for score, sample in zip(found, samples, strict=True):
                checked(score.value, sample, f"{self.form} of {', '.join(labels)}")
            return found

        return reward


def _combined(form: str, labels: Sequence[str], weights: Sequence[float], scores: Sequence[RewardScore]) -> RewardScore:
    value = 0.0 if form == "sum" else 1.0
    parts: dict[str, float] = {}
    for label, weight, score in zip(labels, weights, scores, strict=True):
        try:
            value = value + weight * score.value if form == "sum" else value * max(0.0, score.value) ** weight
        except OverflowError:
            value = math.inf
        parts[label] = score.value
        parts |= {f"{label}.{name}": part for name, part in score.parts.items()}
    return RewardScore(value, parts, sum(score.tokens for score in scores))
