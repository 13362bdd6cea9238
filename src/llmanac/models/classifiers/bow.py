"""Bag of words: every word has a weight for every label; a text's scores are the sums over its words.

    h = counts of the words (V,)        s = h W + b        W (V, K), b (K,)        label = argmax s

K is 1 for two labels (the score is that of the second; this is logistic regression), else one per label. The order of
words is lost, and each weight is learned from that word's own occurrences alone: what is learned about "great" does
not carry over to "superb". `ngrams = 2` counts pairs of words as further features ("not good").

Trained with a penalty l2 / 2 |W|^2, l2 = 1 / (C N) over N examples, so that its optimum is the one of scikit-learn's
LogisticRegression(C) over the same features; C is `inverse_regularization`.

Papers: Cox 1958; McCallum & Nigam 1998 for words as events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
from llmanac.core.types import BagOfWords
from llmanac.kernels.nn.embedding import bag
from llmanac.models.classifiers import ClassifierSpec
from llmanac.models.classifiers._bags import BagClassifier, Loss
from llmanac.models.classifiers._base import Training
from llmanac.models.classifiers._explain import Explanation
from llmanac.models.layers import init_normal

CARD = {
    "title": "Bag-of-words classifier",
    "paper": "Cox 1958; McCallum & Nigam 1998",
    "reference": "scikit-learn's CountVectorizer and LogisticRegression",
}


@dataclass(frozen=True, kw_only=True)
class Spec(ClassifierSpec):
    """Choices of the bag of words.

    Attributes:
        ngrams: the longest runs of words that are features. min_count: how often a feature must occur in training.
        max_words: how many features there may be. loss: a method of the kind `loss`; "auto" is bce for two
            labels, else cross-entropy.
        inverse_regularization: the inverse of the penalty, scikit-learn's C; 0 for no penalty.
        epochs, batch, lr: of training. A batch of None is all examples, up to 8192.
    """

    renamed: ClassVar[Mapping[str, str]] = {"strength": "inverse_regularization"}

    ngrams: int = 1
    min_count: int = 1
    max_words: int | None = None
    loss: Loss = "auto"
    inverse_regularization: float = 1.0
    epochs: int = 200
    batch: int | None = None
    lr: float = 0.1

    ranges = within(COUNT, "ngrams min_count max_words epochs batch") | within(NOT_NEGATIVE, "inverse_regularization")

    def build(self, *args: Any, **dims: Any) -> BagOfWordsClassifier:
        """A classifier that has seen no example yet."""
        return BagOfWordsClassifier(self)


class WordWeights(nn.Module):
    """(1, N) ids and lengths (B,) -> scores (B, K): the sums of the words' weights, and a bias."""

    def __init__(self, vocabulary: int, outputs: int) -> None:
        super().__init__()
        self.vocab_size = vocabulary
        self.weight = nn.Parameter(torch.empty(vocabulary, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    @property
    def penalised(self) -> list[Tensor]:
        """The weights, not the bias."""
        return [self.weight]

    def forward(self, batch: BagOfWords) -> Tensor:
        """Scores (B, K)."""
        return bag(batch.ids, batch.lengths, self.weight) + self.bias

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Everything starts at 0: the loss is convex, so the start does not matter."""
        init_normal(parameter, 0.0, generator)


class BagOfWordsClassifier(BagClassifier):
    """See the module."""

    def build_network(self, vocabulary: int, outputs: int) -> WordWeights:
        return WordWeights(vocabulary, outputs)

    def training(self, examples: int) -> Training:
        spec = self.spec
        l2 = 1.0 / (spec.inverse_regularization * examples) if spec.inverse_regularization else 0.0
        return Training(loss=self.loss(), epochs=spec.epochs, lr=spec.lr, batch=spec.batch, l2=l2)

    def explain(self, text: str) -> Explanation:
        """Exact: a word's part is its count times its weight."""
        self.check_fitted()
        weight, bias = (p.detach().double().numpy() for p in (self.network.weight, self.network.bias))
        return self.explain_sum(text, weight.__getitem__, bias, mean=False)
