"""A trial that tokenizes: the arm's tokenizer trained on the same text, then applied to the same documents held out.

    bytes per token    UTF-8 bytes of a document / its tokens                                        higher is better
    tokens per word    its tokens / its runs of word characters (fertility)                          lower is better
    bits per byte      -sum log2 q(token) / bytes, q: token frequencies of the training text with    lower is better
                       half a count more for every token; a word that became the unknown token is
                       spelled out at 8 bits a byte

The last one is the cost of an order-0 coder. Unlike the other two it charges for a large vocabulary, and for what a
tokenizer loses (except dropped white space). An arm that does not restore every document from its ids has these numbers
and no verdict: lost text needs no tokens.

An arm may also be a tokenizer that is there, by its folder or file. Text comes from a recipe, or from files (`--on`): a
document is then a stretch of a few kilobytes, and arms are trained on other files, or on the stretches that are not
measured. Where nothing is trained there are no frequencies, and so no bits per byte.

Tokenizers are cheap and deterministic, so the replicate is the document, and the interval is over documents.
"""

from __future__ import annotations

import functools
import hashlib
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llmanac.core.errors import SpecError
from llmanac.core.spec import Spec, dump, make, patch
from llmanac.lab.arms import ArmText
from llmanac.lab.axis import Arm, methods_of
from llmanac.lab.cache import digest
from llmanac.lab.runner import Applied, RunnerRequest, Say
from llmanac.lab.sources import run_key
from llmanac.lab.stats import Metric
from llmanac.lab.study import Measurement
from llmanac.recipes.vocabulary import texts as seen
from llmanac.recipes.vocabulary.stream import pieces
from llmanac.recipes.vocabulary.texts import Reading, held_apart, labelled, left_to_train
from llmanac.tokenizers.load import load_tokenizer

MEASURE_VERSION = 4
ROUNDS = 3
MOST_LABELS = 8  # kinds of text that are reported apart
STRETCH = 1 << 14  # characters of a document that are aligned with what came back of them at a time
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Finished(Spec):
    """A tokenizer that is there."""

    kind: ClassVar[str] = "tokenizer"
    name = "finished"
    path: str

    def train(self, texts: Iterable[str]) -> Any:
        """The tokenizer; it learns nothing more."""
        return load_tokenizer(self.path)


def spec_of(text: ArmText) -> Any:
    """The Spec that an arm names: a folder or a file that is there, else a method."""
    if text.fields or not Path(text.name).exists():
        return methods_of("tokenizer", text)
    return Finished(path=text.name)


@dataclass(frozen=True, kw_only=True)
class TextFiles(Spec):
    """Text of files that tokenizers are compared on.

    Attributes:
        on: what is measured on, `label=path` or a path; train: what methods are trained on.
        every: without `train`, one stretch in so many is measured, and methods are trained on the others.
        limit: megabytes of a label that are measured at most.
        column, include: of tables, and which files of folders are read.
        sentence: is shown cut into tokens.
    """

    on: tuple[str, ...]
    train: tuple[str, ...] = ()
    every: int = 10
    limit: int = 20
    column: str = "text"
    include: tuple[str, ...] = ()
    sentence: str = ""


def files_of(on: str | Sequence[str], changes: Mapping[str, Any]) -> TextFiles:
    """The base of a comparison on files; in a text they are divided by commas."""
    return patch(make(TextFiles, {"on": on.split(",") if isinstance(on, str) else list(on)}), changes)


