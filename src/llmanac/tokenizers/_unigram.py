"""The SentencePiece tokenizer: normalising, cutting, decoding, sampling, its identity.

`sentencepiece.py` learns one, `spm` reads its files, `hf` the `tokenizer.json` of such models.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from llmanac.core.errors import TokenizerError
from llmanac.core.threads import Spares
from llmanac.kernels.sentencepiece import cut as unigram_cut
from llmanac.kernels.sentencepiece import merge as unigram_random
from llmanac.kernels.sentencepiece import sample as unigram_sample
from llmanac.tokenizers import _pieces as spm
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers._checks import id_list
from llmanac.tokenizers._normal import replace_surrogates
from llmanac.tokenizers._spm_normalizer import SentencePieceNormalizer
from llmanac.tokenizers._unigram_tables import Tables
from llmanac.tokenizers._word_cache import WordCache

_SAMPLE: Any = unigram_sample.sample  # numba checks its arguments, mypy cannot
DRAWN_WORDS, DRAWS = 1 << 16, 1 << 21  # words whose draws are kept (2 MB), and rows of draws (32 MB at most)
MOST_BEST = 512
EACH_BYTE = "llmanac_each_byte"


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    """U+FFFD for one byte at a time, as the library writes what is no UTF-8; Python's own makes one of several."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd", error.start + 1


codecs.register_error(EACH_BYTE, _replace_each_byte)


