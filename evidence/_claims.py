"""Measurements behind single claims: similar words, rare words, exclusive-or, label noise, linear probes, bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.data.labelled import Labelled
from llmanac.lab.costs import peak_bytes
from llmanac.lab.trials.classifying import sample
from llmanac.models.classifiers._bags import words_of
from llmanac.models.classifiers._rulebook import Rulebook

# Words that mean much the same, group by group, written for this package. Pairs inside a group are alike, others not.
ALIKE = {
    "praise": "good great excellent wonderful terrific fine brilliant superb",
    "blame": "bad awful terrible horrible poor dreadful lousy worst",
    "dull": "boring dull tedious bland flat lifeless tiresome plodding",
    "funny": "funny hilarious amusing witty comic humorous entertaining",
    "moving": "moving touching poignant heartfelt tender affecting heartbreaking",
    "people": "actor actress director writer cast performer filmmaker",
    "work": "film movie picture comedy drama thriller documentary",
    "silly": "silly stupid dumb ridiculous foolish absurd",
}
TONE = {"praise": 1, "funny": 1, "moving": 1, "blame": -1, "dull": -1, "silly": -1}
VERBS_FOR = ("love", "like", "enjoy", "admire", "adore")
VERBS_AGAINST = ("hate", "dislike", "loathe", "despise", "detest")
OBJECTS = ("the film", "this story", "the ending", "the cast", "the music", "the plot", "that scene", "the hero")


def similarity(vectors: Callable[[str], np.ndarray | None]) -> dict[str, Any]:
    """How often a pair of one group has a larger cosine than a pair of two groups (ties count half); 0.5 is chance.

    Args:
        vectors: a word's vector, or None for an unknown word.
    """
    known = {}
    for group, words in ALIKE.items():
        for word in words.split():
            vector = vectors(word)
            if vector is not None:
                known[word] = (group, vector / max(float(np.linalg.norm(vector)), 1e-12))
    inside: list[float] = []
    across: list[float] = []
    opposed: list[float] = []
    for (_, (g, a)), (_, (h, b)) in combinations(known.items(), 2):
        cosine = float(a @ b)
        (inside if g == h else across).append(cosine)
        if g != h and TONE.get(g, 0) * TONE.get(h, 0) < 0:
            opposed.append(cosine)
    return {
        "words": len(known), "alike": float(np.mean(inside)), "unlike": float(np.mean(across)),
        "opposed": float(np.mean(opposed)), "ranked_right": _above(inside, across),
        "against_opposed": _above(inside, opposed),
    }  # fmt: skip


def _above(high: Sequence[float], low: Sequence[float]) -> float:
    a, b = np.array(high)[:, None], np.array(low)[None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def one_hot_vectors() -> Callable[[str], np.ndarray | None]:
    """Every word of the groups as a one-hot vector."""
    words = [word for group in ALIKE.values() for word in group.split()]
    table = np.eye(len(words))
    return lambda word: table[words.index(word)]


def rare_words(classifier: Any, train: Labelled, *, most: int = 3) -> dict[str, Any]:
    """Whether single words of clear sentiment that training showed few times get the right label, by times shown.

    The right label is that of our rulebook, for words of weight 2 or more either way.
    """
    book = Rulebook.read("english-sentiment")
    negative, positive = book.names_for(sorted(set(train.labels)))
    counts = Counter(word for text in train.texts for word in set(words_of(text)))
    out = {}
    for times in range(1, most + 1):
        chosen = [w for w, v in book.weights.items() if abs(v[0]) >= 2 and "*" not in w and counts.get(w) == times]
        if chosen:
            scores = classifier.scores(chosen) - classifier.scores([""])  # the word's own part, not the prior's
            given = [negative if row[0] > row[1] else positive for row in _tones(classifier, scores, negative)]
            right = [
                g == (positive if book.weights[w][0] > 0 else negative) for g, w in zip(given, chosen, strict=True)
            ]
            out[str(times)] = {"words": len(chosen), "right": float(np.mean(right))}
    return out


def _tones(classifier: Any, scores: np.ndarray, negative: str) -> np.ndarray:
    """Columns in the order negative, positive."""
    first = classifier.labels.index(negative)
    return scores[:, [first, 1 - first]]


def exclusive_or() -> tuple[Labelled, Labelled]:
    """ "i love X", "i don't love X", "i hate X", "i don't hate X": training and held-out objects.

    No sum over words is right on more than half of it beyond what chance adds: each word is in as many texts of either
    label.
    """
    parts: list[Labelled] = []
    for objects in (OBJECTS[:5], OBJECTS[5:]):
        texts, labels = [], []
        for thing, (tone, verbs), denied in product(objects, (("1", VERBS_FOR), ("0", VERBS_AGAINST)), (False, True)):
            for verb in verbs:
                texts.append(f"i {'do n’t ' if denied else ''}{verb} {thing}")
                labels.append(tone if not denied else {"0": "1", "1": "0"}[tone])
        parts.append(Labelled(texts, labels, list(range(len(texts)))))
    return parts[0], parts[1]


def accuracy(classifier: Any, held: Labelled) -> float:
    """Accuracy."""
    given = classifier.predict(held.texts)
    return float(np.mean([g == label for g, label in zip(given, held.labels, strict=True)]))


def shuffled(train: Labelled, seed: int) -> Labelled:
    """The same texts with shuffled labels: pairs without information."""
    order = numpy_generator(seed, "shuffled labels").permutation(len(train))
    return Labelled(train.texts, [train.labels[i] for i in order], train.lines)


def linear_probe(
    features: np.ndarray, train: Labelled, held_features: np.ndarray, held: Labelled, *, rows: int, seed: int
) -> float:
    """Accuracy of logistic regression (penalty chosen on a fifth of the rows) on fixed features (N, D)."""
    chosen = sample(train.labels, rows, seed)
    names = sorted(set(train.labels))
    x = torch.from_numpy(features[chosen]).double()
    y = torch.tensor([float(train.labels[i] == names[1]) for i in chosen], dtype=torch.float64)
    mean, scale = x.mean(0), x.std(0).clamp(min=1e-6)
    x = (x - mean) / scale
    kept = max(2, len(x) * 4 // 5)
    best = max(
        (_right(_logistic(x[:kept], y[:kept], l2), x[kept:], y[kept:]), l2) for l2 in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    )[1]
    test = (torch.from_numpy(held_features).double() - mean) / scale
    truth = torch.tensor([float(label == names[1]) for label in held.labels], dtype=torch.float64)
    return _right(_logistic(x, y, best), test, truth)


def _logistic(x: torch.Tensor, y: torch.Tensor, l2: float) -> torch.Tensor:
    """The weights and the bias (D + 1,) of least bce + l2 / 2 |w|^2, by L-BFGS."""
    loss = make_method("loss", "bce").build()
    weights = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value: torch.Tensor = loss(x @ weights[:-1] + weights[-1], y) + 0.5 * l2 * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return weights.detach()


def _right(weights: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> float:
    if not len(x):
        return 0.0
    return float((((x @ weights[:-1] + weights[-1]) > 0).double() == y).double().mean())


def mean_vectors(texts: Sequence[str], tokenizer: Any, table: torch.Tensor) -> np.ndarray:
    """(N, D): the mean of each text's token vectors."""
    from llmanac.kernels.nn.embedding import bag

    lists = [tokenizer.encode(text) for text in texts]
    ids = torch.tensor([i for one in lists for i in one], dtype=torch.long)
    lengths = torch.tensor([len(one) for one in lists])
    found: np.ndarray = bag(ids, lengths, table.detach().double(), "mean").numpy()
    return found


