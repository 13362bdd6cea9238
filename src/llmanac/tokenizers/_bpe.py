"""The byte-level BPE tokenizer: encoding, decoding, its identity. `bpe.py` learns one, `hf` and
`_tiktoken.py` read one."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from llmanac.core.errors import TokenizerError
from llmanac.core.threads import Spares
from llmanac.kernels.bpe import dropout as bpe_dropout
from llmanac.kernels.bpe import encode as bpe_encode
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers._byte_level import read
from llmanac.tokenizers._normal import Placed, compose, nfc, replace_surrogates
from llmanac.tokenizers._normal_tokens import NormalTokens
from llmanac.tokenizers._word_cache import WordCache
from llmanac.tokenizers.patterns.splitter import Splitter

_ENCODE: Any = bpe_encode.encode
_SAMPLE: Any = bpe_dropout.sample  # numba checks its arguments, mypy cannot
NO_MERGES = np.empty((3, 0), np.int32)


class BPE(Tokenizer):
    """A byte-level BPE.

    Args:
        tokens: bytes of each id of the vocabulary proper; None where an id is unused or only an added token's.
        merges: (3, n) int32 ids `left, right, merged` in rank order.
        splitter: how text is cut into pieces.
        compose_nfc: whether text is put into Normalization Form C first (Qwen).
        prefix_space: whether a text that does not start with a space gets one in front.
        unknown: the token for a byte that the vocabulary lacks (few lack any); without it such a text is an error.
        whole_pieces: whether a piece that is itself a token is not merged (tiktoken, Llama-3).
        document: the `tokenizer.json` it came from, whose other parts `save` keeps.
        **roles: added tokens, bos, eos, pad, adds_bos, chat_template, as `Tokenizer` takes them.
    """

    _threads_help = True
    _guarded_tables = ("_tables", "_words")

    def __init__(
        self,
        *,
        tokens: Sequence[bytes | None],
        merges: np.ndarray,
        splitter: Splitter,
        compose_nfc: bool = False,
        prefix_space: bool = False,
        whole_pieces: bool = False,
        unknown: int | None = None,
        document: dict[str, Any] | None = None,
        **roles: Any,
    ) -> None:
        super().__init__(**roles)
        self.tokens, self.merges, self.splitter = list(tokens), _last_of_each(merges), splitter
        self.compose_nfc, self.prefix_space, self.whole_pieces = compose_nfc, prefix_space, whole_pieces
        self.document, self.unknown_id = document, unknown
        if compose_nfc:
            self.added = NormalTokens(self.added.tokens, lambda text: self._normal_form(text)[0])
        self.vocab_size = self.added.vocab_size(len(self.tokens))
        for token in self.added.tokens:
            if token.id < len(self.tokens) and self.tokens[token.id] is None:
                self.tokens[token.id] = token.text.encode("utf-8")
        self._byte_ids = np.full(256, -1, np.int32)
        for id, data in enumerate(self.tokens):
            if data is not None and len(data) == 1:
                self._byte_ids[data[0]] = id
        self._lacks_bytes = unknown is not None and bool((self._byte_ids < 0).any())
        if unknown is not None:
            self._byte_ids[self._byte_ids < 0] = unknown

    def _vocabulary(self) -> list[bytes | None]:
        table = [*self.tokens, *[None] * (self.vocab_size - len(self.tokens))]
        for token in self.added.tokens:
            text = self.added.written(token)
            # A ByteLevel decoder reads letters of its alphabet as bytes, in added tokens too.
            table[token.id] = (None if self.document is None else read(text)) or text.encode("utf-8")
        return table

    @cached_property
    def _tables(self) -> tuple[np.ndarray, ...]:
        """What the encoding kernel needs: pairs, whole tokens and their bytes."""
        pairs = bpe_encode.pair_table(*self.merges)
        whole, letters = np.zeros((1, 4), np.uint64), np.frombuffer(bytes(32), np.uint8)  # read-only, as below
        if self.whole_pieces:
            control = self._guarded_ids - self._reached
            ids = [id for id, data in enumerate(self.tokens) if data is not None and id not in control]
            whole, letters = whole_tokens([self.tokens[id] or b"" for id in ids], np.array(ids, np.int32))
        return pairs, whole, letters

    @cached_property
    def _words(self) -> Spares[WordCache]:
        return Spares(WordCache)

    @cached_property
    def _reached(self) -> frozenset[int]:
        """The ids that merges and bytes lead to."""
        return frozenset([*self.merges[2].tolist(), *self._byte_ids.tolist()])

    @cached_property
    def _guards(self) -> bool:
        return self.whole_pieces and any(id < len(self.tokens) for id in self._special_ids - self._reached)

    def forget_words(self) -> None:
        """Empty the word cache (it is bounded, and empties itself when it is full)."""
        for cache in self._words.idle:
            cache.forget()

    def _normal_form(self, text: str) -> Placed:
        clean = replace_surrogates(text)
        return compose(clean, nfc(clean[0])) if self.compose_nfc else clean

    def _lengths(self, ids: np.ndarray, data: bytes) -> np.ndarray:
        lengths = super()._lengths(ids, data)
        name = (self._bytes[self.unknown_id] if self.unknown_id is not None else None) or b""
        if not self._lacks_bytes or not (ids == self.unknown_id).any():
            return lengths
        for may_be_written in (False, True):  # the unknown token is one byte, or its own text
            at, found = 0, lengths.copy()
            for i in np.flatnonzero(ids == self.unknown_id).tolist():
                at = int(found[:i].sum())
                found[i] = len(name) if may_be_written and data.startswith(name, at) else 1
            if int(found.sum()) == len(data):
                return found
        raise TokenizerError(f"offsets: {name!r} in the text cannot be distinguished from bytes that have no token")

    def _prefix(self, text: str) -> str:
        return " " if self.prefix_space and text and not text.startswith(" ") else ""

    def _prepared(self, text: str) -> str:
        clean = self._normal_form(text)[0]
        return self._prefix(clean) + clean

    def _cut_after(self, text: str, start: int) -> int:
        # What follows a cut is not the beginning of a text, and is one for a prefix; normal forms may join characters.
        return len(text) if self.prefix_space else self.splitter.cut_after(text, start)

    def _encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        buffer, used, ends = self.splitter.pack([self._prepared(text) for text in texts])
        text_ends = np.empty(len(texts), np.int64)
        return self._encode_packed(buffer, used, self.splitter.mode, ends, text_ends), text_ends

    def _encode_packed(
        self, buffer: np.ndarray, used: int, mode: int, ends: np.ndarray, text_ends: np.ndarray
    ) -> np.ndarray:
        """Ids of every text of a packed buffer; fills `text_ends`."""
        arguments = (buffer, used, *self.splitter.classes, mode, ends, self._byte_ids, *self._tables)
        with self._words.one() as known:
            counters, out = known.counters, known.room(used + 8)
            count = _ENCODE(*arguments, known.rows, known.arena, counters, text_ends, out)
            if counters[bpe_encode.MISSING]:
                byte = int(counters[bpe_encode.MISSING]) - 1
                counters[bpe_encode.MISSING] = 0
                raise TokenizerError(_no_token(byte))
            return out[:count].copy()

    def _extended(self, texts: Iterable[str], extra: int) -> BPE:
        from llmanac.tokenizers._extend import learn_further

        tokens, merges = learn_further(self, texts, extra)
        gap: list[bytes | None] = [None] * (self.vocab_size - len(self.tokens))
        return BPE(
            tokens=[*self.tokens, *gap, *tokens], merges=np.concatenate([self.merges, merges], axis=1),
            splitter=self.splitter, compose_nfc=self.compose_nfc, prefix_space=self.prefix_space,
            whole_pieces=self.whole_pieces, unknown=self.unknown_id, document=self.document, **self._settings(),
        )  # fmt: skip

    def sample(self, text: str, *, seed: int, dropout: float = 0.1, **choices: Any) -> list[int]:
        """Ids of one segmentation by BPE-dropout (Provilkov et al. 2020).

        Every time a merge could be done it is left out with probability `dropout`: 0 gives `encode`, 1 the single
        bytes. The whole-piece rule of tiktoken holds at 0 only, as in `tokenizers`.

        Raises:
            TokenizerError: `dropout` is no probability, `seed` no whole number, another choice is named, the vocabulary
                has no merges to leave out, or it lacks a byte of the text.
        """
        if not self.merges.shape[1]:
            return super().sample(text, seed=seed, **choices)
        if choices:
            raise TokenizerError(f"sample: {min(choices)!r} is no choice of a BPE; it has dropout")
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
            raise TokenizerError(f"sample: dropout is {dropout!r}, not a probability between 0 and 1")
        if not isinstance(seed, (int, np.integer)):
            raise TokenizerError(f"sample: seed is {seed!r}, not a whole number")
        if dropout == 0:
            return self.encode(text)
        seeds = map(scrambled, itertools.count(int(seed) << 20))

        def plainly(parts: Sequence[str]) -> list[np.ndarray]:
            return [self._sample_plain(part, dropout, next(seeds)) for part in parts]

        return self._encode(text, "never", plainly).tolist()

    def _sample_plain(self, text: str, dropout: float, seed: int) -> np.ndarray:
        if dropout == 1:
            data = np.frombuffer(self._prepared(text).encode("utf-8"), np.uint8)
            ids = self._byte_ids[data]
            missing = int(data[np.argmin(ids)]) + 1 if (ids < 0).any() else 0
        else:
            buffer, used, ends = self.splitter.pack([self._prepared(text)])
            dropped = np.uint64(min(int(dropout * 2.0**64), (1 << 64) - 1))
            places = (buffer, used, *self.splitter.classes, self.splitter.mode, ends)
            ids, missing = _SAMPLE(*places, self._byte_ids, self._tables[0], dropped, np.uint64(seed))
        if missing:
            raise TokenizerError(_no_token(int(missing) - 1))
        return ids

    def _identity(self) -> Any:
        digest = hashlib.sha256(self.merges.tobytes())
        for data in self.tokens:
            digest.update(b"\xff" if data is None else len(data).to_bytes(4, "little") + data)
        rules = [self.compose_nfc, self.prefix_space, self.whole_pieces, self.unknown_id]
        return [digest.hexdigest(), list(self.splitter.steps), rules]


def _no_token(byte: int) -> str:
    return f"the vocabulary has no token for the byte 0x{byte:02X}, which the text holds"


def scrambled(number: int) -> int:
    """An integer hashed to 64 bits, so that neighbouring seeds give independent draws."""
    return int.from_bytes(hashlib.blake2b(str(number).encode(), digest_size=8).digest(), "little")


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
