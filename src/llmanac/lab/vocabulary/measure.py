"""Measurements of a tokenizer on text of several kinds.

bytes per token     UTF-8 bytes of the text / tokens                      how short sequences are
tokens per word     tokens / runs of word characters (fertility)          languages compare by it: 1 is a token a word
unknown             unknown tokens / tokens
comes back          texts that decode to themselves / texts
speed               bytes / CPU seconds of encoding, the median of a few passes
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.lab.arms import parse_arm
from llmanac.lab.vocabulary.shown import pieces
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers.load import load_tokenizer

WORD = re.compile(r"\w+")
ALL = "all"
ROUNDS, LEAST_SECONDS = 3, 0.02


@dataclass(frozen=True)
class Row:
    """One tokenizer on one group of texts."""

    bytes: int
    words: int
    tokens: int
    unknown: float
    comes_back: float
    bytes_per_token: float
    tokens_per_word: float | None
    megabytes_per_second: float


@dataclass(frozen=True)
class Measured:
    """One tokenizer on every group, on all of them under `all`, and the tokens of the sentence."""

    label: str
    vocabulary: int
    train_seconds: float | None
    groups: dict[str, Row]
    pieces: list[str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def open_or_train(item: str, texts: Callable[[], Any] | None) -> tuple[str, Tokenizer, float | None]:
    """`(label, tokenizer, seconds it took to train)`: a folder or file is read, `bpe{vocab_size=4096}` is trained.

    Raises:
        SpecError: neither such a file nor a method, or nothing to train on.
    """
    from pathlib import Path

    if Path(item).exists():
        return Path(item).name or item, load_tokenizer(item), None
    arm = parse_arm(item)
    spec = make_method("tokenizer", arm.value, item)
    if texts is None:
        raise SpecError(f"{item!r} is to be trained, but there is no text for it; give --train, or no --every 1")
    start = time.perf_counter()
    return arm.label, spec.train(texts()), time.perf_counter() - start


def measure(label: str, tokenizer: Tokenizer, groups: Mapping[str, Sequence[str]], sentence: str) -> Measured:
    """Every figure of one tokenizer. Raises DataError for a group without text."""
    rows = {name: _row(tokenizer, texts) for name, texts in groups.items()}
    if len(rows) > 1:
        rows[ALL] = _row(tokenizer, [text for texts in groups.values() for text in texts])
    return Measured(label, tokenizer.vocab_size, None, rows, pieces(tokenizer, tokenizer.encode(sentence)))


def _row(tokenizer: Tokenizer, texts: Sequence[str]) -> Row:
    if not texts:
        raise DataError("a group has no text to be measured on")
    encoded = tokenizer.encode_batch(texts)
    tokens = sum(map(len, encoded))
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    words = sum(len(WORD.findall(text)) for text in texts)
    unknown = 0
    if tokenizer.unknown_id is not None:
        unknown = sum(int((ids == tokenizer.unknown_id).sum()) for ids in encoded)
    same = sum(tokenizer.decode(ids) == text for ids, text in zip(encoded, texts, strict=True))
    return Row(
        bytes=size,
        words=words,
        tokens=tokens,
        unknown=unknown / tokens if tokens else 0.0,
        comes_back=same / len(texts),
        bytes_per_token=size / max(1, tokens),
        tokens_per_word=tokens / words if words else None,
        megabytes_per_second=size / 1e6 / _seconds(lambda: tokenizer.encode_batch(texts)),
    )


def _seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of one call, from rounds long enough for the clock."""
    taken = []
    for _ in range(ROUNDS):
        calls, start = 0, time.process_time()
        while calls == 0 or time.process_time() - start < LEAST_SECONDS:
            work()
            calls += 1
        taken.append((time.process_time() - start) / calls)
    return statistics.median(taken)
