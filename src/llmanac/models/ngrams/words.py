"""An n-gram model of words: text in, counts and scores out, as KenLM's `lmplz` and `query` do it.

A line is a sentence, `<s>` w1 ... wn `</s>`; words are separated by white space (NUL, tab, line feed, carriage return,
space) and are bytes. `<s>` is context only; a word outside the vocabulary is `<unk>`.

From counts and a smoothing to a trie: order by order, each from the one below.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.progress import Progress, progress
from llmanac.data.command_problems import CommandProblems
from llmanac.data.sources.files import Spec as Files
from llmanac.data.texts import byte_lines, files_of
from llmanac.kernels.ngrams import query as ngram_query
from llmanac.kernels.ngrams import text as ngram_text
from llmanac.kernels.ngrams.query import ZERO
from llmanac.kernels.text import PADDING
from llmanac.models.ngrams.counts import Counts, count
from llmanac.models.ngrams.trie import MAX_NODES, Trie
from llmanac.models.ngrams.vocabulary import MARKS, NgramVocabulary


def estimate(counts: Counts, smoothing: Any, about: dict[str, Any] | None = None) -> Trie:
    """Estimate the model from counts with a smoothing.

    Probabilities are estimated in float64 and kept as float32 logarithms.

    Args:
        smoothing: what a Spec of kind `smoothing` builds.
        about: stored with the model, with the discounts and the number of tokens.
    """
    sizes = [len(level) for level in counts.levels]
    nodes, inner = sum(sizes), sum(sizes[:-1])
    words, logs = np.empty(nodes, np.int32), np.empty(nodes, np.float32)
    weights, first = np.zeros(inner, np.float32), np.empty(inner + 1, np.int32)
    lower, at = np.zeros(1), 0
    first[-1] = nodes
    for level, own in enumerate(counts.levels):
        lower, gamma = smoothing.level(counts, level, lower)
        words[at : at + len(own)] = own.words
        logs[at : at + len(own)] = logarithm(lower)
        if level:
            below = at - sizes[level - 1]
            weights[below:at] = logarithm(gamma)
            first[below:at] = at + own.starts[:-1]
        at += len(own)
    starts = tuple(int(n) for n in np.concatenate([[0], np.cumsum(sizes)]))
    made = {"tokens": counts.tokens, "discounts": smoothing.discounts, **(about or {})}
    start = -1 if counts.start is None or counts.predictable()[counts.start] else counts.start
    return Trie(starts, words, logs, weights, first, smoothing.without_backoff, start, made)


def logarithm(p: np.ndarray) -> np.ndarray:
    """log10 p in float32, `ZERO` for 0."""
    with np.errstate(divide="ignore"):
        return np.maximum(np.log10(p), ZERO).astype(np.float32)


UNK, BOS, EOS = range(3)
LONGEST = 1 << 28  # bytes of a line that is scored, or of a word
Text = Sequence[str | Path] | Files
REFUSE, SKIP, TAKE = range(3)  # how `ngram_text.read_words` treats a special word in the text


@dataclass(frozen=True)
class NgramScore:
    """Sums over scored sentences, in log10, as KenLM prints them.

    Attributes:
        total: log10 p of all tokens, `</s>` of each sentence included. known: of those that are not <unk>.
        tokens, unknown, sentences: counts.
        matched: (order + 1,) how many tokens were found as an n-gram of each length.
    """

    total: float
    known: float
    tokens: int
    unknown: int
    sentences: int
    matched: tuple[int, ...]

    @property
    def perplexity(self) -> float:
        """10^(-total / tokens), with unknown words."""
        return _power(self.total, self.tokens)

    @property
    def perplexity_of_known(self) -> float:
        """The same over the tokens that are not unknown."""
        return _power(self.known, self.tokens - self.unknown)


def _of_lines(place: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(lines,) the sum of each line's scores."""
    begins = np.flatnonzero(place == 0)
    return np.add.reduceat(np.where(place > 0, scores, 0.0), begins) if len(begins) else scores[:0]


def _power(total: float, tokens: int) -> float:
    exponent = -total / tokens if tokens else float("nan")
    return 10.0**exponent if exponent < 300 else float("inf")


