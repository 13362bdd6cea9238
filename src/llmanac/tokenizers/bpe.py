"""Byte-pair encoding over bytes (Sennrich, Haddow, Birch 2016; over bytes: Radford et al. 2019).

Text is cut into pieces (words, roughly) and each piece is a sequence of its UTF-8 bytes, so every text can be written
and nothing is ever unknown. Training counts, over all distinct pieces w with their counts c(w), the pairs of neighbours

    n(a, b) = sum over w of c(w) * (occurrences of a b in w)

merges the most frequent pair into a new token, and repeats until the vocabulary is full; of equally frequent pairs the
one with the lower ids goes first. Encoding replays this in each piece: of the pairs at hand, the one learned first is
merged, leftmost first, until none is left. A token is what was frequent enough to be worth an id: frequent words are
one token, rare ones a few.

Ids: special tokens first, then the 256 bytes, then the merges in the order learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llmanac.core.errors import DataError, SpecError, TokenizerError
from llmanac.core.progress import progress
from llmanac.kernels import bpe_train
from llmanac.kernels.words import WordCounts
from llmanac.tokenizers import TokenizerSpec
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers._byte_level import ALPHABET, BYTES, read
from llmanac.tokenizers._chat import default_template
from llmanac.tokenizers._normal import mend_surrogates
from llmanac.tokenizers._patterns import Splitter, pattern_of

CARD = {
    "title": "Byte-level byte-pair encoding",
    "paper": "Sennrich, Haddow, Birch 2016, Neural Machine Translation of Rare Words with Subword Units, section 3.2",
    "reference": "tokenizers.trainers.BpeTrainer and tokenizers.models.BPE; tiktoken",
    "aliases": {},
}

CHUNK = 1 << 23  # bytes of text that are counted at a time
BEGINS = ("<|begin_of_text|>", "<|startoftext|>", "<|bos|>", "<|begin|>", "<s>", "<bos>", "[BOS]")
ENDS = ("<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<|eos|>", "</s>", "<eos>", "[EOS]")
PADS = ("<|pad|>", "<pad>", "[PAD]")


@dataclass(frozen=True, kw_only=True)
class Spec(TokenizerSpec):
    """How to learn a byte-level BPE.

    Attributes:
        vocab_size: ids in all: special tokens, 256 bytes, merges. A corpus too small for it gives fewer.
        pattern: how text is cut: gpt2, gpt4 (cl100k), llama3, o200k, qwen3, or a regex.
        special_tokens: control tokens, which take the ids from 0 on in this order.
        min_frequency: a pair that occurs less often is not merged.
        bos, eos, pad: which special token begins a text, ends it, fills a batch; unset, the one with a usual name for
            it (`<s>`, `<|begin_of_text|>`; `</s>`, `<|endoftext|>`, `<|end|>`, `<|im_end|>`; `<pad>`, `<|pad|>`).
        chat_template: Jinja source; unset, one made for `<|user|>` and `<|assistant|>` or `<|im_start|>`, if there.
    """

    vocab_size: int = 8192
    pattern: str = "gpt4"
    special_tokens: tuple[str, ...] = ("<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
    min_frequency: int = 0
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    chat_template: str | None = None

    def __post_init__(self) -> None:
        special = self.special_tokens
        for i, text in enumerate(special):
            if not text or text in special[:i]:
                raise SpecError(f"special_tokens.{i}: {text!r} is {'given twice' if text else 'empty'}")
            if len(text) == 1 and read(text) not in (None, text.encode("utf-8", "replace")):
                raise SpecError(f"special_tokens.{i}: {text!r} is how a vocabulary writes a byte; use a longer text")
        least = 256 + sum(text not in BYTES for text in special)
        if self.vocab_size < least:
            raise SpecError(f"vocab_size: {self.vocab_size} is less than 256 bytes + special tokens = {least}")
        if self.vocab_size >= 1 << 30:
            raise SpecError(f"vocab_size: {self.vocab_size} is more than ids can number ({1 << 30})")
        for role in ("bos", "eos", "pad"):
            if getattr(self, role) is not None and getattr(self, role) not in special:
                raise SpecError(f"{role}: {getattr(self, role)!r} is not among special_tokens")
        try:
            Splitter([pattern_of(self.pattern)])
        except SpecError as error:
            raise SpecError(f"pattern: {error}") from None

    def train(self, texts: Iterable[str]) -> BPE:
        """Learn the merges from a stream of texts.

        Raises:
            DataError: no text at all, or an item that is no text.
            TokenizerError: a merge spells a special token in another encoding.
        """
        splitter = Splitter([pattern_of(self.pattern)])
        counted = WordCounts(*splitter.classes, splitter.mode)
        with progress("count words", unit="B") as bar:
            for chunk in _chunks(texts):
                buffer, used, ends = splitter.pack(chunk)
                counted.add(buffer, used, ends)
                bar.advance(used, words=counted.unique)
        words, offsets, counts = counted.arrays()
        if not counted.unique:
            raise DataError("tokenizer/bpe: the texts to learn from are empty")
        if len(words) + counted.unique >= 1 << 31:
            raise DataError(f"tokenizer/bpe: {len(words)} bytes of distinct words are more than can be numbered (2^31)")
        special = list(self.special_tokens)
        tokens: list[bytes | None] = [text.encode("utf-8") for text in special]
        byte_ids = np.empty(256, np.int32)
        for character in ALPHABET:
            if character in special:  # a special token that is this very byte, as in `tokenizers`
                byte_ids[BYTES[character]] = special.index(character)
            else:
                byte_ids[BYTES[character]] = len(tokens)
                tokens.append(bytes([BYTES[character]]))
        spelled = [read(text) or b"" for text in special]
        learned = bpe_train.train(
            words, offsets, counts, byte_ids, spelled, len(tokens), self.vocab_size, self.min_frequency
        )
        for a, b, new, _ in learned.merges.tolist():
            data = tokens[a] + tokens[b]
            if new == len(tokens):
                tokens.append(data)
            elif tokens[new] != data:
                raise TokenizerError(
                    f"special token {special[new]!r}: is how the vocabulary writes {data!r}; rename it"
                )
        eos = self.eos or _usual(ENDS, special)
        template = default_template(special, eos=eos, no_roles=(*BEGINS, *ENDS, *PADS, self.bos, self.pad))
        return BPE(
            tokens=tokens,
            merges=learned.merges[:, :3].T,
            splitter=splitter,
            added=[AddedToken(id=i, text=text) for i, text in enumerate(special)],
            bos=self.bos or _usual(BEGINS, special),
            eos=eos,
            pad=self.pad or _usual(PADS, special),
            chat_template=self.chat_template or template,
        )


def _usual(names: Sequence[str], special: Sequence[str]) -> str | None:
    return next((name for name in names if name in special), None)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts, mended, in lists of about `CHUNK` bytes."""
    if isinstance(texts, str):
        raise DataError("tokenizer/bpe: expected many texts, got one; put it into a list")
    held: list[str] = []
    size = 0
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"tokenizer/bpe: text {i} is {type(text).__name__}, not str")
        held.append(mend_surrogates(text)[0])
        size += len(text)
        if size >= CHUNK:
            yield held
            held, size = [], 0
    if held:
        yield held
