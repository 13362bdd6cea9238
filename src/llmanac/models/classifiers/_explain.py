"""Why a text gets its label: what each of its features adds to the decision."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

LONGEST_EXPLAINED = 1000  # words of a text that an explanation by leaving out looks at
MOST_LEFT_OUT = 200  # different words that it leaves out, one by one


@dataclass(frozen=True)
class FeatureEffect:
    """One feature of a decision: its `value`, its `weight`, and `effect`, their product, which it adds to the score."""

    feature: str
    value: float
    weight: float
    effect: float


@dataclass(frozen=True)
class Explanation:
    """Why a text gets its label.

    Attributes:
        label: the label chosen; `against`: the label it is compared with, the next best.
        scores: every label's score.
        parts: what each feature adds to score(label) - score(against), largest effect first.
        exact: whether `rest` and the effects add up to that difference; else each effect is what leaving the feature
            out changes.
        rest: what no feature adds (biases).
    """

    text: str
    label: str
    against: str
    scores: Mapping[str, float]
    parts: Sequence[FeatureEffect]
    exact: bool
    rest: float = 0.0
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def margin(self) -> float:
        """score(label) - score(against)."""
        return self.scores[self.label] - self.scores[self.against]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def lines(self, most: int = 12) -> list[str]:
        """The explanation for a terminal."""
        shown = self.text if len(self.text) <= 200 else self.text[:200] + " ..."
        out = [f"text   {shown}", f"label  {self.label}   (against {self.against}: ahead by {self.margin:.4g})"]
        width = max((len(part.feature) for part in self.parts[:most]), default=0)
        for part in self.parts[:most]:
            sign = "for" if part.effect >= 0 else "against"
            made = f"  = {part.value:g} x {part.weight:+.4g}" if self.exact else ""
            out.append(f"  {part.feature:<{width}}  {part.effect:+.4g}{made}   {sign} {self.label}")
        if len(self.parts) > most:
            others = math.fsum(part.effect for part in self.parts[most:])
            out.append(f"  {len(self.parts) - most} more features: {others:+.4g} together")
        if self.exact:
            out.append(f"  no feature: {self.rest:+.4g}")
        else:
            out.append("  each number is what leaving the word out takes away; they need not add up")
        return out + [f"  {note}" for note in self.notes]


def explain_linear(
    classifier: Any,
    text: str,
    values: Mapping[str, float],
    weights: Callable[[str], np.ndarray | None],
    biases: np.ndarray,
    best: int | None = None,
) -> Explanation:
    """An exact explanation of scores that are weighted sums of features.

    Args:
        values: the text's features with their values.
        weights: a feature's weight for each label (C,), or None for an unknown one.
        biases: (C,) the scores of a text without features.
        best: the number of the label chosen; the one of the highest score by default.
    """
    scores = classifier.scores([text])[0]
    best, other = classifier.against(scores, best)
    found = {name: weights(name) for name in values}
    parts = []
    for name, own in found.items():
        if own is not None:
            weight = float(own[best] - own[other])
            parts.append(FeatureEffect(name, values[name], weight, values[name] * weight))
    unknown = len(found) - len(parts)
    notes = [f"{unknown} words were never seen in training and count nothing"] if unknown else []
    rest = float(biases[best] - biases[other])
    return _explanation(classifier, text, scores, (best, other), parts, exact=True, rest=rest, notes=notes)


def explain_by_leaving_out(classifier: Any, text: str, words: Sequence[str]) -> Explanation:
    """What each word adds, as the change of the margin when all its occurrences are left out.

    Args:
        words: the text's words; the text without one of them is the others joined by blanks, and so is the text it is
            compared with.
    """
    scores = classifier.scores([text])[0]
    best, other = classifier.against(scores)
    notes = [f"only the first {LONGEST_EXPLAINED} words were looked at"] if len(words) > LONGEST_EXPLAINED else []
    words = words[:LONGEST_EXPLAINED]
    counts = Counter(words)
    distinct = list(counts)[:MOST_LEFT_OUT]
    parts = []
    if distinct:
        without = (" ".join(word for word in words if word != left) for left in distinct)
        found = classifier.scores([" ".join(words), *without])
        margins = found[:, best] - found[:, other]
        effects = margins[0] - margins[1:]
        parts = [
            FeatureEffect(w, counts[w], float(e) / counts[w], float(e)) for w, e in zip(distinct, effects, strict=True)
        ]
    if len(counts) > MOST_LEFT_OUT:
        notes.append(f"only the first {MOST_LEFT_OUT} different words were left out in turn")
    return _explanation(classifier, text, scores, (best, other), parts, exact=False, rest=0.0, notes=notes)


def _explanation(
    classifier: Any, text: str, scores: np.ndarray, pair: tuple[int, int], parts: list[FeatureEffect], **more: Any
) -> Explanation:
    names = classifier.labels
    named = dict(zip(names, map(float, scores), strict=True))
    parts = sorted(parts, key=lambda part: -abs(part.effect))
    return Explanation(text, names[pair[0]], names[pair[1]], named, parts, **more)
