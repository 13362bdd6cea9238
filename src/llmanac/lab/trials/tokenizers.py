"""A trial that tokenizes: the arm's tokenizer trained on the same text, then applied to the same documents held out.

    bytes per token    UTF-8 bytes of a document / its tokens                                        higher is better
    tokens per word    its tokens / its runs of word characters (fertility)                          lower is better
    bits per byte      -sum log2 q(token) / bytes, q: token frequencies of the training text with    lower is better
                       half a count more for every token; a word that became the unknown token is
                       spelled out at 8 bits a byte

The last one is the cost of an order-0 coder. Unlike the other two it charges for a large vocabulary, and for what a
tokenizer loses (except dropped white space). An arm that does not restore every document from its ids has these numbers
and no verdict: lost text needs no tokens.

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

import numpy as np

from llmanac.core.spec import dump
from llmanac.lab.axis import Arm
from llmanac.lab.cache import digest, versions
from llmanac.lab.posthoc import arms_of, text_of, words_of
from llmanac.lab.runner import Applied, Question, Say
from llmanac.lab.sources import fingerprint
from llmanac.lab.stats import Metric
from llmanac.lab.study import Measurement

MEASURE_VERSION = 3
ROUNDS = 3
MOST_LABELS = 8  # kinds of text that are reported apart
STRETCH = 1 << 14  # characters of a document that are aligned with what came back of them at a time
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Texts:
    """The artefact that tokenizers are applied to: text to train on, and documents held out."""

    train: Callable[[], Iterable[str]]
    held_out: Sequence[str]
    identity: str
    labels: Sequence[str] = ()

    @classmethod
    def of(cls, corpus: Any, data: Any = None) -> Texts:
        """A corpus, with held-out documents that have no word left out: nothing can be counted in them.

        `data` is the recipe's `DataSpec`, whose mixture is trained on, and whose labels are reported apart.
        """
        kept = [document for document in corpus.held_out if _WORD.search(document.text)]
        parts: list[Any] = [corpus.manifest["train"]["sha256"], corpus.manifest["held_out"]["sha256"]]
        mixture = getattr(data, "vocabulary", None)
        labels = [document.label(mixture.by if mixture else "folder") for document in kept]
        if mixture:
            parts.append(dump(mixture))
            return cls(lambda: data.vocabulary_texts(corpus.train), [d.text for d in kept], digest(parts), labels)
        return cls(corpus.train.texts, [d.text for d in kept], digest(parts), labels)


class TokenizerTrial(Applied):
    """Trains and applies the tokenizer that an arm's Spec describes."""

    metrics: tuple[Metric, ...] = (
        Metric("bytes_per_token", "B/token", "higher"),
        Metric("tokens_per_word", "token/word", "lower", "tokens per word (fertility)"),
        Metric("bits_per_byte", "bit/B", "lower", "bits per byte by token frequencies alone"),
    )
    costs: tuple[Metric, ...] = (
        Metric("vocabulary", "", "lower"),
        Metric("train_seconds", "s", "lower", "training time"),
        Metric("lossless", "", "higher", "documents that decode to themselves"),
        Metric("lost", "", "lower", "fraction of bytes that are not restored"),
        Metric("unknown", "", "lower", "fraction of tokens that are unknown"),
        Metric("encode_rate", "B/s", "higher", "encoding speed, one document after another"),
    )
    replicate = "document"
    words = "Each arm is trained once and encodes {} held-out documents."

    def __init__(self, texts: Texts) -> None:
        self.texts, self.items = texts, texts.held_out
        found = sorted(set(texts.labels))
        self.apart = found if 1 < len(found) <= MOST_LABELS else []
        self.costs = (
            *TokenizerTrial.costs,
            *(
                Metric(f"bytes_per_token of {name}", "B/token", "higher", f"bytes per token: {name}")
                for name in self.apart
            ),
            *(Metric(f"bits_per_byte of {name}", "bit/B", "lower", f"bits per byte: {name}") for name in self.apart),
        )

    @classmethod
    def of(cls, question: Question, say: Say) -> TokenizerTrial:
        """The trial of a question."""
        arms, data = arms_of(question), question.base.data
        corpus, _ = text_of(question)
        say(words_of(corpus, data.source))
        trial = cls(Texts.of(corpus, data))
        trial.arms = arms
        trial.about = {
            "data": {
                "source": dump(data.source), "train_bytes": corpus.manifest["train"]["bytes"],
                "held_out_documents": len(trial.items),
            },
            "artefact": f"text {trial.texts.identity}",
        }  # fmt: skip
        return trial

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides an arm's numbers; no seed does."""
        return {
            "trial": "tokenizers", "measure": MEASURE_VERSION, "tokenizer": dump(arm.spec),
            "texts": self.texts.identity, "sources": fingerprint([arm.spec]), "versions": versions(),
        }  # fmt: skip

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        """Train, encode every document, and count those that decoding restores exactly."""
        start = time.perf_counter()
        tokenizer = arm.spec.train(self.texts.train())
        trained = time.perf_counter() - start
        encoded = [tokenizer.encode_array(text) for text in self.texts.held_out]
        counts = [len(ids) for ids in encoded]
        pairs = list(zip(encoded, self.texts.held_out, strict=True))
        changed = [text for ids, text in pairs if tokenizer.decode(ids.tolist()) != text]
        sizes = [len(text.encode("utf-8")) for text in self.texts.held_out]
        words = [len(_WORD.findall(text)) for text in self.texts.held_out]
        bits = _code_lengths(tokenizer, self.texts, encoded)
        values = {
            "bytes_per_token": [size / max(1, count) for size, count in zip(sizes, counts, strict=True)],
            "tokens_per_word": [count / word for count, word in zip(counts, words, strict=True)],
            "bits_per_byte": [bit / size for bit, size in zip(bits, sizes, strict=True)],
        }
        lost = sum(lost_bytes(tokenizer, text) for text in changed) / sum(sizes)
        costs: dict[str, float | None] = {
            "vocabulary": tokenizer.vocab_size, "train_seconds": trained, "lossless": 1 - len(changed) / len(counts),
            "lost": lost, "unknown": tokenizer.unknown_rate(self.texts.held_out),
            "encode_rate": sum(sizes) / _encode_seconds(tokenizer, self.texts.held_out),
        }  # fmt: skip
        for name in self.apart:
            own = [i for i, label in enumerate(self.texts.labels) if label == name]
            size = sum(sizes[i] for i in own)
            costs[f"bytes_per_token of {name}"] = size / sum(counts[i] for i in own)
            costs[f"bits_per_byte of {name}"] = sum(bits[i] for i in own) / size
        return Measurement(values, costs, loses=_said(lost, len(changed), len(counts)))


