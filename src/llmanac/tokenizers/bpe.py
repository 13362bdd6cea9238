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

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import DataError, SpecError, TokenizerError
from llmanac.core.progress import progress
from llmanac.kernels import bpe_encode, bpe_train
from llmanac.kernels.words import WordCounts
from llmanac.tokenizers import TokenizerSpec
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers._byte_level import ALPHABET, BYTES, read
from llmanac.tokenizers._chat import default_template
from llmanac.tokenizers._normal import Placed, compose, mend_surrogates, nfc
from llmanac.tokenizers._patterns import Splitter, pattern_of

CARD = {
    "title": "Byte-level byte-pair encoding",
    "paper": "Sennrich, Haddow, Birch 2016, Neural Machine Translation of Rare Words with Subword Units, section 3.2",
    "reference": "tokenizers.trainers.BpeTrainer and tokenizers.models.BPE; tiktoken",
    "aliases": {},
}

_ENCODE: Any = bpe_encode.encode  # numba checks its arguments, mypy cannot
CHUNK = 1 << 23  # bytes of text that are counted or encoded at a time
CACHE_WORDS, CACHE_IDS = 1 << 18, 1 << 20  # rows of the word cache (8 MB) and ids beside it (4 MB)
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
        return BPE(
            tokens=tokens,
            merges=learned.merges[:, :3].T,
            splitter=splitter,
            added=[AddedToken(id=i, text=text) for i, text in enumerate(special)],
            bos=self.bos or _usual(BEGINS, special),
            eos=self.eos or _usual(ENDS, special),
            pad=self.pad or _usual(PADS, special),
            chat_template=self.chat_template or default_template(special),
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


class BPE(Tokenizer):
    """A byte-level BPE.

    Args:
        tokens: bytes of each id of the vocabulary proper; None where an id is unused or only an added token's.
        merges: (3, n) int32 ids `left, right, merged` in rank order.
        splitter: how text is cut into pieces.
        compose_nfc: whether text is put into Normalization Form C first (Qwen).
        prefix_space: whether a text gets a blank in front that does not start with one.
        whole_pieces: whether a piece that is a token as it stands is not merged (tiktoken, Llama-3).
        document: the `tokenizer.json` it came from, whose other parts `save` keeps.
        **roles: added tokens, bos, eos, pad, adds_bos, chat_template, as `Tokenizer` takes them.
    """

    def __init__(
        self,
        *,
        tokens: Sequence[bytes | None],
        merges: np.ndarray,
        splitter: Splitter,
        compose_nfc: bool = False,
        prefix_space: bool = False,
        whole_pieces: bool = False,
        document: dict[str, Any] | None = None,
        **roles: Any,
    ) -> None:
        super().__init__(**roles)
        self.tokens, self.merges, self.splitter = list(tokens), _last_of_each(merges), splitter
        self.compose_nfc, self.prefix_space, self.whole_pieces = compose_nfc, prefix_space, whole_pieces
        self.document = document
        highest = max((token.id for token in self.added.tokens), default=-1)
        self.vocab_size = max(len(self.tokens), highest + 1)
        for token in self.added.tokens:
            if token.id < len(self.tokens):
                self.tokens[token.id] = token.text.encode("utf-8")
        self._byte_ids = np.full(256, -1, np.int32)
        for id, data in enumerate(self.tokens):
            if data is not None and len(data) == 1:
                self._byte_ids[data[0]] = id

    def _vocabulary(self) -> list[bytes | None]:
        table = [*self.tokens, *[None] * (self.vocab_size - len(self.tokens))]
        for token in self.added.tokens:
            table[token.id] = token.text.encode("utf-8")
        return table

    @cached_property
    def _tables(self) -> tuple[np.ndarray, ...]:
        """What the encoding kernel needs: pairs, whole tokens and their bytes, the word cache and its counters."""
        pairs = bpe_encode.pair_table(*self.merges)
        whole, letters = np.zeros((1, 4), np.uint64), np.zeros(32, np.uint8)
        if self.whole_pieces:
            control = self._special_ids - set(self.merges[2].tolist()) - set(self._byte_ids.tolist())
            ids = [id for id, data in enumerate(self.tokens) if data is not None and id not in control]
            whole, letters = whole_tokens([self.tokens[id] or b"" for id in ids], np.array(ids, np.int32))
        cache, arena = np.zeros((CACHE_WORDS, 4), np.uint64), np.empty(CACHE_IDS, np.int32)
        return pairs, whole, letters, cache, arena, np.zeros(4, np.int64)

    def _normal_form(self, text: str) -> Placed:
        mended = mend_surrogates(text)
        return compose(mended, nfc(mended[0])) if self.compose_nfc else mended

    def _prefix(self, text: str) -> str:
        return " " if self.prefix_space and text and not text.startswith(" ") else ""

    def _prepared(self, text: str) -> str:
        clean = self._normal_form(text)[0]
        return self._prefix(clean) + clean

    def _encode_plain(self, texts: Sequence[str]) -> list[np.ndarray]:
        out: list[np.ndarray] = []
        start = 0
        while start < len(texts):
            stop, size = start, 0
            while stop < len(texts) and (size < CHUNK or stop == start):
                size += len(texts[stop])
                stop += 1
            buffer, used, ends = self.splitter.pack([self._prepared(text) for text in texts[start:stop]])
            text_ends = np.empty(stop - start, np.int64)
            *tables, counters = self._tables
            arguments = (buffer, used, *self.splitter.classes, self.splitter.mode, ends, self._byte_ids)
            ids = _ENCODE(*arguments, *tables, counters, text_ends)
            if counters[bpe_encode.MISSING]:
                byte = int(counters[bpe_encode.MISSING]) - 1
                counters[bpe_encode.MISSING] = 0
                raise TokenizerError(f"the vocabulary has no token for the byte 0x{byte:02X}, which the text holds")
            firsts = [0, *text_ends[:-1].tolist()]
            out += [ids[a:b] for a, b in zip(firsts, text_ends.tolist(), strict=True)]
            start = stop
        return out

    def _identity(self) -> Any:
        digest = hashlib.sha256(self.merges.tobytes())
        for data in self.tokens:
            digest.update(b"\xff" if data is None else len(data).to_bytes(4, "little") + data)
        rules = [self.compose_nfc, self.prefix_space, self.whole_pieces]
        return [digest.hexdigest(), list(self.splitter.steps), rules]

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, as Hugging Face reads them."""
        from llmanac.tokenizers._tokenizer_json import write

        write(self, Path(folder))


def _last_of_each(merges: np.ndarray) -> np.ndarray:
    """The merges without repeats: a pair learned twice keeps its last rank, as in `tokenizers`."""
    keys = (merges[0].astype(np.int64) << 32) | merges[1]
    kept = np.sort(len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1])
    return np.ascontiguousarray(merges[:, kept], np.int32)


def whole_tokens(data: Sequence[bytes], ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(table of tokens by their bytes, those bytes padded for the kernels)`."""
    lengths = np.array([len(item) for item in data], np.int64)
    letters = np.frombuffer(b"".join([*data, bytes(32)]), np.uint8)
    return bpe_encode.whole_table(letters, np.cumsum(lengths) - lengths, lengths, ids), letters
