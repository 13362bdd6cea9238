"""Multiple choice: the choice that a model finds most probable, under four ways to compare choices of unlike length.

    chosen = argmax over choices c of   sum: log p(c | x)                     (lm-eval's acc)
                                        characters: log p(c | x) / |c|        (acc_norm)
                                        bytes: log p(c | x) / |utf8(c)|       (acc_bytes)
                                        mutual information: log p(c | x) - log p(c)

|c| counts the choice itself, without the space before it. Of equal choices the first one is taken. Shapes: S ragged
rows of log-likelihoods -> (S,) chosen numbers.
Holtzman et al. 2021, arXiv:2104.08315.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import DataError
from llmanac.metrics import MetricSpec
from llmanac.metrics._texts import UNITS
from llmanac.metrics.statistics.corpus import Measured, mean_of

CARD = {
    "title": "Multiple choice by likelihood",
    "paper": "Holtzman et al. 2021, arXiv:2104.08315",
    "reference": "lm-eval's acc, acc_norm, acc_bytes and acc_mutual_info",
    "test": "tests/references/test_accuracy.py::test_choices_equal_lm_eval",
    "aliases": {"acc-norm": {"per": "character"}, "acc-bytes": {"per": "byte"}, "acc-mutual-info": {"per": "mutual"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """per: what the sums are divided by, or "mutual" to subtract the log-likelihoods without the question."""

    per: Literal["text", "character", "byte", "mutual"] = "text"

    def build(self, **dims: Any) -> Callable[..., Measured]:
        def metric(
            sums: Sequence[Sequence[float]], choices: Sequence[Sequence[str]], golds: Sequence[int], without: Any = None
        ) -> Measured:
            found = chosen(sums, choices, self.per, without)
            return mean_of((found == np.asarray(golds)).astype(float), "accuracy", f"per:{self.per}")

        return metric


def chosen(
    sums: Sequence[Sequence[float]], choices: Sequence[Sequence[str]], per: str = "text", without: Any = None
) -> np.ndarray:
    """(S,) the number of the chosen choice of each item.

    Args:
        sums: log-likelihoods of the choices; without: those without the question, for `per="mutual"`.

    Raises:
        DataError: an item without choices, with other numbers of texts, or with NaN; it names the item, from 1.
    """
    if per == "mutual" and without is None:
        raise DataError("without: mutual information needs the log-likelihoods without the question")
    out = np.empty(len(sums), np.int64)
    for item, (row, texts) in enumerate(zip(sums, choices, strict=True)):
        values = np.asarray(row, np.float64)
        if not len(values) or len(values) != len(texts) or np.isnan(values).any():
            raise DataError(f"item {item + 1}: {len(values)} log-likelihoods for {len(texts)} choices, or one is NaN")
        if per == "mutual":
            values = values - np.asarray(without[item], np.float64)
        elif per != "text":
            values = values / np.maximum([UNITS[per](text) for text in texts], 1)
        out[item] = values.argmax()
    return out
