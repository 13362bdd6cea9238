"""Tokenizers: text to token ids and back. `load.py` has `load_tokenizer` and `train_tokenizer`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from llmanac.core.errors import SpecError
from llmanac.core.spec import Spec

if TYPE_CHECKING:
    from llmanac.tokenizers._base import Tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write a tokenizer's files. This is what `tokenizer.save(folder)` does: a method knows no file format."""
    from llmanac.tokenizers import load

    load.save(tokenizer, Path(folder))


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec(Spec):
    """Describes how to learn a tokenizer from text."""

    kind: ClassVar[str] = "tokenizer"
    learns: ClassVar[bool] = True  # whether the texts decide the ids

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Learn the tokenizer. Memory follows the distinct words, so `texts` may be a stream of any length."""
        raise SpecError(f"tokenizer/{self.name}: cannot be trained")
