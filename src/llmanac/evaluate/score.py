"""Scoring text: how probable a language model finds it, token by token.

    score("runs/quickstart", ["The cat sat.", "Sat cat the."])

A text follows the model's start token (bos, else eos) and is scored as one; what is longer than the model's context is
read in windows (`evaluate/likelihood.py`). A natural text has a higher log-likelihood than the same words shuffled:
ranking texts by it tells them apart with no training at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.errors import DataError, SpecError
from llmanac.evaluate.likelihood import check_texts, text_logprobs
from llmanac.metrics import utf8_bytes, words
from llmanac.metrics.log_likelihood import log_likelihood
from llmanac.metrics.perplexity import bits_per_unit, perplexity
from llmanac.models.pairs import start_token


@dataclass(frozen=True, eq=False)
class Scored:
    """One text under one model; figures of a text without a token are NaN.

    Attributes:
        ids: its tokens, the start token not among them.
        logprobs: (T,) ln p of each, float64.
        pieces: the text of each token, for a table.
    """

    text: str
    ids: tuple[int, ...]
    logprobs: np.ndarray
    pieces: tuple[str, ...]

    @property
    def log_likelihood(self) -> float:
        """In nats."""
        return log_likelihood(self.logprobs)

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def perplexity(self) -> float:
        """Per token."""
        return perplexity(self.log_likelihood, self.tokens)

    @property
    def word_perplexity(self) -> float:
        return perplexity(self.log_likelihood, words(self.text) if self.ids else 0)

    @property
    def byte_perplexity(self) -> float:
        return perplexity(self.log_likelihood, utf8_bytes(self.text))

    @property
    def bits_per_byte(self) -> float:
        return bits_per_unit(self.log_likelihood, utf8_bytes(self.text))

    def as_json(self, *, table: bool = False) -> dict[str, Any]:
        """One line of `llmanac score --json`; a figure that is not finite is null.

        Args:
            table: each token with its text and log-probability too.
        """
        names = ("log_likelihood", "tokens", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
        line: dict[str, Any] = {"text": self.text, **{name: finite(getattr(self, name)) for name in names}}
        line["bytes"] = utf8_bytes(self.text)
        if table:
            rows = zip(self.ids, self.pieces, self.logprobs.tolist(), strict=True)
            line["token_table"] = [{"id": i, "text": text, "logprob": finite(value)} for i, text, value in rows]
        return line


def finite(value: float) -> float | None:
    """The number, or None where it is infinite or not a number: JSON has neither."""
    return value if math.isfinite(value) else None


def score(model: Any, texts: str | Sequence[str], tokenizer: Any = None, **how: Any) -> list[Scored]:
    """Score texts.

    Args:
        model: any `LanguageModel` with its `tokenizer`, or the path of a run or a model.
        texts: one text or several.
        how: window, context, batch_tokens of `likelihood.text_logprobs`; dtype and device too where a path is given.

    Raises:
        SpecError: a tokenizer in the place of the texts, or something else in the tokenizer's.
        DataError: an item that is not a text, or a tokenizer without a start token.
        LlmanacError: a model that cannot be loaded.
    """
    if is_tokenizer(texts):
        raise SpecError("texts: is a tokenizer; call score(model, texts, tokenizer)")
    if tokenizer is not None and not is_tokenizer(tokenizer):
        raise SpecError(
            f"tokenizer: {type(tokenizer).__name__} is not a tokenizer; call score(model, texts, tokenizer) with "
            "one that load_tokenizer returns"
        )
    texts = [texts] if isinstance(texts, str) else list(texts)
    check_texts(texts)
    if tokenizer is None:
        from llmanac.generate.load import load_engine

        loading = {key: how.pop(key) for key in ("dtype", "device") if key in how}
        engine = load_engine(model, **loading)
        model, tokenizer = engine.model, engine.tokenizer
    first = start_token(tokenizer)
    if first is None:
        raise DataError("score: this tokenizer has no bos or eos token to begin a text with")
    encoded = [tokenizer.encode(text) for text in texts]
    found = text_logprobs(model, encoded, first, **how)
    return [
        Scored(text, tuple(map(int, ids)), values, tuple(piece(tokenizer, i) for i in ids))
        for text, ids, values in zip(texts, encoded, found, strict=True)
    ]


def is_tokenizer(given: Any) -> bool:
    """Whether something turns texts into ids; a text's own `encode` does not."""
    return hasattr(given, "encode") and not isinstance(given, str)


def piece(tokenizer: Any, id: int) -> str:
    """A token's own text; bytes that are not a complete character are shown as U+FFFD."""
    return str(tokenizer.token_bytes(int(id)).decode("utf-8", "replace"))
