"""Rules: features, scores and a decision, all written by hand.

    h = f(x)        s = w . h + b        label = g(s)

f counts the matches of the rules in a text, w is the weight of each match, g chooses. Each is visible and can be
replaced: `features(text)` returns h by name, `weight(feature)` and `weights` w, `decide(scores)` is g. Nothing is
learned, so no examples are needed, and a decision is explained by the rules that fired. Words that match no rule are
ignored.

The rules are one readable TOML file (`rulebooks/` has ours): words and phrases with weights, words that negate what
follows within a few words, and words that make it stronger or weaker.

    labels.negative = ["0", "neg"]            a label and its other names; of two labels a score above 0 is the second
    [[group]]  weight = 2.0   words = "brilliant superb \"laugh out loud\" delight*"
    [weights]  "waste of time" = -3.0         one by one
    [negation]  words = "not never" window = 3 factor = -0.7 stops = ". , but"
    [strength]  very = 1.5

With more than two labels each group and weight names its own: `label = "sport"`, `[weights.sport]`. A trailing *
matches any ending. With `extractor = "words"` f is every word's count, so that w can be any linear model's.

Papers: Taboada et al. 2011, "Lexicon-Based Methods for Sentiment Analysis" (https://aclanthology.org/J11-2001).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError, SpecError
from llmanac.models.classifiers import ClassifierSpec
from llmanac.models.classifiers._bags import words_of
from llmanac.models.classifiers._base import Classifier, check_texts
from llmanac.models.classifiers._explain import Explanation, explain_linear
from llmanac.models.classifiers._rulebook import Rulebook

CARD = {
    "title": "Rule-based classifier: features, scores, decision",
    "paper": "Taboada et al. 2011",
    "reference": "scikit-learn's decision_function, with its coef_ as w",
}

Features = Callable[[str], Mapping[str, float]]
Decision = Callable[[np.ndarray], str]


@dataclass(frozen=True, kw_only=True)
class Spec(ClassifierSpec):
    """Choices of the rules.

    Attributes:
        rules: the name of a rulebook that comes with the package, or the path of a TOML file.
        extractor: "lexicon" finds the rulebook's words with what negates and strengthens them; "words" counts words.
        pattern: the regular expression of a word for extractor = "words"; None for this package's words.
    """

    renamed: ClassVar[Mapping[str, str]] = {"find": "extractor"}

    rules: str = "english-sentiment"
    extractor: Literal["lexicon", "words"] = "lexicon"
    pattern: str | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise SpecError(f"pattern: {self.pattern!r} is not a regular expression ({error})") from None

    def build(
        self,
        *args: Any,
        features: Features | None = None,
        weights: Mapping[str, float] | None = None,
        bias: float | None = None,
        labels: Sequence[str] | None = None,
        decide: Decision | None = None,
        **dims: Any,
    ) -> Rules:
        """The classifier.

        Args:
            features, decide: functions that replace f and g.
            weights, bias, labels: w and b to use instead of a rulebook (for two labels, those of the second).
        """
        if weights is None:
            return Rules(self, Rulebook.read(self.rules), features, decide)
        names = ("negative", "positive") if labels is None else tuple(map(str, labels))
        return Rules(self, Rulebook.of_weights(names, weights, bias or 0.0), features, decide)


class Rules(Classifier):
    """See the module.

    Attributes:
        book: the rules. The labels it answers with may be other names of the book's, see `fit`.
    """

    learned = False

    def __init__(
        self, spec: Spec, book: Rulebook, features: Features | None = None, decide: Decision | None = None
    ) -> None:
        super().__init__(spec)
        self.book = book
        self.labels = book.labels
        self._features, self._decide = features, decide
        self._pattern = re.compile(spec.pattern) if spec.pattern else None

    @property
    def weights(self) -> dict[str, float] | dict[str, tuple[float, ...]]:
        """w: each feature's weight for the second of two labels, or for each of more."""
        if len(self.labels) == 2:
            return {name: values[0] for name, values in self.book.weights.items()}
        return dict(self.book.weights)

    def features(self, text: str) -> Mapping[str, float]:
        """h = f(x), by name."""
        if self._features is not None:
            return self._features(text)
        if self.spec.extractor == "lexicon":
            return self.book.find(words_of(text))
        found: dict[str, float] = {}
        words = words_of(text) if self._pattern is None else self._pattern.findall(text.lower())
        for word in words:
            found[word] = found.get(word, 0.0) + 1.0
        return found

    def weight(self, feature: str) -> tuple[float, ...]:
        """A feature's weight, one number for two labels, else one per label; 0 for an unknown feature."""
        return self.book.weight(feature)

    def score(self, features: Mapping[str, float]) -> np.ndarray:
        """s = w . h + b: (1,) for two labels, else (C,). Terms are added in the order of w, the bias last."""
        order = self.book.order
        total = [0.0] * len(self.book.bias)
        for name in sorted(features, key=lambda n: order.get(n, len(order))):
            value = features[name]
            for k, weight in enumerate(self.weight(name)):
                total[k] += value * weight
        return np.array([t + b for t, b in zip(total, self.book.bias, strict=True)])

    def decide(self, scores: np.ndarray) -> str:
        """g(s): of two labels the second where s > 0; else the label of the highest score."""
        if self._decide is not None:
            return self._decide(scores)
        if len(scores) == 1:
            return self.labels[int(scores[0] > 0)]
        return self.labels[int(scores.argmax())]

    def prepare(self, texts: Sequence[str], labels: Sequence[str], seed: int) -> None:
        """Nothing is learned: only which names the labels go by here.

        Raises:
            DataError: a label that the rulebook does not know.
        """
        self.labels = self.book.names_for(sorted(set(labels)))

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """(N, C); for two labels the columns are 0 and s."""
        out = np.zeros((len(texts), len(self.labels)))
        for row, text in zip(out, check_texts(texts), strict=True):
            found = self.score(self.features(text))
            row[-len(found) :] = found
        return out

    def predict(self, texts: Sequence[str]) -> list[str]:
        return [self.decide(self.score(self.features(text))) for text in check_texts(texts)]

    def explain(self, text: str) -> Explanation:
        """Exact: the rules that fired, each with its count and its weight."""
        found = self.features(text)
        label = self.decide(self.score(found))
        best = self.labels.index(label) if label in self.labels else None
        bias = self.columns(self.book.bias)
        explanation = explain_linear(self, text, found, lambda name: self.columns(self.weight(name)), bias, best)
        parts = [part for part in explanation.parts if part.weight]
        return replace(explanation, parts=parts, notes=[] if parts else ["no rule fired"])

    def write(self, folder: Path) -> dict[str, Any]:
        """Write rules.toml.

        Raises:
            CheckpointError: with features or decide given as functions, which are code.
        """
        if self._features is not None or self._decide is not None:
            raise CheckpointError(
                "rules: features and decide that were given as functions cannot be saved; save without them, and give "
                "them again when you build it"
            )
        files.write_text(folder / "rules.toml", self.book.to_toml())
        return {}

    def read(self, folder: Path, record: Mapping[str, Any]) -> None:
        try:
            self.book = Rulebook.read(str(folder / "rules.toml"))
        except DataError as error:
            raise CheckpointError(str(error)) from error
        if len(self.labels) != len(self.book.labels):
            raise CheckpointError(
                f"{folder / 'rules.toml'}: has {len(self.book.labels)} labels, not {len(self.labels)}"
            )
