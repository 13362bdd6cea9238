"""The word-level tokenizer: ids by look-up, unknown words, offsets. `word.py` learns one, `hf` reads
one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import TokenizerError
from llmanac.kernels.split import word_level
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers._bpe import whole_tokens
from llmanac.tokenizers._counting import count_pieces
from llmanac.tokenizers._normal import Placed, compose, lowered, nfc, replace_surrogates
from llmanac.tokenizers._normal_tokens import NormalTokens
from llmanac.tokenizers.patterns.words import WordSplitter

Normal = Literal["none", "nfc", "lowercase"]


class WordLevel(Tokenizer):
    """A tokenizer whose tokens are words.

    A word outside the vocabulary becomes the unknown token, and where the pattern drops white space, it is gone: so
    decoding returns the known words, with one blank between them, and the unknown token for the others.

    Args:
        tokens: bytes of each id of the vocabulary proper; None where an id is unused.
        splitter: how text is cut into words.
        unknown: the id for words that the vocabulary lacks; without it such a text is an error.
        normal: what is done to the text first, in order.
        separator: what decoding puts between two words; a blank where the pattern drops white space.
        document: the `tokenizer.json` it came from, whose other parts `save` keeps.
        **roles: added tokens, bos, eos, pad, adds_bos, chat_template, as `Tokenizer` takes them.
    """

    lossless = False
    _guarded_tables = ("_table",)

    def __init__(
        self,
        *,
        tokens: Sequence[bytes | None],
        splitter: WordSplitter,
        unknown: int | None,
        normal: Sequence[Normal] = (),
        separator: bytes | None = None,
        document: dict[str, Any] | None = None,
        **roles: Any,
    ) -> None:
        super().__init__(**roles)
        self.tokens, self.splitter, self.unknown_id = list(tokens), splitter, unknown
        self.normal, self.document = tuple(normal), document
        if self.normal:
            self.added = NormalTokens(self.added.tokens, lambda text: self._normal_form(text)[0])
        self.separator = (b" " if splitter.dropping else b"") if separator is None else separator
        self.vocab_size = self.added.vocab_size(len(self.tokens))
        self._words_of_model = [id for id, data in enumerate(self.tokens) if data]
        self.tokens += [None] * (self.vocab_size - len(self.tokens))
        for token in self.added.tokens:
            self.tokens[token.id] = token.text.encode("utf-8")

    def _vocabulary(self) -> list[bytes | None]:
        table = list(self.tokens)
        for token in self.added.tokens:
            table[token.id] = self.added.written(token).encode("utf-8")
        return table

    def _normal_form(self, text: str) -> Placed:
        placed = replace_surrogates(text)
        for step in self.normal:
            placed = compose(placed, nfc(placed[0]) if step == "nfc" else lowercase(placed[0]))
        return placed

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """The words by their bytes. Special tokens are not among them: a text cannot write one."""
        ids = [id for id in self._words_of_model if id not in self._guarded_ids]
        return whole_tokens([self.tokens[id] or b"" for id in ids], np.array(ids, np.int32))

    @cached_property
    def _guards(self) -> bool:
        return bool(self.special_tokens)

    def _encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        clean = [self._normal_form(text)[0] for text in texts]
        buffer, used, ends = self.splitter.pack(clean)
        text_ends = np.empty(len(texts), np.int64)
        drops = int(bool(self.splitter.dropping))
        ids = word_level.word_ids(buffer, used, ends, *self.splitter.classes, drops, *self._table, text_ends)
        missing = ids == word_level.MISSING
        if missing.any():
            if self.unknown_id is None:
                word = self._first_missing(clean)
                raise TokenizerError(f"the vocabulary has no {word!r}, which the text holds, and no unknown token")
            ids[missing] = self.unknown_id
        return ids, text_ends

    def _first_missing(self, texts: Sequence[str]) -> str:
        known = {self.tokens[id] for id in self._words_of_model if id not in self._guarded_ids}
        found = (word for text in texts for word, _, _ in self._words(text) if word.encode("utf-8") not in known)
        return next(found, "")[:60]

    def _words(self, clean: str) -> list[tuple[str, int, int]]:
        """The words of a text in its normal form, and the characters of it where each starts and stops."""
        data = clean.encode("utf-8")
        stops = self.splitter.pack([clean])[2]
        starts = np.concatenate([[0], stops[:-1]]) if len(stops) else stops
        places = np.cumsum((np.frombuffer(data + b"a", np.uint8) & 0xC0) != 0x80) - 1
        spans = zip(places[starts].tolist(), places[stops].tolist(), strict=True)
        found = [(clean[a:b], a, b) for a, b in spans]
        spaces = self.splitter.is_space
        return [item for item in found if not (self.splitter.dropping and spaces(item[0][0]))]

    def _spans(self, ids: np.ndarray, text: str) -> list[tuple[int, int]]:
        clean, places = self._normal_form(text)
        spans = [(a, b) for _, a, b in self._words(clean)]
        return spans if places is None else [(int(places[a]), int(places[b])) for a, b in spans]

    def _extended(self, texts: Iterable[str], extra: int) -> WordLevel:
        """The `extra` most frequent unknown words of the texts get the next ids; known words keep theirs."""
        clean = (self._normal_form(text)[0] if isinstance(text, str) else text for text in texts)
        found = ranked_words(count_pieces(clean, self.splitter, "extend"), self.splitter)
        known = set(self.tokens)
        new = [word for word, _ in found if word not in known][:extra]
        return WordLevel(
            tokens=[*self.tokens, *new], splitter=self.splitter, unknown=self.unknown_id, normal=self.normal,
            separator=self.separator, document=self.document, **self._settings(),
        )  # fmt: skip

    def _identity(self) -> Any:
        digest = hashlib.sha256()
        for data in self.tokens:
            digest.update(b"\xff" if data is None else len(data).to_bytes(4, "little") + data)
        cut = [self.splitter.dropping, list(self.splitter.steps), list(self.normal), self.unknown_id]
        return ["word", digest.hexdigest(), *cut]


def lowercase(text: str) -> Placed:
    """The text in lower case, character by character, and where each of its characters was."""
    clean = lowered(text)
    if len(clean) == len(text):
        return clean, None
    places = [i for i, character in enumerate(text) for _ in lowered(character)]
    return clean, np.array([*places, len(text)], np.int64)


def ranked_words(
    counted: tuple[np.ndarray, np.ndarray, np.ndarray],
    splitter: WordSplitter,
    *,
    most: int | None = None,
    min_frequency: int = 0,
) -> list[tuple[bytes, int]]:
    """The `most` frequent words that become tokens and their counts; equally frequent ones in the order of their bytes.

    Args:
        counted: what `count_pieces` gives.
        min_frequency: words that occur less often are left out.
    """
    letters, offsets, counts = counted
    chosen = splitter.kept(letters, offsets) & (counts >= min_frequency)
    if most is not None and int(chosen.sum()) > most:  # words below the last count that is in are not worth sorting
        held = counts[chosen]
        chosen &= counts >= np.partition(held, len(held) - most)[len(held) - most]
    data, starts, stops = letters.tobytes(), offsets[:-1][chosen].tolist(), offsets[1:][chosen].tolist()
    found = sorted((data[a:b], n) for a, b, n in zip(starts, stops, counts[chosen].tolist(), strict=True))
    found.sort(key=lambda item: -item[1])
    return found[:most]


def special_first(special: Sequence[str], words: Sequence[bytes]) -> tuple[list[bytes | None], list[AddedToken]]:
    """`(tokens, added tokens)`: special tokens, then words. One that the text holds as a word takes the word's id, as
    in `tokenizers`, and leaves its own unused."""
    tokens: list[bytes | None] = [*(text.encode("utf-8") for text in special), *words]
    repeated = {data for data, n in Counter(tokens).items() if n > 1}
    last = {data: id for id, data in enumerate(tokens)}
    for id, data in enumerate(tokens):
        if data in repeated and id != last[data]:
            tokens[id] = None
    return tokens, [AddedToken(id=last[text.encode("utf-8")], text=text) for text in special]