@dataclass(frozen=True)
class HeldOutTexts:
    """The artefact that tokenizers are applied to: text to train on, if any, and documents held out."""

    train: Callable[[], Iterable[str]] | None
    held_out: Sequence[str]
    identity: str
    labels: Sequence[str] = ()
    sentence: str = ""

    @classmethod
    def of(cls, corpus: Any, data: Any = None) -> HeldOutTexts:
        """A corpus, with held-out documents that have no word left out: nothing can be counted in them.

        `data` is the recipe's `DataSpec`, whose mixture is trained on, and whose labels are reported apart.
        """
        kept = [document for document in corpus.held_out if _WORD.search(document.text)]
        parts: list[Any] = [corpus.manifest["train"]["sha256"], corpus.manifest["held_out"]["sha256"]]
        mixture = None if data is None else data.vocabulary
        labels = [document.label(mixture.by if mixture else "folder") for document in kept]
        if mixture:
            parts.append(dump(mixture))
            return cls(lambda: data.vocabulary_texts(corpus.train), [d.text for d in kept], digest(parts), labels)
        return cls(corpus.train.texts, [d.text for d in kept], digest(parts), labels)

    @classmethod
    def on_files(cls, base: TextFiles, arms: Sequence[Arm]) -> tuple[HeldOutTexts, list[str]]:
        """The stretches of files, and what is to be said of them.

        Raises:
            SpecError: an arm that is to be trained, and no text for it. DataError: text that cannot be used.
        """
        groups, reading = labelled(base.on), Reading(base.column, base.include)
        measured = seen.places(path for paths in groups.values() for path in paths)
        trained = [arm.label for arm in arms if not isinstance(arm.spec, Finished)]
        apart = base.every if trained and not base.train else 1
        held, leaves = held_apart(groups, apart, base.limit * 1_000_000, reading)
        pairs = [(text, label) for label, own in held.items() for text in own if _WORD.search(text)]
        train: Callable[[], Iterable[str]] | None = None
        notes = ["Measured on all of the text."]
        if base.train:
            learned = [path for paths in labelled(base.train).values() for path in paths]
            train = functools.partial(reading.texts, learned)
            notes = [f"Methods were trained on {', '.join(base.train)}."]
            if trained and (where := seen.overlap(seen.places(learned), measured)):
                notes.append(f"They were trained on {where}, which they are measured on: other text takes more tokens.")
        elif leaves:
            train = functools.partial(left_to_train, groups, apart, reading)
            notes = [f"Measured on one part in {apart} of the text, methods trained on the rest."]
        elif trained:
            raise SpecError(
                f"{trained[0]!r} is to be trained, but there is no text for it; give --train, or no --every 1"
            )
        for arm in arms:
            if isinstance(arm.spec, Finished):
                notes.append(seen.note(arm.label, arm.spec.path, arm.spec.train(()), measured))
        read = hashlib.sha256()
        for text in train() if train else ():
            read.update(text.encode("utf-8", "replace") + b"\0")
        texts, labels = zip(*pairs, strict=True) if pairs else ((), ())
        return cls(train, texts, digest([read.hexdigest(), pairs, base.sentence]), labels, base.sentence), notes


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
    words = "Each arm is trained once. Held-out documents that it encodes: {}."

    def __init__(self, texts: HeldOutTexts) -> None:
        self.texts, self.items = texts, texts.held_out
        self.metrics = TokenizerTrial.metrics if texts.train else TokenizerTrial.metrics[:2]
        found = sorted(set(texts.labels))
        self.apart = found if 1 < len(found) <= MOST_LABELS else []
        own = [
            Metric(f"{one.name} of {name}", one.unit, one.better, f"{one.name.replace('_', ' ')}: {name}")
            for one in self.metrics for name in self.apart
        ]  # fmt: skip
        self.costs = (*TokenizerTrial.costs, *own)

    @classmethod
    def of(cls, question: RunnerRequest, say: Say) -> TokenizerTrial:
        """The trial of a question."""
        arms, base = question.arms(spec_of), question.base
        if isinstance(base, TextFiles):
            texts, notes = HeldOutTexts.on_files(base, arms)
            about: dict[str, Any] = {"data": {"on": ", ".join(base.on)}, "notes": list(filter(None, notes))}
            about["held"] = "the same text"
        else:
            from llmanac.lab.prepare import text_of  # recipes need torch, files do not

            corpus, _ = text_of(question, say)
            texts = HeldOutTexts.of(corpus, base.data)
            about = {"data": {"source": dump(base.data.source), "train_bytes": corpus.manifest["train"]["bytes"]}}
        trial = cls(texts)
        trial.arms = arms
        about["data"]["held_out_documents"] = len(trial.items)
        trial.about = {**about, "artefact": f"text {texts.identity}"}
        return trial

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides an arm's numbers; no seed does."""
        made = arm.spec.train(()).fingerprint() if isinstance(arm.spec, Finished) else dump(arm.spec)
        return run_key("tokenizers", [arm.spec], measure=MEASURE_VERSION, tokenizer=made, texts=self.texts.identity)

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        """Train, encode every document, and count those that decoding restores exactly."""
        texts, start = self.texts.held_out, time.perf_counter()
        tokenizer = arm.spec.train(self.texts.train() if self.texts.train else ())
        trained = time.perf_counter() - start
        encoded = [tokenizer.encode_array(text) for text in texts]
        pairs = list(zip(encoded, texts, strict=True))
        changed = [text for ids, text in pairs if tokenizer.decode(ids.tolist()) != text]
        sizes = [len(text.encode("utf-8", "replace")) for text in texts]
        counts, words = [max(1, len(ids)) for ids in encoded], [len(_WORD.findall(text)) for text in texts]
        ratios: dict[str, tuple[Sequence[float], Sequence[float]]] = {
            "bytes_per_token": (sizes, counts), "tokens_per_word": (counts, words),
        }  # fmt: skip
        if self.texts.train:
            ratios["bits_per_byte"] = (_code_lengths(tokenizer, self.texts, encoded), sizes)
        values = {name: [a / b for a, b in zip(*pair, strict=True)] for name, pair in ratios.items()}
        lost = sum(lost_bytes(tokenizer, text) for text in changed) / sum(sizes)
        costs: dict[str, float | None] = {
            "vocabulary": tokenizer.vocab_size, "train_seconds": trained, "lossless": 1 - len(changed) / len(counts),
            "lost": lost, "unknown": tokenizer.unknown_rate(texts),
            "encode_rate": sum(sizes) / _encode_seconds(tokenizer, texts),
        }  # fmt: skip
        for label in self.apart:
            own = [i for i, found in enumerate(self.texts.labels) if found == label]
            for name, (a, b) in ratios.items():
                costs[f"{name} of {label}"] = sum(a[i] for i in own) / sum(b[i] for i in own)
        ids = tokenizer.encode(self.texts.sentence)
        shown = f"{len(ids)} tokens: {' '.join(pieces(tokenizer, ids))}" if ids else ""
        return Measurement(values, costs, loses=_said(lost, len(changed), len(counts)), shown=shown)


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


def _code_lengths(tokenizer: Any, texts: HeldOutTexts, encoded: Sequence[np.ndarray]) -> list[float]:
    """Bits of every held-out document; see the module."""
    counts = np.full(tokenizer.vocab_size, 0.5)
    for text in texts.train() if texts.train else ():
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
