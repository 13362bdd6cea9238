"""A trial that tokenizes: the arm's tokenizer trained on the same text, then applied to the same documents held out.

Tokenizers are cheap and deterministic, so the replicate is the document, and the interval is over documents.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.spec import dump
from llmanac.lab.axis import Arm
from llmanac.lab.cache import digest, versions
from llmanac.lab.sources import fingerprint
from llmanac.lab.stats import Metric
from llmanac.lab.study import Measurement

MEASURE_VERSION = 1
ROUNDS = 3
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Texts:
    """The artefact that tokenizers are applied to: text to train on, and documents held out."""

    train: Callable[[], Iterable[str]]
    held_out: Sequence[str]
    identity: str

    @classmethod
    def of(cls, corpus: Any) -> Texts:
        """A corpus, with held-out documents that have no word left out: nothing can be counted in them."""
        held_out = [text for text in corpus.held_out.texts() if _WORD.search(text)]
        parts = (corpus.manifest["train"]["sha256"], corpus.manifest["held_out"]["sha256"])
        return cls(corpus.train.texts, held_out, digest(parts))


class TokenizerTrial:
    """Trains and applies the tokenizer that an arm's Spec describes."""

    metrics: tuple[Metric, ...] = (
        Metric("bytes_per_token", "B/token", "higher"),
        Metric("tokens_per_word", "token/word", "lower", "tokens per word (fertility)"),
    )
    costs: tuple[Metric, ...] = (
        Metric("vocabulary", "", "lower"),
        Metric("train_seconds", "s", "lower", "training time"),
        Metric("lossless", "", "higher", "documents that decode to themselves"),
        Metric("encode_rate", "B/s", "higher", "encoding speed, one document after another"),
    )
    replicate = "document"

    def __init__(self, texts: Texts) -> None:
        self.texts = texts

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides an arm's numbers; no seed does."""
        return {
            "trial": "tokenizers",
            "measure": MEASURE_VERSION,
            "tokenizer": dump(arm.spec),
            "texts": self.texts.identity,
            "sources": fingerprint([arm.spec]),
            "versions": versions(),
        }

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        """Train, encode every document, and count those that decoding gives back as they were."""
        start = time.perf_counter()
        tokenizer = arm.spec.train(self.texts.train())
        trained = time.perf_counter() - start
        encoded = [tokenizer.encode_array(text) for text in self.texts.held_out]
        counts = [len(ids) for ids in encoded]
        whole = sum(tokenizer.decode(ids.tolist()) == t for ids, t in zip(encoded, self.texts.held_out, strict=True))
        sizes = [len(text.encode("utf-8")) for text in self.texts.held_out]
        words = [len(_WORD.findall(text)) for text in self.texts.held_out]
        values = {
            "bytes_per_token": [size / max(1, count) for size, count in zip(sizes, counts, strict=True)],
            "tokens_per_word": [count / word for count, word in zip(counts, words, strict=True)],
        }
        costs: dict[str, float | None] = {
            "vocabulary": tokenizer.vocab_size,
            "train_seconds": trained,
            "lossless": whole / len(counts),
            "encode_rate": sum(sizes) / _encode_seconds(tokenizer, self.texts.held_out),
        }
        return Measurement(values, costs)


def _encode_seconds(tokenizer: Any, texts: Sequence[str]) -> float:
    """The median of a few passes over the documents, the first one left out."""
    taken = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        for text in texts:
            tokenizer.encode_array(text)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])
