"""What bow, cbow and deep-cbow share: a vocabulary, a network over bags of words, weights on disk, explanations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llmanac.core import files
from llmanac.core.errors import CheckpointError, SpecError
from llmanac.core.rng import parameter_generator
from llmanac.core.types import Batch
from llmanac.data.examples import Examples, batch_of
from llmanac.kernels.nn.embedding import bag
from llmanac.models._layers import Embedding, Linear
from llmanac.models.classifiers._base import WEIGHTS, Classifier, Explanation, Part, check_texts
from llmanac.models.classifiers._words import Vocabulary, with_ngrams, words_of
from llmanac.models.classifiers.load import read_tensors

ROWS = 1024  # texts scored at a time
LONGEST_EXPLAINED = 1000  # words of a text that an explanation by leaving out looks at
MOST_LEFT_OUT = 200  # different words that it leaves out, one by one
VOCABULARY = "vocabulary.json"


Loss = Literal["auto", "bce", "cross-entropy"]
Pool = Literal["sum", "mean"]


def check_choices(spec: Any, *names: str) -> None:
    """Raise SpecError for the first of these fields that is set and below 1."""
    for name in names:
        value = getattr(spec, name)
        if value is not None and value < 1:
            raise SpecError(f"{name}: {value} is not at least 1")


def check_dropout(share: float) -> None:
    """Raise SpecError for a share outside [0, 1)."""
    if not 0 <= share < 1:
        raise SpecError(f"dropout: {share} is not in [0, 1)")


class BagNetwork(nn.Module):
    """word vectors, pooled, through hidden layers: (1, N) ids and lengths (B,) -> scores (B, K).

    x = pool_i E[w_i];   h_0 = x;   h_l = g(W_l h_(l-1) + b_l);   scores = W h_L + b

    Args:
        hidden: widths of the hidden layers; none for a linear model.
        activation: g; None for the identity.
        dropout: share of the words left out of each text, and of each hidden number, while training.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        outputs: int,
        *,
        pool: Pool,
        hidden: Sequence[int] = (),
        activation: Callable[[Tensor], Tensor] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.vocab_size, self.pool, self.activation, self.dropout = vocabulary, pool, activation, dropout
        self.embed = Embedding(vocabulary, dim, std=0.1)
        widths = [dim, *hidden]
        self.hidden = nn.ModuleList(Linear(a, b, bias=True) for a, b in pairwise(widths))
        self.head = Linear(widths[-1], outputs, bias=True)

    def forward(self, batch: Batch) -> Tensor:
        """Scores (B, K)."""
        return self.scores(self.pooled(batch))

    def pooled(self, batch: Batch) -> Tensor:
        """(B, D): each text's words, pooled; 0 for a text without known words."""
        ids, lengths = batch.ids[0], batch.lengths
        assert lengths is not None
        if self.training and self.dropout:
            kept = torch.rand(len(ids)) >= self.dropout
            rows = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
            lengths = torch.zeros_like(lengths).index_add(0, rows, kept.long())
            ids = ids[kept]
        return bag(ids, lengths, self.embed.weight, self.pool)

    def scores(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, K)."""
        for layer in self.hidden:
            x = layer(x)
            x = x if self.activation is None else self.activation(x)
            x = nn.functional.dropout(x, self.dropout, self.training)
        out: Tensor = self.head(x)
        return out


def initialise(network: nn.Module, seed: int) -> None:
    """Draw every parameter from a stream named by (seed, its name, its shape)."""
    for name, parameter in network.named_parameters():
        owner, _, own = name.rpartition(".")
        module: Any = network.get_submodule(owner)
        module.init_parameter(own, parameter, parameter_generator(seed, name, tuple(parameter.shape)))


class BagClassifier(Classifier):
    """A classifier over bags of words. A method says how its network is built, and how it is trained."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self.vocabulary: Vocabulary
        self._network: Any = None

    @property
    def network(self) -> Any:
        return self._network

    def build_network(self, vocabulary: int, outputs: int) -> nn.Module:
        """The network for so many words and scores."""
        raise NotImplementedError

    def loss(self) -> str:
        """The method of the kind `loss` that trains it: bce for two labels unless the Spec says otherwise."""
        asked: str = getattr(self.spec, "loss", "auto")
        return asked if asked != "auto" else "bce" if len(self.labels) == 2 else "cross-entropy"

    def outputs(self) -> int:
        """How many scores the network has: one for two labels under bce, else one a label."""
        return 1 if len(self.labels) == 2 and self.loss() == "bce" else len(self.labels)

    def prepare(self, texts: Sequence[str], labels: Sequence[str], seed: int) -> None:
        super().prepare(texts, labels, seed)
        spec: Any = self.spec
        self.vocabulary = Vocabulary.learn(
            texts, ngrams=getattr(spec, "ngrams", 1), min_count=spec.min_count, most=spec.max_words
        )
        self._network = self.build_network(len(self.vocabulary), self.outputs())
        initialise(self._network, seed)

    def examples(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Examples:
        """Texts as the network reads them."""
        numbers = {name: i for i, name in enumerate(self.labels)}
        return self.vocabulary.examples(texts, None if labels is None else [numbers[name] for name in labels])

    @torch.no_grad()
    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """(N, C) float64; with one score for two labels the columns are 0 and that score."""
        self.check_fitted()
        checked = check_texts(texts)
        network = self.network.eval()
        out = np.zeros((len(checked), len(self.labels)))
        for first in range(0, len(checked), ROWS):
            found = network(batch_of(self.examples(checked[first : first + ROWS]), "bag")).double().numpy()
            out[first : first + ROWS, -found.shape[1] :] = found
        return out

    def columns(self, values: np.ndarray) -> np.ndarray:
        """(K,) -> (C,): a single score for two labels speaks for the second, the first has 0."""
        return values if len(values) == len(self.labels) else np.array([0.0, values[0]])

    def word_vectors(self) -> np.ndarray:
        """(V, D) the rows of the embedding."""
        vectors: np.ndarray = self.network.embed.weight.detach().double().numpy()
        return vectors

    def nearest(self, word: str, most: int = 10) -> list[tuple[str, float]]:
        """The words of largest cosine with this one. Raises CheckpointError for a word that was never seen."""
        self.check_fitted()
        number = self.vocabulary.numbers.get(word.lower())
        if number is None:
            raise CheckpointError(f"{word!r}: is not one of the {len(self.vocabulary)} words that were learned")
        vectors = self.word_vectors()
        lengths = np.linalg.norm(vectors, axis=1)
        cosines = vectors @ vectors[number] / np.maximum(lengths * lengths[number], 1e-300)
        cosines[number] = -np.inf
        best = np.argsort(-cosines, kind="stable")[: min(most, len(cosines) - 1)]
        return [(self.vocabulary.words[i], float(cosines[i])) for i in best]

    def write(self, folder: Path) -> dict[str, Any]:
        save_file({k: v.contiguous() for k, v in self.network.state_dict().items()}, folder / WEIGHTS)
        files.write_json(folder / VOCABULARY, self.vocabulary.words, indent=0)
        return {"ngrams": self.vocabulary.ngrams, "words": len(self.vocabulary)}

    def read(self, folder: Path, record: Mapping[str, Any]) -> None:
        words = files.read_json(folder / VOCABULARY)
        if not isinstance(words, list) or len(words) != record["words"]:
            raise CheckpointError(
                f"{folder / VOCABULARY}: does not have the {record['words']} words of {record['labels']}"
            )
        self.vocabulary = Vocabulary([str(word) for word in words], int(record["ngrams"]))
        path = folder / WEIGHTS
        tensors = read_tensors(path)
        with torch.device("meta"):  # no memory before the sizes are known to fit
            self._network = self.build_network(len(words), self.outputs())
        try:
            self._network.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"{path}: does not fit this classifier ({str(error).splitlines()[-1].strip()})"
            ) from None
        self._network.eval()


