"""Tokenizers: text to token ids and back. `load.py` has `load_tokenizer` and `train_tokenizer`."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from llmanac.core.errors import SpecError
from llmanac.core.spec import Spec
from llmanac.tokenizers._base import Special as Special
from llmanac.tokenizers._base import Tokenizer as Tokenizer
from llmanac.tokenizers._mixture import Mixture as Mixture
from llmanac.tokenizers._mixture import VocabularyMixtureSpec as VocabularyMixtureSpec
from llmanac.tokenizers._mixture import parse_weights as parse_weights
from llmanac.tokenizers._roles import BEGINS as BEGINS
from llmanac.tokenizers._roles import ENDS as ENDS
from llmanac.tokenizers._roles import PADS as PADS


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write a tokenizer's files. This is what `tokenizer.save(folder)` does: a method knows no file format."""
    from llmanac.tokenizers import load

    load.save(tokenizer, Path(folder))


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec(Spec):
    """Describes how to learn a tokenizer from text.

    Attributes:
        special_tokens: control tokens.
        bos, eos, pad: which special token begins a text, ends it, fills a batch; unset, the one with a usual name for
            it (`<s>`, `<|begin_of_text|>`; `</s>`, `<|endoftext|>`, `<|end|>`, `<|im_end|>`; `<pad>`, `<|pad|>`).
    """

    kind: ClassVar[str] = "tokenizer"
    learns: ClassVar[bool] = True  # whether the texts decide the ids

    special_tokens: tuple[str, ...] = ("<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None

    @property
    def vocab_size(self) -> int | None:
        """Ids in all; None where the method itself says how many."""
        return None

    @property
    def chat_template(self) -> str | None:
        return None

    def __post_init__(self) -> None:
        super().__post_init__()
        for role, named in (("bos", self.bos), ("eos", self.eos), ("pad", self.pad)):
            if named is not None and named not in self.special_tokens:
                raise SpecError(f"{role}: {named!r} is not among special_tokens")

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Learn the tokenizer. Memory follows the distinct words, so `texts` may be a stream of any length."""
        raise SpecError(f"tokenizer/{self.name}: cannot be trained")