def loss_bytes(*, rows: int = 2048, dim: int = 32, classes: Sequence[int] = (4096, 16384)) -> list[dict[str, Any]]:
    """Peak bytes that cross-entropy and its gradients hold beyond inputs, counted from every allocation."""
    loss = make_method("loss", "cross-entropy").build()
    out = []
    for count in classes:
        hidden = torch.randn(rows, dim, requires_grad=True)
        head = torch.randn(count, dim, requires_grad=True)
        targets = torch.randint(count, (rows,))
        runs: dict[str, Callable[[], Any]] = {
            "fused": lambda h=hidden, w=head, t=targets: loss.fused(h, w, t).backward(),  # type: ignore[misc]
            "plain": lambda h=hidden, w=head, t=targets: loss(h @ w.t(), t).backward(),  # type: ignore[misc]
            "torch": lambda h=hidden, w=head, t=targets: F.cross_entropy(h @ w.t(), t).backward(),  # type: ignore[misc]
        }
        peaks = {name: float(peak_of(run) or 0) for name, run in runs.items()}  # floats: agree within the tolerance
        out.append({"classes": count, "scores": rows * count * 4, **peaks})
    return out


def peak_of(run: Callable[[], Any]) -> int | None:
    """The most bytes that a call allocates at a time."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    return peak_bytes(profile)
