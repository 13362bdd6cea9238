"""BERTScore: how well each token of a text has a token in the reference that a model gives a similar vector.

    R = sum over reference tokens x of w(x) max over text tokens y of cos(h(x), h(y)) / sum of w(x)
    P = the same from the text's tokens        F = 2 P R / (P + R)        rescaled (b: a baseline): (s - b) / (1 - b)

h is the hidden state after `layer` blocks of an encoder, w is 1 (0 for special tokens) or the inverse document
frequency ln((N + 1) / (n + 1)) of a token that n of the N references hold. A text without a token scores 0. Of several
references the best P, R and F count, each by itself. Shapes: hidden states (T, D) of each text -> (S, 3).

It sees that other words mean the same, and depends on the model; a negation or another number changes it little.
Zhang et al. 2020, arXiv:1904.09675.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from llmanac.core.errors import SpecError
from llmanac.core.progress import progress
from llmanac.metrics import MetricSpec
from llmanac.metrics.statistics.corpus import Measured, mean_of, reference_lists

if TYPE_CHECKING:
    from torch import Tensor

CARD = {
    "title": "BERTScore",
    "paper": "Zhang et al. 2020, arXiv:1904.09675",
    "reference": "bert-score with the same model and layer",
    "aliases": {"bertscore-idf": {"weights": "idf"}},
}
PAIRS = 1024  # whose hidden states are held at a time


class TokenEncoder(Protocol):
    """What gives vectors of tokens, such as `evaluate.embed.Embedder`.

    Attributes:
        special: the ids that are put around every text.
    """

    @property
    def special(self) -> frozenset[int]: ...
    def tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """The ids of each text, special ones included, and the numbers of texts that were cut."""

    def hidden(self, rows: Sequence[Sequence[int]], layer: int | None = None) -> list[Tensor]:
        """(T, D) for each row of ids, after `layer` blocks."""


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """layer: blocks that are read, all by default; weights: "idf" weighs rare tokens more; baseline: b of P, R, F."""

    layer: int | None = None
    weights: Literal["uniform", "idf"] = "uniform"
    baseline: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.baseline) not in (0, 3) or not all(b < 1 for b in self.baseline):
            raise SpecError("baseline: give three numbers below 1, for precision, recall and F")

    def build(self, **dims: Any) -> Callable[..., BertScore]:
        return functools.partial(bertscore, spec=self)


@dataclass(frozen=True, eq=False)
class BertScore:
    """scores: (S, 3) precision, recall and F; cut: how many texts were longer than the model reads."""

    scores: np.ndarray
    cut: int
    signature: str

    def measured(self, name: Literal["precision", "recall", "f"] = "f") -> Measured:
        """The mean of one of them, with its interval."""
        column = ("precision", "recall", "f").index(name)
        return mean_of(self.scores[:, column], f"BERTScore {name.upper() if name == 'f' else name}", self.signature)


def bertscore(
    hypotheses: Sequence[str], references: Sequence[str | Sequence[str]], encoder: TokenEncoder,
    spec: Spec | None = None, **choices: Any,
) -> BertScore:  # fmt: skip
    """BERTScore of S texts against the references of each; `choices` are fields of the Spec.

    Every distinct text is read once, with others of like length.

    Raises:
        DataError: lists of different lengths, or a text without a reference; it names the row.
        SpecError: a layer that the encoder does not have.
    """
    spec = spec or Spec(**choices)
    lists = reference_lists(hypotheses, references)
    pairs = [(text.strip(), gold.strip()) for text, golds in zip(hypotheses, lists, strict=True) for gold in golds]
    names = list(dict.fromkeys(text for pair in pairs for text in pair))
    rows, cut = encoder.tokens(names)
    ids = dict(zip(names, rows, strict=True))
    special = encoder.special
    weigh = _weights([ids[gold] for _, gold in pairs], special, spec.weights)
    found: list[list[float]] = []
    with progress("bertscore", len(pairs), "pairs") as bar:
        for start in range(0, len(pairs), PAIRS):
            part = pairs[start : start + PAIRS]
            wanted = list(dict.fromkeys(text for pair in part for text in pair))
            states = [h / h.norm(dim=-1, keepdim=True) for h in encoder.hidden([ids[t] for t in wanted], spec.layer)]
            vectors = dict(zip(wanted, states, strict=True))
            for text, gold in part:
                cosines = vectors[text] @ vectors[gold].T
                sides = ((ids[text], cosines.amax(1)), (ids[gold], cosines.amax(0)))
                found.append(_scores([_mean(best, weigh(row), special, row) for row, best in sides]))
            bar.advance(len(part))
    each = np.array(found)
    ends = np.cumsum([len(golds) for golds in lists])
    scores = np.maximum.reduceat(each, np.concatenate([[0], ends[:-1]]), axis=0)
    if spec.baseline:
        base = np.array(spec.baseline)
        scores = (scores - base) / (1 - base)
    signature = f"layer:{'last' if spec.layer is None else spec.layer}|weights:{spec.weights}"
    return BertScore(scores, len(cut), signature + ("|rescaled" if spec.baseline else ""))


def _weights(
    references: Sequence[Sequence[int]], special: frozenset[int], weights: str
) -> Callable[[Sequence[int]], list[float]]:
    if weights == "uniform":
        return lambda row: [float(id not in special) for id in row]
    count: Counter[int] = Counter()
    for row in references:
        count.update(set(row))
    total = len(references) + 1
    return lambda row: [math.log(total / (count[id] + 1)) for id in row]


def _mean(best: Tensor, weights: list[float], special: frozenset[int], row: Sequence[int]) -> float:
    total = math.fsum(weights)
    if not total or special.issuperset(row):
        return 0.0
    return float(best.double() @ best.double().new_tensor(weights)) / total


def _scores(sides: list[float]) -> list[float]:
    precision, recall = sides
    both = precision + recall
    return [precision, recall, 2 * precision * recall / both if both else 0.0]
