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

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from llmanac.core.errors import SpecError, TokenizerError
from llmanac.kernels.bpe import train as bpe_train
from llmanac.tokenizers import TokenizerSpec
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers._byte_level import ALPHABET, BYTES, read
from llmanac.tokenizers._counting import count_pieces
from llmanac.tokenizers._roles import check_special_tokens, roles_of
from llmanac.tokenizers.patterns.splitter import Splitter, pattern_of

CARD = {
    "title": "Byte-level byte-pair encoding",
    "paper": "Sennrich, Haddow, Birch 2016, Neural Machine Translation of Rare Words with Subword Units, section 3.2",
    "reference": "tokenizers.trainers.BpeTrainer and tokenizers.models.BPE; tiktoken",
}


@dataclass(frozen=True, kw_only=True)
class Spec(TokenizerSpec):
    """How to learn a byte-level BPE.

    Attributes:
        vocab_size: ids in all: special tokens, 256 bytes, merges. A corpus too small for it gives fewer.
        pattern: how text is cut: gpt2, gpt4 (cl100k), llama3, o200k, qwen3, or a regex.
        special_tokens: control tokens, which take the ids from 0 on in this order.
        min_frequency: a pair that occurs less often is not merged.
        chat_template: Jinja source; unset, one made for `<|user|>` and `<|assistant|>` or `<|im_start|>`, if there.
    """

    vocab_size: int = 8192
    pattern: str = "gpt4"
    min_frequency: int = 0
    chat_template: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        special = self.special_tokens
        check_special_tokens(special)
        for i, text in enumerate(special):
            if len(text) == 1 and read(text) not in (None, text.encode("utf-8", "replace")):
                raise SpecError(f"special_tokens.{i}: {text!r} is how a vocabulary writes a byte; use a longer text")
        least = 256 + sum(text not in BYTES for text in special)
        if self.vocab_size < least:
            raise SpecError(f"vocab_size: {self.vocab_size} is less than 256 bytes + special tokens = {least}")
        if self.vocab_size >= 1 << 30:
            raise SpecError(f"vocab_size: {self.vocab_size} is more than ids can number ({1 << 30})")
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
        words, offsets, counts = count_pieces(texts, splitter, "tokenizer/bpe")
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
        most = min(self.vocab_size, len(tokens) + len(words))  # a merge leaves the words at least one symbol fewer
        learned = bpe_train.train(words, offsets, counts, byte_ids, spelled, len(tokens), most, self.min_frequency)
        for a, b, new in zip(
            *learned.merges[:, :3].T.tolist(), strict=True
        ):  # (a list a merge would wake the collector)
            data = tokens[a] + tokens[b]
            if new == len(tokens):
                tokens.append(data)
            elif tokens[new] != data:
                raise TokenizerError(
                    f"special token {special[new]!r}: is how the vocabulary writes {data!r}; rename it"
                )
        return BPE(
            tokens=tokens,
            merges=learned.merges[:, :3].T,
            splitter=splitter,
            added=[AddedToken(id=i, text=text) for i, text in enumerate(special)],
            **roles_of(self, special),
        )
