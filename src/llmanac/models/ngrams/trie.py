"""The trie of a back-off model: every n-gram once, in five flat arrays that can be mapped from a file.

Nodes are numbered level by level: node i < V is token i, then all bigrams sorted by (context, token), and so on. The
children of node i are first[i] .. first[i + 1] - 1, since both levels are sorted; a node is the n-gram on its path.

    log10 p(w | h) = logs[hw]                        where hw is a node
                   = weights[h] + log10 p(w | h')    else; h' is h without its first token, a missing weight is 0

Where `uniform` is set the model does not back off: a token never seen after a context has 1/V of the context's weight.
A bigram costs 16 bytes below the highest order and 8 at it. Katz 1987; the layout is that of Pauls and Klein 2011.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmanac.kernels.ngrams import count as ngram_count
from llmanac.kernels.ngrams import query as ngram_query

MAX_ORDER = 20
MAX_NODES = 2**31 - 1  # nodes are numbered in 32 bits


@dataclass(frozen=True)
class Trie:
    """See the module.

    Attributes:
        starts: (order + 1,) the first node of each level, and the number of nodes.
        words: (nodes,) int32 token of each node. logs: (nodes,) float32 log10 p.
        weights: (inner,) float32 log10 back-off weight. first: (inner + 1,) int32. inner: nodes below the last level.
        without_backoff: see the module.
        start: the token that only begins sequences and is never predicted, or -1.
        about: how it was made (smoothing, discounts, tokens); kept in its files.
    """

    starts: tuple[int, ...]
    words: np.ndarray
    logs: np.ndarray
    weights: np.ndarray
    first: np.ndarray
    without_backoff: bool = False
    start: int = -1
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def order(self) -> int:
        """The longest n-gram: a token depends on `order - 1` before it."""
        return len(self.starts) - 1

    @property
    def vocab_size(self) -> int:
        return self.starts[1]

    @property
    def counts(self) -> list[int]:
        """How many n-grams there are of each length."""
        return [b - a for a, b in zip(self.starts, self.starts[1:], strict=False)]

    @property
    def parameters(self) -> int:
        """The number of estimated values: every log-probability and every weight."""
        return len(self.logs) + len(self.weights)

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in (self.words, self.logs, self.weights, self.first))

    @property
    def uniform(self) -> float:
        """log10 1/V for a model that does not back off, 0 for all others; an argument of the kernels."""
        return -math.log10(max(2, self.vocab_size)) if self.without_backoff else 0.0

    def score_stream(self, tokens: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log10 p of every token of a stream (N,), and the length of the n-gram found; both (N,).

        Args:
            tokens: int32 below the vocabulary's size. place: (N,) uint8, see `places`.
        """
        scores, matched = np.empty(len(tokens), np.float64), np.empty(len(tokens), np.uint8)
        ngram_query.score_stream(
            self.words, self.first, self.logs, self.weights, self.order, self.uniform, tokens, place, scores, matched
        )
        return scores, matched

    def contexts(self, tokens: np.ndarray, place: np.ndarray) -> np.ndarray:
        """(N, order - 1) int64: the node of the last 1, 2, ... tokens up to each place, -1 where there is none."""
        nodes = np.empty((len(tokens), self.order - 1), np.int64)
        ngram_query.contexts_of(self.words, self.first, len(self.weights), self.order, tokens, place, nodes)
        return nodes

    def score_targets(self, nodes: np.ndarray, depth: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """(N,) log10 p of `targets` after `contexts`; 0 where a target is negative. depth: (N,) context tokens."""
        scores = np.empty(len(targets), np.float64)
        ngram_query.score_targets(
            self.words, self.first, self.logs, self.weights, self.uniform, nodes, depth, targets, scores
        )
        return scores

    def distributions(self, nodes: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """(N, V) float32: the natural logarithm of p(every token) after each of `contexts`."""
        out = np.empty((len(nodes), self.vocab_size), np.float32)
        ngram_query.distributions(self.words, self.first, self.logs, self.weights, self.uniform, nodes, depth, out)
        return out


def places(lengths: np.ndarray) -> np.ndarray:
    """(N,) uint8: the position of every token in its sequence, at most 255, from the sequences' lengths."""
    place = np.empty(int(lengths.sum()), np.uint8)
    ngram_count.fill_places(lengths, place)
    return place


def untrained(vocab_size: int, order: int) -> Trie:
    """A model without counts: every token is equally likely."""
    logs = np.full(vocab_size, -math.log10(vocab_size), np.float32)
    inner = vocab_size if order > 1 else 0
    starts = (0, *(vocab_size for _ in range(order)))
    return Trie(
        starts,
        np.arange(vocab_size, dtype=np.int32),
        logs,
        np.zeros(inner, np.float32),
        np.full(inner + 1, vocab_size, np.int32),
    )