class SentencePiece(Tokenizer):
    """A unigram or BPE model over normalised text, spaces included.

    `decode(encode(text))` is the text where the rules are `identity` with neither an added nor a removed space, the
    spaces are not written U+2581, and every byte has a piece; other rules lose what they are there to lose.

    Args:
        model: vocabulary, scores and rules.
        **roles: added tokens, bos, eos, pad, adds_bos, chat_template, as `Tokenizer` takes them.

    Raises:
        TokenizerError: the model's compiled rules are broken.
    """

    def __init__(self, model: spm.Model, **roles: Any) -> None:
        super().__init__(**roles)
        self.model = model
        self.pieces, self.rules = model.pieces, model.rules
        self.kind = spm.TYPES[model.setting("model_type")]
        self.byte_fallback = bool(model.setting("byte_fallback"))
        self.unknown = next(id for id, piece in enumerate(self.pieces) if piece.type == spm.UNKNOWN)
        kept = [piece.text for piece in self.pieces if piece.type == spm.USER_DEFINED]
        suffix = bool(model.setting("treat_whitespace_as_suffix"))
        self.normalizer = SentencePieceNormalizer(self.rules, suffix=suffix, kept=kept)
        changed = self.rules.charsmap or self.rules.remove_extra_whitespaces or self.rules.escape_whitespaces
        self.lossless = self.byte_fallback and not changed and not self.rules.add_dummy_prefix
        self.unknown_id = None if self.byte_fallback else self.unknown
        self._denormalizer = SentencePieceNormalizer(model.denormalizer) if model.denormalizer else None
        self.vocab_size = self.added.vocab_size(len(self.pieces))
        self._byte_pieces = {id for id, piece in enumerate(self.pieces) if piece.type == spm.BYTE}
        self._words, self._draws = Spares(WordCache), SampleCache()
        self._threads_help = self.kind == "unigram"  # merging notes how unused pieces come apart

    @cached_property
    def tables(self) -> Tables:
        """What the kernels need."""
        return Tables.of(self.model)

    def forget_words(self) -> None:
        """Empty the word cache (it is bounded, and empties itself when it is full)."""
        for cache in self._words.idle:
            cache.forget()

    def _vocabulary(self) -> list[bytes | None]:
        table: list[bytes | None] = [self._piece_bytes(piece) for piece in self.pieces]
        table += [None] * (self.vocab_size - len(table))
        for token in self.added.tokens:
            table[token.id] = token.text.encode("utf-8")
        return table

    def _piece_bytes(self, piece: spm.ScoredPiece) -> bytes:
        if piece.type == spm.BYTE:
            return bytes([spm.byte_of(piece.text)])
        if piece.type == spm.UNKNOWN:
            return str(self.model.setting("unk_surface")).encode("utf-8")
        return piece.text.replace(spm.SPACE, " ").encode("utf-8")

    # -------------------------------------------------------------------------------- encoding

    def _encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        buffer, used = self.normalizer.pack([replace_surrogates(text)[0] for text in texts])
        text_ends = np.empty(len(texts), np.int64)
        return self.tables.cut(buffer, used, self._words, text_ends), text_ends

    def _spans(self, ids: np.ndarray, text: str) -> list[tuple[int, int]]:
        clean, places = replace_surrogates(text)
        buffer, used, where = self.normalizer.placed(clean)
        _, spans = self.tables.cut_placed(buffer, used, np.empty(1, np.int64))
        raw = np.frombuffer(clean.encode("utf-8"), np.uint8)
        character = np.zeros(len(raw) + 1, np.int64)  # of each byte, and of the end
        character[:-1] = np.cumsum((raw & 0xC0) != 0x80) - 1
        character[-1] = len(clean)
        found = character[where[spans]]
        if places is not None:
            found = places[found]
        return [(a, b) for a, b in found.tolist()]

    def sample(self, text: str, *, seed: int, alpha: float = 0.1, nbest: int = -1, **choices: Any) -> list[int]:
        """One segmentation of a text, drawn by its probability (Kudo 2018, section 3.3); the same for the same seed.

        Args:
            seed: decides the draw, whatever was drawn before.
            alpha: sharpness: a segmentation's chance is proportional to its probability to this power; 0 makes all
                equally likely. For a BPE model, the chance that a merge is left out.
            nbest: -1 draws among all segmentations; n > 1 among the n best; 0 and 1 give the best.

        Raises:
            TokenizerError: `text` is no text, a setting is out of range, or another choice is named.
        """
        refuse_others(choices)
        if not isinstance(text, str):
            return self.encode(text)  # says what it is
        buffer, used = self.normalizer.pack([replace_surrogates(text)[0]])
        if nbest in (0, 1) and self.kind == "unigram":
            sampled(self.tables, self._draws, buffer, 0, seed, alpha, nbest)  # checks the settings
            return self.encode(text)
        return sampled(self.tables, self._draws, buffer, used, seed, alpha, nbest)

    def _extended(self, texts: Iterable[str], extra: int) -> SentencePiece:
        from llmanac.tokenizers._spm_extend import extended

        model, added = extended(self, texts, extra)
        return SentencePiece(model, **self._settings() | {"added": added})

    # -------------------------------------------------------------------------------- decoding
    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of the ids; with `skip_special` exactly what the sentencepiece library makes of them.

        The library writes no control symbol; here one is written as its text unless it is skipped, and what stands
        between two of them loses the space that encoding put before it. Bytes that are not UTF-8 become U+FFFD each.

        Raises:
            TokenizerError: an id outside the vocabulary.
        """
        numbers = id_list(ids)
        table, special = self._bytes, self._special_ids
        outside = bool(numbers) and (min(numbers) < 0 or max(numbers) >= len(table))
        if outside or None in {table[i] for i in set(numbers)}:
            for id in numbers:
                self.token_bytes(id)  # says which id it was
        if skip_special:
            return self._text_of([i for i in numbers if i not in special])
        out: list[str] = []
        part: list[int] = []
        for id in numbers:
            if id in special:
                out += [self._text_of(part), table[id].decode("utf-8")]  # type: ignore[union-attr]
                part = []
            else:
                part.append(id)
        return "".join([*out, self._text_of(part)])

    def _text_of(self, numbers: list[int]) -> str:
        """The text of ids none of which is special."""
        table = self._bytes
        head, at = b"", 0
        if self.rules.add_dummy_prefix or self.rules.remove_extra_whitespaces:
            done = False
            while at < len(numbers) and not done and numbers[at] not in self._byte_pieces:
                id = numbers[at]
                piece = table[id] or b""
                if id < len(self.pieces) and id != self.unknown and self.pieces[id].text.startswith(spm.SPACE):
                    piece, done = piece[1:], not self.rules.remove_extra_whitespaces
                head, at = head + piece, at + 1
                done = done or bool(head)
        data = b"".join([head, *[table[i] for i in numbers[at:]]])  # type: ignore[list-item]
        text = data.decode("utf-8", EACH_BYTE)
        return self._denormalizer.text(text) if self._denormalizer is not None and text else text

    # -------------------------------------------------------------------------------- identity
    def _identity(self) -> Any:
        digest = hashlib.sha256()
        for piece in self.pieces:
            digest.update(f"{piece.text}\0{piece.score.hex()}\0{piece.type}\0".encode())
        rules = [self.rules.add_dummy_prefix, self.rules.remove_extra_whitespaces, self.rules.escape_whitespaces]
        map_digest = hashlib.sha256(self.rules.charsmap).hexdigest()
        return [digest.hexdigest(), self.kind, self.byte_fallback, self.normalizer.suffix, rules, map_digest]


def refuse_others(choices: Mapping[str, Any]) -> None:
    """Raises TokenizerError where a choice is named that `sample` does not have."""
    if choices:
        raise TokenizerError(f"sample: {min(choices)!r} is no choice of a unigram model; it has alpha and nbest")


def sampled(
    tables: Tables, held: SampleCache, buffer: np.ndarray, used: int, seed: int, alpha: float, nbest: int
) -> list[int]:
    """Ids drawn for the one text (or the words of one text) in a packed, normalised buffer.

    Raises:
        TokenizerError: a setting that no sampling can have, by its name.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TokenizerError(f"seed: expected a whole number, got {type(seed).__name__} {seed!r}")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not np.isfinite(alpha) or alpha < 0:
        raise TokenizerError(f"alpha: expected a number from 0 on, got {alpha!r}")
    if isinstance(nbest, bool) or not isinstance(nbest, (int, np.integer)) or nbest > MOST_BEST:
        raise TokenizerError(f"nbest: expected -1 for all segmentations or a number up to {MOST_BEST}, got {nbest!r}")
    random = np.array([int(seed) & 0xFFFFFFFFFFFFFFFF], np.uint64)
    if nbest < 0 or tables.kind == unigram_cut.BPE:
        return _SAMPLE(
            buffer, used, tables.kind, tables.joins, tables.nodes, tables.node_scores, tables.unknown,
            tables.unknown_score, tables.byte_ids, tables.escape, tables.kept, tables.pairs, tables.halves,
            float(alpha), random, *held.of(float(alpha)),
        ).tolist()  # fmt: skip
    out: list[int] = []
    start = 0
    for stop in np.flatnonzero(buffer[:used] == 0xFF).tolist():
        part = np.ascontiguousarray(buffer[start : stop + 32])
        if stop > start:
            out += _one_of_best(tables, part, stop - start, random, float(alpha), int(nbest))
        start = stop + 1
    return out


