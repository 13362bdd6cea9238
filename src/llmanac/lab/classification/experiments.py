"""Measurements of the table: every method trained over seeds and sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmanac.core.progress import progress
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.data.labelled import Labelled
from llmanac.lab.classification.slices import Slice
from llmanac.metrics._statistics import Estimate, paired

SIZES = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
Build = Callable[[], Any]


@dataclass
class Measured:
    """One method.

    Attributes:
        accuracy: by number of training rows, one value a seed; a method without training has it under 0.
        right: by number of rows, how many seeds are right on each test text.
        predicted: labels of the test texts by the classifiers trained on all rows, one list a seed.
        seconds: CPU seconds of training on all rows, one a seed; `rate` texts a CPU second when predicting.
        slices: by slice and part, one accuracy a seed.
        explained: the lines of an explanation; exact: whether its parts add up.
    """

    accuracy: dict[int, list[float]] = field(default_factory=dict)
    right: dict[int, np.ndarray] = field(default_factory=dict)
    predicted: list[list[str]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rate: float = 0.0
    parameters: int = 0
    slices: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    explained: list[str] = field(default_factory=list)
    exact: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


def curve_sizes(rows: int, asked: Sequence[int] | None = None) -> list[int]:
    """The sizes of a learning curve below `rows`, then `rows` itself."""
    return [size for size in sorted(set(asked or SIZES)) if size < rows] + [rows]


def sample(labels: Sequence[str], size: int, seed: int) -> np.ndarray:
    """The numbers of `size` rows in a random order; the first of each label come first, so that none is missing.

    The samples of one seed are nested: a larger one holds the smaller ones.
    """
    order = numpy_generator(seed, "rows of a learning curve").permutation(len(labels))
    first: dict[str, int] = {}
    for number in order:
        first.setdefault(labels[number], int(number))
    leading = list(first.values())
    rest = order[~np.isin(order, leading)]
    return np.concatenate([np.array(leading, np.int64), rest])[: max(size, 2)]


def measure(
    builders: Mapping[str, Build], train: Labelled, test: Labelled, *, seeds: int, sizes: Sequence[int], slices:
    Sequence[Slice], example: str, after: Callable[[str, int, Any], dict[str, Any]] | None = None,
) -> dict[str, Measured]:  # fmt: skip
    """Train and measure every method.

    Args:
        builders: how to make an unfitted classifier of each method.
        example: the text that each method explains.
        after: further measurements on a classifier trained on all rows: (method, seed, classifier) -> figures.
    """
    out = {name: Measured() for name in builders}
    trained = {name: build().learned for name, build in builders.items()}
    total = sum((len(sizes) * seeds) if trained[name] else 1 for name in builders)
    # the first training of a process compiles and imports; that is not part of any method's time
    make_method("classifier", "bow").build().fit(["a b", "c d"], ["1", "2"])
    with progress("classify table", total, "trainings") as bar:
        for name, build in builders.items():
            bar.advance(0, method=name)
            if not trained[name]:
                classifier = build()
                classifier.fit(train.texts, train.labels)
                out[name].predicted.append(_take(out[name], classifier, 0, test, slices, []))
                _explain(out[name], classifier, example)
                bar.advance(1, method=name)
                continue
            for seed in range(seeds):
                for size in sizes:
                    chosen = sample(train.labels, size, seed)
                    classifier = build()
                    begin = time.process_time()
                    classifier.fit([train.texts[i] for i in chosen], [train.labels[i] for i in chosen], seed=seed)
                    spent = time.process_time() - begin
                    last = size == sizes[-1]
                    given = _take(out[name], classifier, size, test, slices if last else [], [spent] if last else [])
                    out[name].predicted += [given] if last else []
                    bar.advance(1, method=name)
                if not seed:
                    _explain(out[name], classifier, example)
                    out[name].parameters = sum(p.numel() for p in classifier.network.parameters())
                if after is not None:
                    for key, value in after(name, seed, classifier).items():
                        out[name].extra.setdefault(key, []).append(value)
    return out


def _take(
    found: Measured, classifier: Any, size: int, test: Labelled, slices: Sequence[Slice], spent: Sequence[float]
) -> list[str]:
    begin = time.process_time()
    given = list(classifier.predict(test.texts))
    found.rate = len(test) / max(1e-9, time.process_time() - begin)
    right = np.array([g == label for g, label in zip(given, test.labels, strict=True)], np.int64)
    found.accuracy.setdefault(size, []).append(float(right.mean()))
    found.right[size] = found.right.get(size, 0) + right
    found.seconds += spent
    for one in slices:
        parts = found.slices.setdefault(one.name, {})
        for part, value in one.accuracies(classifier).items():
            parts.setdefault(part, []).append(value)
    return given


def _explain(found: Measured, classifier: Any, example: str) -> None:
    explanation = classifier.explain(example)
    found.explained, found.exact = explanation.lines(8), explanation.exact


def rows_needed(found: Measured, target: float) -> int | None:
    """The fewest measured rows whose mean accuracy reaches a target; None where none does."""
    means = {size: sum(values) / len(values) for size, values in found.accuracy.items()}
    return next((size for size in sorted(means) if means[size] >= target), None)


def above(found: Measured, rules: Measured, size: int) -> Estimate | None:
    """By how much the seeds' mean accuracy on `size` rows is above the rules', paired over texts; None for one text."""
    one, two = found.right[size] / len(found.accuracy[size]), next(iter(rules.right.values()))
    return paired(one, two) if len(one) > 1 else None


def rows_to_pass(found: Measured, rules: Measured) -> int | None:
    """The fewest measured rows with which the accuracy is above the rules', with a 95% interval that excludes 0."""
    gains = {size: above(found, rules, size) for size in sorted(found.right)}
    return next((size for size, gain in gains.items() if gain is not None and gain.low > 0), None)
