"""Perplexity: the number of equally probable continuations with the same entropy, per token, word or byte.

    H   = - (1 / N) sum over t of log2 p(x_t | x_1 .. x_(t-1))        bits a unit, N units
    PPL = 2^H                                                          lower is better; V for a uniform guess of V

N counts tokens, words or UTF-8 bytes of the corpus: the sums are divided once, at the end, so a long text weighs
more than a short one. Per token, two models can be compared only with the same tokenizer; per byte (or as bits per
byte, which is H itself with N in bytes) any two can. Jelinek et al. 1977.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import DataError
from llmanac.metrics import MetricSpec
from llmanac.metrics._texts import sizes

CARD = {
    "title": "Perplexity and bits per byte",
    "paper": "Jelinek et al. 1977, doi:10.1121/1.2016299",
    "reference": "lm-eval word_perplexity, byte_perplexity, bits_per_byte",
    "aliases": {
        "word-perplexity": {"unit": "word"},
        "byte-perplexity": {"unit": "byte"},
        "bits-per-byte": {"unit": "byte", "form": "bits"},
    },
}

Unit = Literal["token", "word", "byte"]
Form = Literal["perplexity", "bits"]


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """unit: what N counts; form: 2^H, or H itself in bits."""

    unit: Unit = "token"
    form: Form = "perplexity"

    def build(self, **dims: Any) -> Callable[..., float]:
        def metric(log_likelihoods: Any, *, tokens: Any = None, texts: Sequence[str] | None = None) -> float:
            """Of a corpus: (N,) log-likelihoods in nats with each text's tokens, or with the texts."""
            given, name = (tokens, "tokens") if self.unit == "token" else (texts, "texts")
            if given is None:
                raise DataError(f"perplexity: needs {name} to divide by")
            bits = bits_per_unit(log_likelihoods, tokens if self.unit == "token" else sizes(given, self.unit))
            return bits if self.form == "bits" else power(bits)

        return metric


def bits_per_unit(log_likelihoods: Any, units: Any) -> float:
    """H: bits that a unit costs over a corpus, from log-likelihoods in nats (N,) and units (N,), or one of each.

    Returns:
        NaN where there is no unit at all; infinity where some text has probability 0.

    Raises:
        DataError: the two have different lengths.
    """
    nats = np.atleast_1d(np.asarray(log_likelihoods, np.float64))
    counts = np.atleast_1d(np.asarray(units, np.float64))
    if nats.shape != counts.shape:
        raise DataError(f"perplexity: {len(nats)} log-likelihoods but {len(counts)} lengths; give one for each text")
    total = math.fsum(counts)
    if not total:
        return math.nan
    loss = -math.fsum(nats) if np.isfinite(nats).all() else float(-nats.sum())
    return loss / (math.log(2) * total)


def power(bits: float) -> float:
    """2^H; infinity where that is beyond any float."""
    try:
        return math.exp(bits * math.log(2))
    except OverflowError:
        return math.inf


def perplexity(log_likelihoods: Any, units: Any) -> float:
    """2^H of log-likelihoods in nats (N,) over units (N,): tokens, words or bytes."""
    return power(bits_per_unit(log_likelihoods, units))
