"""Log-likelihood: how probable a model finds a text, as the sum over its tokens.

    log P(x) = sum over t of ln p(x_t | x_1 .. x_(t-1))          nats, at most 0; higher is better

A longer text is less probable in any case, so choices of different length are compared by the sum divided by a
length: tokens, characters, bytes or words. Against how common a choice is by itself, the log-likelihood that it has
without its context is subtracted (pointwise mutual information; Holtzman et al. 2021).

Shapes: `logprobs` (T,) -> a number; a ragged list of N such arrays -> (N,).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import DataError
from llmanac.metrics import MetricSpec
from llmanac.metrics._texts import UNITS, sizes

CARD = {
    "title": "Log-likelihood",
    "paper": "Shannon 1948; Holtzman et al. 2021, arXiv:2104.08315 (mutual information)",
    "reference": "lm-eval loglikelihood, acc_norm, acc_bytes, acc_mutual_info",
}

Per = Literal["text", "token", "character", "byte", "word"]


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """per: the unit that the sum is divided by: nothing ("text"), its tokens, characters, UTF-8 bytes or words."""

    per: Per = "text"

    def build(self, **dims: Any) -> Callable[..., np.ndarray]:
        return functools.partial(log_likelihoods, per=self.per)


def log_likelihood(logprobs: Any) -> float:
    """The sum of token log-probabilities (T,), in nats, in float64; 0 for no token.

    Raises:
        DataError: a number above 0 (beyond rounding), or none at all (NaN): not the logarithm of a probability.
    """
    values = np.asarray(logprobs, np.float64)
    if values.size and not bool((values <= 1e-6).all()):  # NaN fails it too
        wrong = values[~(values <= 1e-6)][0]
        raise DataError(f"log-likelihood: {wrong} is not the logarithm of a probability; give natural logarithms")
    return float(values.sum())


def log_likelihoods(
    logprobs: Sequence[Any], *, per: Per = "text", texts: Sequence[str] | None = None, without: Any = None
) -> np.ndarray:
    """The log-likelihood of each of N texts, (N,).

    Args:
        logprobs: for each text its token log-probabilities (T_i,), ragged.
        per: the unit that each sum is divided by. A text without a single unit keeps its sum (which is then 0).
        texts: the texts; needed for characters, bytes and words.
        without: (N,) log-likelihoods without the context, to subtract before the division.

    Raises:
        DataError: an unknown `per`, or texts that are missing or of another number.
    """
    sums = np.array([log_likelihood(row) for row in logprobs], np.float64)
    if without is not None:
        sums = sums - np.asarray(without, np.float64)
    if per not in ("text", "token", *UNITS):
        raise DataError(f"per: {per!r} is not one of text, token, {', '.join(UNITS)}")
    if per == "text":
        return sums
    if per == "token":
        lengths = np.array([len(row) for row in logprobs], np.float64)
    else:
        if texts is None or len(texts) != len(sums):
            given = "none" if texts is None else len(texts)
            raise DataError(f"texts: {len(sums)} log-likelihoods per {per} need their {len(sums)} texts, got {given}")
        lengths = sizes(texts, per).astype(np.float64)
    return sums / np.maximum(lengths, 1)


def token_logprobs(logits: Any, ids: Any) -> np.ndarray:
    """ln p of given tokens: `logits` (..., V) at the positions before them and `ids` (...) -> (...), in float64.

    The log-softmax is computed as z - max - ln(sum of exp(z - max)), so no logit is too large for it.
    """
    z = np.asarray(logits, np.float64)
    chosen = np.take_along_axis(z, np.asarray(ids, np.int64)[..., None], axis=-1)[..., 0]
    top = z.max(axis=-1)
    return chosen - top - np.log(np.exp(z - top[..., None]).sum(axis=-1))
