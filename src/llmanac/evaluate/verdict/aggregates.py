"""Metrics that are no mean over items: what each item adds to them, and the score of the sums.

BLEU and chrF of (reference, answer), F1 and MCC of (gold, predicted), perplexities of (log-likelihood, units) are pairs
that lm-eval logs. The score of a resampled set is a formula of sums (`metrics/statistics/corpus.py`).
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llmanac.core.spec import make_method
from llmanac.metrics.statistics.corpus import Formula, Measured, mean_of

LOWER = {"perplexity", "ppl", "bits", "bpb", "bpc", "nll", "loss", "brier", "ece", "ter", "wer", "cer", "error",
         "errors", "err", "mae", "mse", "rmse", "mape", "distance", "latency", "runtime", "time", "cost",
         "toxicity"}  # fmt: skip


def lower_is_better(metric: str) -> bool:
    """By a word of its name, where the log does not say it."""
    return not LOWER.isdisjoint(re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", metric).lower()))


def _counts(pair: Sequence[Any]) -> tuple[float, ...] | None:
    """True and false positives, true and false negatives; of two classes only."""
    if any(value not in (0, 1) for value in pair):
        return None
    gold, predicted = map(int, pair)
    return tuple(float(at == 2 * (gold == predicted) + predicted) for at in (3, 1, 2, 0))


def _likelihood(pair: Sequence[Any]) -> tuple[float, ...] | None:
    return tuple(map(float, pair)) if all(isinstance(value, (int, float)) for value in pair) else None


def _texts(metric: str, pair: Sequence[Any]) -> tuple[float, ...] | None:
    reference, answer = pair
    reference = [reference] if isinstance(reference, str) else reference
    answer = answer[0] if isinstance(answer, list) and answer else answer
    return tuple(_corpus_metric(metric)([str(answer)], [list(map(str, reference))]).statistics[0].tolist())


@functools.cache
def _corpus_metric(metric: str) -> Any:
    return make_method("metric", metric).build()


def _mcc(sums: np.ndarray) -> np.ndarray:
    tp, fp, tn, fn = np.moveaxis(sums.astype(np.float64), -1, 0)
    square = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / np.sqrt(np.where(square > 0, square, 1.0))


def _f1(sums: np.ndarray) -> np.ndarray:
    tp, fp, _, fn = np.moveaxis(sums.astype(np.float64), -1, 0)
    return 2 * tp / np.maximum(2 * tp + fp + fn, 1.0)


def _perplexity(sums: np.ndarray) -> np.ndarray:
    return np.exp(-sums[..., 0] / sums[..., 1])


def _bits(sums: np.ndarray) -> np.ndarray:
    return np.asarray(np.log2(_perplexity(sums)))


AGGREGATES: dict[str, tuple[Callable[[Sequence[Any]], tuple[float, ...] | None], Formula | None]] = {
    "mcc": (_counts, _mcc), "f1": (_counts, _f1), "word_perplexity": (_likelihood, _perplexity),
    "byte_perplexity": (_likelihood, _perplexity), "perplexity": (_likelihood, _perplexity),
    "bits_per_byte": (_likelihood, _bits), "bleu": (functools.partial(_texts, "bleu"), None),
    "chrf": (functools.partial(_texts, "chrf"), None),
}  # fmt: skip


def statistics_of(metric: str, value: Any) -> tuple[float, ...] | None:
    """What a row adds to an aggregate; None for a score that is averaged, or no score at all."""
    if metric == "perplexity" and isinstance(value, (int, float)):
        value = (value, 1)  # lm-eval's: of the mean log-likelihood of an item
    if metric not in AGGREGATES or not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    return AGGREGATES[metric][0](value)


def measured(metric: str, values: np.ndarray) -> Measured:
    """The score of items' statistics (items, K); of single numbers their mean."""
    if values.shape[1] == 1:
        return mean_of(values[:, 0], metric)
    formula = AGGREGATES[metric][1] or _corpus_metric(metric)(["a"], [["a"]]).formula
    return Measured(metric, values, formula)


def alone(metric: str, values: np.ndarray) -> np.ndarray:
    """(items,) the score of each item by itself; of counts whether it is right."""
    if values.shape[1] == 1:
        return values[:, 0]
    counts = AGGREGATES[metric][0] is _counts
    return values[:, 0] + values[:, 2] if counts else measured(metric, values).segments