def lost_bytes(tokenizer: Any, text: str) -> int:
    """UTF-8 bytes of a text that decoding does not restore: all outside the longest common subsequence.

    An unknown token restores nothing. A long text is aligned in stretches, each encoded by itself.
    """
    lost = 0
    for start in range(0, len(text), STRETCH):
        given = text[start : start + STRETCH].encode("utf-8")
        ids = tokenizer.encode_array(text[start : start + STRETCH])
        back = tokenizer.decode(ids[ids != tokenizer.unknown_id].tolist() if tokenizer.unknown_id is not None else ids)
        lost += len(given) - common_subsequence(given, back.encode("utf-8"))
    return lost


def common_subsequence(a: bytes, b: bytes) -> int:
    """Length of the longest common subsequence, with a row of the table as the bits of one number (Hyyrö 2004)."""
    places = dict.fromkeys(a, 0)
    for i, byte in enumerate(a):
        places[byte] |= 1 << i
    row = full = (1 << len(a)) - 1
    for byte in b:
        matched = row & places.get(byte, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(a) - row.bit_count()


def _said(lost: float, changed: int, documents: int) -> str:
    """What an arm loses, in words; nothing where every document comes back."""
    if not changed:
        return ""
    if not lost:
        return f"the decoded text has additions, in {changed} of {documents} documents"
    part = f"{lost:.1%}" if lost >= 0.001 else "less than 0.1%"
    return f"{part} of the bytes are not restored, in {changed} of {documents} documents"


def _code_lengths(tokenizer: Any, texts: Texts, encoded: Sequence[np.ndarray]) -> list[float]:
    """Bits of every held-out document; see the module."""
    counts = np.full(tokenizer.vocab_size, 0.5)
    for text in texts.train():
        ids = tokenizer.encode_array(text)
        counts += np.bincount(ids, minlength=len(counts))
    costs = np.log2(counts.sum()) - np.log2(counts)
    bits = [float(costs[ids].sum()) for ids in encoded]
    for i, ids in enumerate(encoded):
        if tokenizer.unknown_id is not None and (ids == tokenizer.unknown_id).any():
            text = texts.held_out[i]
            found, spans = tokenizer.encode_with_offsets(text)
            lost = [text[a:b] for id, (a, b) in zip(found, spans, strict=True) if id == tokenizer.unknown_id]
            bits[i] += 8.0 * sum(len(word.encode("utf-8")) for word in lost)
    return bits


def _encode_seconds(tokenizer: Any, texts: Sequence[str]) -> float:
    """CPU seconds: the median of a few passes over the documents, the first one left out."""
    taken = []
    for _ in range(ROUNDS + 1):
        start = time.process_time()
        for text in texts:
            tokenizer.encode_array(text)
        taken.append(time.process_time() - start)
    return statistics.median(taken[1:])