@dataclass(frozen=True)
class WordModel:
    """A trie and the words of its ids; in files of other toolkits ids 0, 1, 2 need not be <unk>, `<s>`, `</s>`.

    Attributes:
        unk, bos, eos: the ids of the three special words.
    """

    trie: Trie
    vocabulary: NgramVocabulary
    unk: int = UNK
    bos: int = BOS
    eos: int = EOS

    def score(self, text: bytes | Iterable[bytes], *, each: Callable[[np.ndarray], object] | None = None) -> NgramScore:
        """The sums over all lines of a text (bytes, or pieces of them).

        Args:
            each: called with the scores of every line, some lines at a time, as `sentence_scores` returns them.
        """
        total = known = 0.0
        tokens = unknown = sentences = 0
        found = np.zeros(self.trie.order + 1, np.int64)
        for ids, place, scores, matched in self.scored(text):
            sums = ngram_query.add_up(ids, place, scores, matched, self.unk, found)
            total, known = total + sums[0], known + sums[1]
            tokens, unknown = tokens + sums[2], unknown + sums[3]
            sentences += len(ids) - sums[2]
            if each is not None:
                each(_of_lines(place, scores))
        return NgramScore(total, known, int(tokens), int(unknown), int(sentences), tuple(int(n) for n in found))

    def sentence_scores(self, text: bytes | Iterable[bytes]) -> np.ndarray:
        """(lines,) log10 p of every line with its `</s>`."""
        out = [_of_lines(place, scores) for _, place, scores, _ in self.scored(text)]
        return np.concatenate(out) if out else np.zeros(0)

    def scored(self, text: bytes | Iterable[bytes]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Complete lines in pieces: (word ids, positions, log10 p, length of the n-gram found), see `Trie`; each line
        begins with `bos` at position 0, whose score is not counted.
        """
        for ids, place in _WordReader(self.vocabulary, names=(self.unk, self.bos, self.eos)).pieces(text):
            yield (ids, place, *self.trie.score_stream(ids, place))

    def words_of(self, ids: np.ndarray) -> list[str]:
        """Words as text; bytes that are not UTF-8 are shown as escapes."""
        return [self.vocabulary[int(i)].decode("utf-8", "backslashreplace") for i in ids]


def read_blocks(text: Text, bar: Progress | None = None) -> Iterator[bytes]:
    """The lines of files one after the other, in blocks of bytes that end with a line feed at a file's end.

    Raises:
        DataError: a file that cannot be read, or is not bytes of words (UTF-16).
    """
    return iter(Located(text, bar))


def train(
    text: Text, order: int, smoothing: Any, *, skip_symbols: bool = False, memory: int | None = None
) -> WordModel:
    """Count and estimate a model of the words of text files.

    Args:
        text: files, folders or patterns, or a source with options (`data/texts.py`); a row of a table is a line.
        smoothing: what a Spec of kind `smoothing` builds.
        skip_symbols: leave out words that are `<s>`, `</s>` or `<unk>` instead of refusing them.
        memory: bytes that counting may take, four fifths of the free memory by default.

    Raises:
        DataError: a file that cannot be read, no words, a special word in the text, or too much for the memory.
    """
    with progress("read text", None, "MB") as bar:
        vocabulary, ids, place = read_text(text, skip_symbols=skip_symbols, memory=memory, bar=bar)
    counts = count(ids, place, len(vocabulary), order, start=BOS, memory=memory)
    del ids, place
    about = {"smoothing": type(smoothing).__module__.rpartition(".")[2].replace("_", "-"), "kind": "words"}
    return WordModel(estimate(counts, smoothing, about), vocabulary)


def read_text(
    text: Text, *, skip_symbols: bool = False, memory: int | None = None, bar: Progress | None = None
) -> tuple[NgramVocabulary, np.ndarray, np.ndarray]:
    """The words of files: a vocabulary, (N,) int32 ids and (N,) uint8 positions in the sentence."""
    vocabulary = NgramVocabulary()
    blocks = Located(text, bar)
    reader = _WordReader(vocabulary, learn=True, marks=SKIP if skip_symbols else REFUSE, source=blocks)

    def within_limit() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        tokens = 0
        for ids, place in reader.pieces(blocks):
            tokens += len(ids)
            if tokens > MAX_NODES or (memory is not None and 10 * tokens > memory):
                limit = MAX_NODES if tokens > MAX_NODES else memory // 10 if memory else 0
                raise DataError(f"{blocks.path}: more than {limit:,} tokens do not fit the memory; give less text")
            yield ids, place

    ids, place = _joined(within_limit())
    if len(vocabulary) == len(MARKS):
        raise DataError(f"{', '.join(blocks.source.paths)}: no words to count")
    return vocabulary, ids, place


def read_text_bytes(text: bytes) -> tuple[NgramVocabulary, np.ndarray, np.ndarray]:
    """The words of a text as `read_text` returns them."""
    vocabulary = NgramVocabulary()
    return vocabulary, *_joined(_WordReader(vocabulary, learn=True, marks=SKIP).pieces(text))


def known_ids(text: bytes, vocabulary: NgramVocabulary) -> tuple[np.ndarray, np.ndarray]:
    """(ids, positions) of a text; a word outside the vocabulary is `UNK`."""
    return _joined(_WordReader(vocabulary).pieces(text))


def _joined(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """All ids and all positions; the arrays grow in place, so that parts and whole are never held together."""
    ids, places, filled = np.empty(0, np.int32), np.empty(0, np.uint8), 0
    for part, place in parts:
        start, filled = filled, filled + len(part)
        if filled > len(ids):
            for whole in (ids, places):
                whole.resize(filled + filled // 8, refcheck=False)
        ids[start:filled], places[start:filled] = part, place
    for whole in (ids, places):
        whole.resize(filled, refcheck=False)
    return ids, places


class Located:
    """The blocks of files, and the file and line that the reader is in, for errors."""

    def __init__(self, text: Text, bar: Progress | None) -> None:
        self.source = text if isinstance(text, Files) else files_of(text)
        self.bar = bar
        self.path, self.line = ", ".join(self.source.paths), 1

    def __iter__(self) -> Iterator[bytes]:
        for path, blocks in byte_lines(self.source, CommandProblems(column="--column")):
            self.path, self.line = path, 1
            for block in blocks:
                if self.bar:
                    self.bar.advance(len(block) / 1e6)
                yield block


@dataclass
class _WordReader:
    """Reads text as word ids.

    Attributes:
        learn: whether new words are added to the vocabulary; else they are the first of `names`.
        marks: what to do with a word that is one of the model's special tokens.
        names: the ids of the special tokens <unk>, <s> and </s>.
        source: the file that the text comes from, for errors.
    """

    vocabulary: NgramVocabulary
    learn: bool = False
    marks: int = TAKE
    names: tuple[int, int, int] = (UNK, BOS, EOS)
    source: Located | None = None
    place: int = 0  # of the next word in its sentence

    def pieces(self, text: bytes | Iterable[bytes]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(ids, positions) piece by piece: complete sentences, or where words are learned complete words."""
        held = b""
        for piece in [text] if isinstance(text, bytes) else text:
            data = held + piece
            cut = 1 + (max(map(data.rfind, (b"\n", b" ", b"\t"))) if self.learn else data.rfind(b"\n"))
            data, held = data[:cut], data[cut:]
            if len(held) > LONGEST:
                path, what = self.source.path if self.source else "text", "a word" if self.learn else "a line"
                raise DataError(f"{path}: {what} of more than {LONGEST >> 20} MB; break it up")
            if data:
                yield self._read(data)
        if held or self.place:
            yield self._read(held + b"\n")

    def _read(self, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        """(ids, positions) of a piece that does not end inside a word."""
        vocabulary, source = self.vocabulary, self.source
        text = np.frombuffer(data + bytes(PADDING), np.uint8)
        lines, at, filled = data.count(b"\n"), 0, 0
        room = len(data) // 5 + 2 * lines + 64
        ids, place = np.empty(room, np.int32), np.empty(room, np.uint8)
        while True:
            status, at, count_, filled, self.place = ngram_text.read_words(
                text, at, len(data), vocabulary.table, vocabulary.blob, vocabulary.offsets, vocabulary.count,
                self.learn, self.marks, *self.names, ids, place, filled, self.place,
            )  # fmt: skip
            vocabulary.count = int(count_)
            if status == ngram_text.OK:
                break
            if status == ngram_text.MARK:
                line = (source.line if source else 1) + data.count(b"\n", 0, at)
                word = re.split(rb"[\0\t\n\r ]", data[at : at + 8])[0].decode("utf-8", "replace")
                raise DataError(
                    f"{source.path if source else 'text'}:{line}: the word {word} is one of the model's special words; "
                    "take it out, or pass --skip-symbols"
                )
            if filled + 2 > len(ids):
                ids, place = np.concatenate([ids, np.empty_like(ids)]), np.concatenate([place, np.empty_like(place)])
            if self.learn:
                vocabulary.make_room(data, at)
        if source:
            source.line += lines
        return ids[:filled], place[:filled]
