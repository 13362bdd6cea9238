"""Deep continuous bag of words: hidden layers over the mean of the word vectors.

    x = 1/n sum_i E[w_i]     h_1 = g(W_1 x + b_1) ... h_L = g(W_L h_(L-1) + b_L)     s = W h_L + b

g is not linear, so a hidden unit can represent a combination ("don't" and "love" together) and what a word adds
depends on the others. Without g the layers are one matrix, W W_L ... W_1, and the model is cbow: see `collapsed`.

Paper: Iyyer et al. 2015, "Deep Unordered Composition Rivals Syntactic Methods" (https://aclanthology.org/P15-1162).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import torch

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.models.classifiers import cbow
from llmanac.models.classifiers._bags import BagNetwork, words_of
from llmanac.models.classifiers._explain import Explanation, explain_by_leaving_out

CARD = {
    "title": "Deep continuous bag of words",
    "paper": "Iyyer et al. 2015",
    "reference": "cbow, which it equals without the nonlinearity; a set that no linear model solves",
}

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "none": None}


@dataclass(frozen=True, kw_only=True)
class Spec(cbow.Spec):
    """As for cbow, and:

    Attributes:
        hidden: widths of the hidden layers. activation: g; "none" leaves a linear model.
    """

    hidden: tuple[int, ...] = (64,)
    activation: Literal["relu", "tanh", "none"] = "relu"

    ranges = within(COUNT, "hidden")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden:
            raise SpecError("hidden: must be one or more widths; without any it is cbow")

    def build(self, *args: Any, **dims: Any) -> DeepBagOfWords:
        """A classifier that has seen no example yet."""
        return DeepBagOfWords(self)


class DeepBagOfWords(cbow.ContinuousBagOfWords):
    """See the module."""

    def build_network(self, vocabulary: int, outputs: int) -> BagNetwork:
        spec = self.spec
        return BagNetwork(
            vocabulary, spec.dim, outputs, pool=spec.pool, hidden=spec.hidden,
            activation=ACTIVATIONS[spec.activation], dropout=spec.dropout,
        )  # fmt: skip

    def explain(self, text: str) -> Explanation:
        """What each word adds depends on the others, so each is left out in turn."""
        self.check_fitted()
        return explain_by_leaving_out(self, text, words_of(text))

    @torch.no_grad()
    def collapsed(self) -> cbow.ContinuousBagOfWords:
        """The equivalent cbow where `activation` is "none": its layers multiplied into one matrix.

        Raises:
            SpecError: with a nonlinearity the layers are no single matrix.
        """
        spec = self.spec
        if spec.activation != "none":
            raise SpecError(
                f"activation: with {spec.activation} the layers are not one matrix; only none can be collapsed"
            )
        self.check_fitted()
        linear = cbow.Spec(**{field.name: getattr(spec, field.name) for field in fields(cbow.Spec)}).build()
        linear.labels, linear.vocabulary = self.labels, self.vocabulary
        network: Any = linear.build_network(len(self.vocabulary), self.outputs()).to(self.network.head.weight.dtype)
        weight, bias = self.network.head.weight, self.network.head.bias
        for layer in reversed(self.network.hidden):
            weight, bias = weight @ layer.weight, bias + weight @ layer.bias
        network.embed.weight.copy_(self.network.embed.weight)
        network.head.weight.copy_(weight)
        network.head.bias.copy_(bias)
        linear.network = network
        return linear