def _one_of_best(
    tables: Tables, buffer: np.ndarray, stop: int, random: np.ndarray, alpha: float, nbest: int
) -> list[int]:
    found, scores, starts, ids, ends = unigram_sample.n_best(
        buffer, stop, tables.nodes, tables.node_scores, tables.unknown, tables.unknown_score, max(nbest, 1)
    )
    chances = np.exp(alpha * (scores[:found] - scores[:found].max()))
    edges = np.cumsum(chances / chances.sum())
    chosen = min(int(np.searchsorted(edges, unigram_random.drawn(random), side="right")), int(found) - 1)
    part = slice(starts[chosen], starts[chosen + 1])
    arguments = (tables.unknown, tables.byte_ids, tables.escape)
    return unigram_sample.written(buffer, stop, ids[part], ends[part], *arguments).tolist()


class SampleCache:
    """The words' tables of draws, which hold for one `alpha` at a time; made when first needed."""

    def __init__(self) -> None:
        self._alpha: float | None = None
        self._arrays: tuple[np.ndarray, ...] = ()

    def of(self, alpha: float) -> tuple[np.ndarray, ...]:
        if not self._arrays:
            places, chances = np.empty((DRAWS, 2), np.int32), np.empty(DRAWS, np.float64)
            self._arrays = np.zeros((DRAWN_WORDS, 4), np.uint64), places, chances, np.zeros(2, np.int64)
        if alpha != self._alpha:
            self._arrays[0][:], self._arrays[3][:] = 0, 0
            self._alpha = alpha
        return self._arrays
