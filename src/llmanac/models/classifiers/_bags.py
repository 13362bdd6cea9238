"""The base of bow, cbow and deep-cbow: a vocabulary, a network over bags of words, and its files.

Texts as lists of words, and the words that a classifier knows.

A word is a run of letters and digits in lower case; `n't` is a word of its own, so that "don't" and "do n't" are both
`do, n't`; so are 's, 're and the like, each run of punctuation, and each character of scripts without spaces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError, SpecError
from llmanac.core.types import BagOfWords
from llmanac.data.examples import Examples, batch_of
from llmanac.kernels.nn.embedding import bag
from llmanac.models.classifiers._base import Classifier, check_texts
from llmanac.models.classifiers._explain import Explanation, explain_linear
from llmanac.models.classifiers.load import WEIGHTS, read_tensors
from llmanac.models.layers import Embedding, Linear
from llmanac.models.lm import draw_parameters

LONGEST_WORD = 64  # characters; a longer one is cut, so that no vocabulary entry is as long as a file
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTER = f"[^\\W{_UNSPACED}]"
WORD = re.compile(rf"n't\b|{_LETTER}+?(?=n't\b)|{_LETTER}+|[{_UNSPACED}]|'(?:s|re|ve|ll|d|m)\b|[^\w\s]+")


def words_of(text: str) -> list[str]:
    """The words of a text, in order; see the module."""
    lower = text.lower().replace("’", "'")
    found = WORD.findall(lower)
    if len(lower) > LONGEST_WORD:
        return [word[:LONGEST_WORD] for word in found]
    return found


def with_ngrams(words: Sequence[str], longest: int) -> list[str]:
    """The words, then their pairs, and so on up to runs of `longest`, each joined by a blank."""
    out = list(words)
    for size in range(2, longest + 1):
        out += [" ".join(words[i : i + size]) for i in range(len(words) - size + 1)]
    return out


class WordVocabulary:
    """The words (or runs of words) that are features, each with its number; unknown ones are dropped.

    Attributes:
        words: by number, in alphabetical order.
        ngrams: the longest runs of words that count.
    """

    def __init__(self, words: Sequence[str], ngrams: int = 1) -> None:
        self.words, self.ngrams = list(words), ngrams
        self.numbers = {word: number for number, word in enumerate(self.words)}
        if len(self.numbers) != len(self.words):
            raise SpecError("vocabulary: a word appears twice")

    @classmethod
    def learn(
        cls, texts: Iterable[str], *, ngrams: int = 1, min_count: int = 1, most: int | None = None
    ) -> WordVocabulary:
        """The words of texts that occur at least `min_count` times; of these the `most` frequent.

        Raises:
            DataError: no word is left.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(with_ngrams(words_of(text), ngrams))
        kept = [word for word, count in counts.items() if count >= min_count]
        if not kept:
            raise DataError(
                f"texts: no word occurs {min_count} times or more; give more text, or lower min_count"
                if counts
                else "texts: they have no words"
            )
        if most is not None and len(kept) > most:
            kept = sorted(kept, key=lambda word: (-counts[word], word))[:most]
        return cls(sorted(kept), ngrams)

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's known words."""
        get = self.numbers.get
        found = (get(word) for word in with_ngrams(words_of(text), self.ngrams))
        return [number for number in found if number is not None]

    def examples(self, texts: Sequence[str], classes: Sequence[int] | np.ndarray | None = None) -> Examples:
        """Texts as token lists."""
        return Examples.of([self.encode(text) for text in texts], classes)


ROWS = 1024  # texts scored at a time
VOCABULARY = "vocabulary.json"

Loss = Literal["auto", "bce", "cross-entropy"]
Pool = Literal["sum", "mean"]


class BagNetwork(nn.Module):
    """word vectors, pooled, through hidden layers: (1, N) ids and lengths (B,) -> scores (B, K).

    x = pool_i E[w_i];   h_0 = x;   h_l = g(W_l h_(l-1) + b_l);   scores = W h_L + b

    Args:
        hidden: widths of the hidden layers; none for a linear model.
        activation: g; None for the identity.
        dropout: probability of leaving out a word of a text, and a hidden unit, in training.
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

    def forward(self, batch: BagOfWords) -> Tensor:
        """Scores (B, K)."""
        return self.scores(self.pooled(batch))

    def pooled(self, batch: BagOfWords) -> Tensor:
        """(B, D): each text's words, pooled; 0 for a text without known words."""
        ids, lengths = batch.ids, batch.lengths
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


class BagClassifier(Classifier):
    """A classifier over bags of words. A method says how its network is built, and how it is trained."""

    vocabulary: WordVocabulary

    def build_network(self, vocabulary: int, outputs: int) -> nn.Module:
        """The network for so many words and scores."""
        raise NotImplementedError

    def loss(self) -> str:
        """The method of the kind `loss` that trains it: bce for two labels unless the Spec says otherwise."""
        chosen: str = self.spec.loss
        return chosen if chosen != "auto" else "bce" if len(self.labels) == 2 else "cross-entropy"

    def outputs(self) -> int:
        """How many scores the network has: one for two labels under bce, else one a label."""
        return 1 if len(self.labels) == 2 and self.loss() == "bce" else len(self.labels)

    def prepare(self, texts: Sequence[str], labels: Sequence[str], seed: int) -> None:
        super().prepare(texts, labels, seed)
        spec = self.spec
        self.vocabulary = WordVocabulary.learn(texts, ngrams=spec.ngrams, min_count=spec.min_count, most=spec.max_words)
        self.network = self.build_network(len(self.vocabulary), self.outputs())
        draw_parameters(self.network, seed)

    def examples(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Examples:
        """Texts as the network reads them."""
        return self.vocabulary.examples(texts, self.classes(labels))

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

    def explain_sum(
        self, text: str, weights: Callable[[int], np.ndarray], bias: np.ndarray, *, mean: bool
    ) -> Explanation:
        """The exact explanation of scores that are sums, or the mean, over a text's known words.

        Args:
            weights: the (K,) weights of the word of a number. bias: (K,).
        """
        numbers = self.vocabulary.numbers
        words = with_ngrams(words_of(text), self.vocabulary.ngrams)
        scale = 1.0 / max(1, sum(word in numbers for word in words)) if mean else 1.0
        values = {word: count * scale for word, count in Counter(words).items()}

        def of(word: str) -> np.ndarray | None:
            return self.columns(weights(numbers[word])) if word in numbers else None

        return explain_linear(self, text, values, of, self.columns(bias))

    def word_vectors(self) -> np.ndarray:
        """(V, D) the rows of the embedding."""
        vectors: np.ndarray = self.network.embed.weight.detach().double().numpy()
        return vectors

    def nearest(self, word: str, most: int = 10) -> list[tuple[str, float]]:
        """The words of largest cosine with this one. Raises CheckpointError for a word that was never seen."""
        self.check_fitted()
        number = self.vocabulary.numbers.get(word.lower())
        if number is None:
            raise CheckpointError(f"{word!r}: is not one of the {len(self.vocabulary)} learned words")
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
        self.vocabulary = WordVocabulary([str(word) for word in words], int(record["ngrams"]))
        path = folder / WEIGHTS
        tensors = read_tensors(path)
        with torch.device("meta"):  # no memory before the sizes are known to fit
            self.network = self.build_network(len(words), self.outputs())
        try:
            self.network.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"{path}: does not fit this classifier ({str(error).splitlines()[-1].strip()})"
            ) from None
        self.network.eval()
