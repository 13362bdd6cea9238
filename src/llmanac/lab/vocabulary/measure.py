"""Measurements of a tokenizer on text of several kinds.

bytes per token     UTF-8 bytes of the text / tokens                      how short sequences are
tokens per word     tokens / runs of word characters (fertility)          languages compare by it: 1 is a token a word
unknown             unknown tokens / tokens
comes back          texts that decode to themselves / texts
speed               bytes / CPU seconds of encoding one text after another, as `llmanac compare tokenizer` has it
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.lab.arms import parse_arm
from llmanac.lab.trials.tokenizers import _WORD, _encode_seconds
from llmanac.lab.vocabulary.shown import pieces
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers.load import load_tokenizer

ALL = "all"


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


def measure(
    label: str, tokenizer: Tokenizer, seconds: float | None, groups: Mapping[str, Sequence[str]], sentence: str
) -> Measured:
    """Every figure of one tokenizer; `seconds` it took to train. Raises DataError for a group without text."""
    rows = {name: _row(tokenizer, texts) for name, texts in groups.items()}
    if len(rows) > 1:
        rows[ALL] = _row(tokenizer, [text for texts in groups.values() for text in texts])
    return Measured(label, tokenizer.vocab_size, seconds, rows, pieces(tokenizer, tokenizer.encode(sentence)))


def _row(tokenizer: Tokenizer, texts: Sequence[str]) -> Row:
    if not texts:
        raise DataError("a group has no text to be measured on")
    encoded = tokenizer.encode_batch(texts)
    tokens = sum(map(len, encoded))
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    words = sum(len(_WORD.findall(text)) for text in texts)
    lost = tokenizer.unknown_id
    unknown = 0 if lost is None else sum(int((ids == lost).sum()) for ids in encoded)
    same = sum(tokenizer.decode(ids) == text for ids, text in zip(encoded, texts, strict=True))
    return Row(
        size, words, tokens, unknown / max(1, tokens), same / len(texts), size / max(1, tokens),
        tokens / words if words else None, size / 1e6 / _encode_seconds(tokenizer, texts),
    )  # fmt: skip
