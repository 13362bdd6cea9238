"""Continuous bag of words: every word is a vector, a text the mean of its words' vectors, scores a linear map of that.

    x = 1/n sum_i E[w_i]        s = x W + b          E (V, D), W (D, K)          label = argmax s

    for a loss with slope r = dL/ds:    dL/dW = x r^T    dL/db = r    dL/dE[v] = (count of v / n) W r

Words of texts with the same labels get similar vectors, since all of them are pulled along W. The scores are still a
sum over words, so a word adds the same in any context: E W is a table of weights like that of a bag of words (of rank
D at most), learned in another way. `pool = "sum"` takes the sum instead of the mean.

The name is older than its use here: Mikolov et al. 2013 (https://arxiv.org/abs/1301.3781), section 3.1, predicted a
word from the mean of its neighbours' vectors; for labels, Iyyer et al. 2015 (https://aclanthology.org/P15-1162).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmanac.core.ranges import COUNT, PART, within
from llmanac.models.classifiers import ClassifierSpec
from llmanac.models.classifiers._bags import BagClassifier, BagNetwork, Loss, Pool
from llmanac.models.classifiers._base import Training
from llmanac.models.classifiers._explain import Explanation

CARD = {
    "title": "Continuous bag of words",
    "paper": "Iyyer et al. 2015; Mikolov et al. 2013, arXiv:1301.3781",
    "reference": "gradients derived by hand; a linear model over the mean of one-hot vectors",
}
LEAST_STEPS = 300


@dataclass(frozen=True, kw_only=True)
class Spec(ClassifierSpec):
    """Choices of the continuous bag of words.

    Attributes:
        dim: D. pool: how a text's vectors become one. dropout: probability of leaving out a word in training.
        min_count: how often a word must occur in training. max_words: how many words there may be.
        loss: as for bow. epochs, batch, lr, weight_decay: of training; decay is of the vectors too.
    """

    dim: int = 64
    pool: Pool = "mean"
    dropout: float = 0.3
    min_count: int = 1
    max_words: int | None = None
    loss: Loss = "auto"
    epochs: int = 6
    batch: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.1

    ranges = within(COUNT, "dim min_count max_words epochs batch") | within(PART, "dropout")

    def build(self, *args: Any, **dims: Any) -> ContinuousBagOfWords:
        """A classifier that has seen no example yet."""
        return ContinuousBagOfWords(self)


class ContinuousBagOfWords(BagClassifier):
    """See the module."""

    def build_network(self, vocabulary: int, outputs: int) -> BagNetwork:
        spec = self.spec
        return BagNetwork(vocabulary, spec.dim, outputs, pool=spec.pool, dropout=spec.dropout)

    def training(self, examples: int) -> Training:
        spec = self.spec
        return Training(
            loss=self.loss(), epochs=spec.epochs, lr=spec.lr, batch=spec.batch, weight_decay=spec.weight_decay,
            least_steps=LEAST_STEPS,
        )  # fmt: skip

    def explain(self, text: str) -> Explanation:
        """Exact: a word's part is its fraction of the text times E[w] W."""
        self.check_fitted()
        head, bias = (p.detach().double().numpy() for p in (self.network.head.weight, self.network.head.bias))
        vectors = self.word_vectors()
        return self.explain_sum(text, lambda n: head @ vectors[n], bias, mean=self.network.pool == "mean")
