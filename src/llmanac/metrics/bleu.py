"""BLEU: the n-grams of a text that its references have too, over a corpus, short texts penalised.

    p_n  = matches of order n / n-grams of order n             matches clipped at a reference's own count
    BLEU = 100 min(1, exp(1 - r / c)) exp(1/N sum over n of ln p_n)       c, r: tokens of the texts, of the references

r adds up the reference length that is nearest to each text's, the shorter of two. Sums run over the corpus before they
are divided. An order without a match is smoothed: "exp" halves it again each time (mteval), "floor" and "add-k" use
`smooth_value`, "none" gives 0. Tokens: "13a" (mteval-v13a, for Western languages), "intl" (Unicode punctuation and
symbols), "char" (characters), "none" (white space). Shapes: S texts with references -> summands (S, 2 + 2N).

It is harsh on valid variations: another word order or a synonym costs matches of every order.
Papineni et al. 2002; Post 2018, arXiv:1804.08771 (the signature); Chen & Cherry 2014 (smoothing).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import regex

from llmanac.core.ranges import POSITIVE, Range, within
from llmanac.kernels.metrics.counts import matched_ngrams
from llmanac.kernels.metrics.tokens import BETWEEN_SPACES
from llmanac.kernels.text import pack
from llmanac.metrics import MetricSpec
from llmanac.metrics._ids import Ids, separated, utf8, words
from llmanac.metrics.statistics.corpus import Measured, reference_lists

CARD = {
    "title": "BLEU",
    "paper": "Papineni et al. 2002; Post 2018, arXiv:1804.08771",
    "reference": "sacrebleu's BLEU, corpus and sentence, with its signature",
    "test": "tests/references/test_bleu.py::test_scores_equal_sacrebleu",
    "aliases": {"sentence-bleu": {"order_rule": "effective"}},
}

Tokenizer = Literal["13a", "none", "intl", "char"]
Smoothing = Literal["exp", "floor", "add-k", "none"]
VERSION = "2.6.0"  # of sacrebleu, whose rules these are
DEFAULTS = {"floor": 0.1, "add-k": 1.0}
_NO_MATCH = -9999999999.0  # its logarithm of 0
_SPACES = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")  # str.split splits there too
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_INTERNATIONAL = [
    (regex.compile(r"(\P{N})(\p{P})"), r"\1 \2 "),
    (regex.compile(r"(\p{P})(\P{N})"), r" \1 \2"),
    (regex.compile(r"(\p{S})"), r" \1 "),
]


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """tokenizer, smoothing, smooth_value: see the module; None takes 0.1 for floor, 1 for add-k.

    case: "lower" compares lowered texts; order: N; order_rule: "effective" leaves out the orders that the text is too
    short for, as single sentences need, "fixed" gives such texts 0.
    """

    tokenizer: Tokenizer = "13a"
    smoothing: Smoothing = "exp"
    smooth_value: float | None = None
    case: Literal["mixed", "lower"] = "mixed"
    order: int = 4
    order_rule: Literal["fixed", "effective"] = "fixed"

    ranges = within(Range(1, 16), "order") | within(POSITIVE, "smooth_value")

    def build(self, **dims: Any) -> Callable[..., Bleu]:
        return functools.partial(bleu, spec=self)

    def signature(self, counts: Sequence[int]) -> str:
        """As sacrebleu writes it."""
        several = str(counts[0]) if len(set(counts)) == 1 else "var"
        value = self.smooth_value or DEFAULTS.get(self.smoothing)
        smooth = self.smoothing if self.smoothing not in DEFAULTS else f"{self.smoothing}[{value:.2f}]"
        case, effective = "lc" if self.case == "lower" else "mixed", "yes" if self.order_rule == "effective" else "no"
        return f"nrefs:{several}|case:{case}|eff:{effective}|tok:{self.tokenizer}|smooth:{smooth}|version:{VERSION}"


@dataclass(frozen=True, eq=False)
class Bleu(Measured):
    """BLEU of a corpus. `statistics` (S, 2 + 2N): tokens, reference tokens, matches of orders 1 to N, n-grams."""

    spec: Spec = Spec()

    @property
    def sums(self) -> np.ndarray:
        """(2 + 2N,) the statistics of the corpus, int64."""
        return self.statistics.sum(0).astype(np.int64)

    @property
    def sentences(self) -> np.ndarray:
        """(S,) BLEU of each text by itself, with effective order."""
        return scores(self.statistics, replace(self.spec, order_rule="effective"))


def bleu(
    hypotheses: Sequence[str], references: Sequence[str | Sequence[str]], spec: Spec | None = None, **choices: Any
) -> Bleu:
    """BLEU of S texts against the references of each; `choices` are fields of the Spec.

    Raises:
        DataError: lists of different lengths, or a text without a reference; it names the row.
    """
    spec = spec or Spec(**choices)
    lists = reference_lists(hypotheses, references)
    counts = [len(found) for found in lists]
    found = token_ids([*hypotheses, *(text for one in lists for text in one)], spec.tokenizer, spec.case)
    mine, theirs = found.ranges[: len(lists)], found.ranges[len(lists) :]
    ends = np.cumsum(counts)
    matches = matched_ngrams(found.ids, mine, theirs, ends, spec.order)
    lengths, others = np.diff(mine)[:, 0], np.diff(theirs)[:, 0]
    totals = np.maximum(lengths[:, None] - np.arange(spec.order), 0)
    own = np.repeat(np.arange(len(lists)), counts)
    # the nearest length, then the shorter one: the smallest of 2 |difference| and, for equal ones, of the length
    nearest = np.lexsort((others, np.abs(others - lengths[own]), own))[ends - counts]
    statistics = np.concatenate([np.stack([lengths, others[nearest]], 1), matches, totals], 1).astype(np.float64)
    return Bleu("BLEU", statistics, lambda sums: scores(sums, spec), spec.signature(counts), spec)


def scores(sums: np.ndarray, spec: Spec) -> np.ndarray:
    """(..., 2 + 2N) sums -> (...) BLEU, in the dtype of the sums, as sacrebleu's `compute_bleu` does step by step."""
    tokens, wanted = (sums[..., i].astype(np.float64) for i in (0, 1))
    correct, total = sums[..., 2 : 2 + spec.order], sums[..., 2 + spec.order :]
    value = spec.smooth_value or DEFAULTS.get(spec.smoothing, 0.0)
    short = tokens < wanted
    brevity = np.where(short, np.exp(1 - wanted / np.where(tokens > 0, tokens, 1)) * (tokens > 0), 1.0)
    going, halvings = np.ones(tokens.shape, bool), np.ones(tokens.shape)
    logs, orders = np.zeros(tokens.shape), np.full(tokens.shape, spec.order)
    for n in range(spec.order):
        right, of = correct[..., n], total[..., n]
        if spec.smoothing == "add-k" and n:
            right, of = right + value, of + value
        going = going & (of > 0)
        missed = right == 0
        divisor = np.where(going, of, 1)
        precision = 100.0 * right / divisor
        if spec.smoothing == "exp":
            halvings = np.where(going & missed, 2 * halvings, halvings)
            precision = np.where(missed, 100.0 / (halvings.astype(sums.dtype) * divisor), precision)
        elif spec.smoothing == "floor":
            precision = np.where(missed, 100.0 * value / divisor, precision)
        precision = np.where(going, precision, 0).astype(np.float64)
        log = np.where(precision > 0, np.log(np.where(precision > 0, precision, 1)), _NO_MATCH)
        if spec.order_rule == "effective":
            orders, log = np.where(going, n + 1, orders), np.where(going, log, 0)
        logs = logs + log
    return np.where(correct.any(-1), brevity * np.exp(logs / orders), 0.0)


def token_ids(texts: Sequence[str], tokenizer: Tokenizer, case: str) -> Ids:
    """The ids of texts' tokens."""
    ready = [text.rstrip() for text in texts]
    if case == "lower":
        ready = [text.lower() for text in ready]
    if tokenizer == "13a":
        ready = [_entities(text) if "&" in text or "\n" in text or "<skipped>" in text else text for text in ready]
    elif tokenizer == "intl":
        ready = [_international(text) for text in ready]
    elif tokenizer == "char":
        ready = [" ".join(text) for text in ready]
    data = [utf8(text if text.isascii() else _SPACES.sub(" ", text)) for text in ready]
    buffer, end = separated(data) if tokenizer == "13a" else pack([one.replace(b"\n", b" ") for one in data])
    return words(buffer, end, len(data), BETWEEN_SPACES)[0]


def _entities(text: str) -> str:
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return text


def _international(text: str) -> str:
    for pattern, apart in _INTERNATIONAL:
        text = pattern.sub(apart, text)
    return text