def explain_linear(
    classifier: Classifier,
    text: str,
    weights: Callable[[str], np.ndarray | None],
    words: Sequence[str],
    share: float,
    biases: np.ndarray,
) -> Explanation:
    """An exact explanation of scores that are sums over words.

    Args:
        weights: a word's part in each score (C,), or None for an unknown word.
        share: what each occurrence counts: 1 for a sum, 1 / words for a mean.
        biases: (C,) what the scores are without any word.
    """
    scores = classifier.scores([text])[0]
    best, other = classifier.against(scores)
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    parts = []
    unknown = 0
    for word, count in counts.items():
        found = weights(word)
        if found is None:
            unknown += 1
            continue
        weight = float(found[best] - found[other])
        parts.append(Part(word, count * share, weight, count * share * weight))
    parts.sort(key=lambda part: -abs(part.effect))
    notes = [f"{unknown} words were never seen in training and count nothing"] if unknown else []
    names = classifier.labels
    return Explanation(
        text, names[best], names[other], dict(zip(names, map(float, scores), strict=True)), parts, True,
        float(biases[best] - biases[other]), notes,
    )  # fmt: skip


def explain_by_leaving_out(classifier: Classifier, text: str, pieces: Sequence[str], join: str = " ") -> Explanation:
    """What each word adds, as the change of the margin when all its occurrences are left out.

    Args:
        pieces: the text's words; the text without one of them is the others joined, and so is the text it is
            compared with.
    """
    scores = classifier.scores([text])[0]
    best, other = classifier.against(scores)
    notes = [f"only the first {LONGEST_EXPLAINED} words were looked at"] if len(pieces) > LONGEST_EXPLAINED else []
    pieces = pieces[:LONGEST_EXPLAINED]
    counts = Counter(pieces)
    distinct = list(counts)[:MOST_LEFT_OUT]
    parts = []
    if distinct:
        without = (join.join(piece for piece in pieces if piece != word) for word in distinct)
        found = classifier.scores([join.join(pieces), *without])
        margins = found[:, best] - found[:, other]
        effects = margins[0] - margins[1:]
        parts = [Part(w, counts[w], float(e) / counts[w], float(e)) for w, e in zip(distinct, effects, strict=True)]
        parts.sort(key=lambda part: -abs(part.effect))
    if len(counts) > MOST_LEFT_OUT:
        notes.append(f"only the first {MOST_LEFT_OUT} different words were left out in turn")
    names = classifier.labels
    return Explanation(
        text, names[best], names[other], dict(zip(names, map(float, scores), strict=True)), parts, False, 0.0, notes
    )


def features_of(text: str, vocabulary: Vocabulary) -> list[str]:
    """A text's words and runs of words as the vocabulary counts them, known or not."""
    return with_ngrams(words_of(text), vocabulary.ngrams)
