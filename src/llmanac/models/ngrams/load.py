r"""Open and write n-gram models of words, as ARPA or as a binary file.

ARPA files, the format that every n-gram toolkit reads and writes.

    \\data\\
    ngram 1=3
    ngram 2=2

    \\1-grams:
    -0.30103<TAB>the<TAB>-0.22185         log10 p, the words, log10 back-off weight (0 where it is missing)
    ...
    \\end\\

Reading accepts tabs or spaces, lines in any order, `-99` and `-inf` for zero, gzip, the omissions of SRILM (weights,
shorter n-grams), and text before `\\data\\`. The context of an n-gram must be in the file. Files are written as KenLM
writes them.
"""

import gzip
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.files import atomic_file
from llmanac.core.progress import progress
from llmanac.kernels.ngrams import arpa
from llmanac.kernels.ngrams import count as ngram_count
from llmanac.kernels.ngrams import text as ngram_text
from llmanac.kernels.ngrams.query import ZERO
from llmanac.kernels.text import PADDING
from llmanac.models.ngrams.binary import LARGEST_WEIGHT, read_binary, write_binary
from llmanac.models.ngrams.trie import MAX_NODES, MAX_ORDER, Trie
from llmanac.models.ngrams.vocabulary import MARKS, NgramVocabulary
from llmanac.models.ngrams.words import WordModel

BLOCK = 1 << 22
LONGEST_LINE = 1 << 24
PREAMBLE = 10_000  # lines of free text before \data\
MISSING_UNK = -100.0  # log10 p of an unknown word where the file has none; KenLM's
LARGEST_SUM = (
    2.0  # of the 1-grams' probabilities; some files give <unk> a probability of its own on top of the words' 1
)
GZIP = b"\x1f\x8b"


class _ArpaLines:
    """The bytes of a file in blocks, and the line at the front."""

    def __init__(self, path: Path) -> None:
        self.path, self.line = path, 1
        self.data, self.at, self.done = b"", 0, False
        try:
            with open(path, "rb") as probe:
                packed = probe.read(2) == GZIP
            self.handle = cast(BinaryIO, gzip.open(path) if packed else open(path, "rb"))  # noqa: SIM115 - kept open
        except OSError as error:
            raise DataError(f"{path}: cannot read it ({error.strerror or error})") from None

    def more(self) -> bool:
        """Read another block and append it; returns whether there was one."""
        if self.done:
            return False
        if len(self.data) - self.at > LONGEST_LINE:
            self.fail(f"a line of more than {LONGEST_LINE >> 20} MB")
        try:
            block = self.handle.read(BLOCK)
        except Exception as error:  # gzip's own, EOFError, zlib.error
            raise DataError(f"{self.path}: cannot read it to its end ({error}); is it truncated?") from None
        if not block:
            self.done = True
            block = b"" if self.data.endswith(b"\n") or not self.data[self.at :] else b"\n"
        self.data, self.at = self.data[self.at :] + block, 0
        return bool(block)

    def peek(self) -> bytes | None:
        """The line at the front without its end, or None at the end of the file."""
        while (stop := self.data.find(b"\n", self.at)) < 0:
            if not self.more():
                return None
        return self.data[self.at : stop].strip()

    def take(self) -> bytes | None:
        """As `peek`, and move to the next line."""
        line = self.peek()
        if line is not None:
            self.at = self.data.index(b"\n", self.at) + 1
            self.line += 1
        return line

    def fail(self, reason: str, line: int | None = None) -> None:
        """Raise DataError at a line."""
        raise DataError(f"{self.path}:{self.line if line is None else line}: {reason}")


def read_arpa(path: str | Path) -> WordModel:
    """Read an ARPA file, gzipped or not.

    Raises:
        DataError: a file that is not ARPA or contradicts itself; the message names the line. Memory is bounded by the
            size of the file, not by the counts in its header.
    """
    lines = _ArpaLines(Path(path))
    with lines.handle, progress(f"read {Path(path).name}", None, "n-grams") as bar:
        counts = _header(lines)
        vocabulary = NgramVocabulary(())
        built = _TrieBuilder(vocabulary)
        for length, wanted in enumerate(counts, start=1):
            begins = lines.line
            if lines.take() != b"\\%d-grams:" % length:
                lines.fail(f"expected \\{length}-grams: (the header names {len(counts)} orders)", begins)
            columns, first_line = _section(lines, built, length, length == len(counts), wanted)
            found = len(columns[0])
            if found != wanted:
                lines.fail(f"\\data\\ says {wanted:,} {length}-grams, but there are {found:,} before this line")
            if length == 1:
                _check_sum(lines, vocabulary, columns[2], begins)
            built.add(columns, lines, first_line, length)
            bar.advance(found)
            _skip_blank(lines)
        if lines.take() != b"\\end\\":
            lines.fail("expected \\end\\ after the last n-grams; is the file cut off?", lines.line - 1)
    return _model(built, Path(path))


def _skip_blank(lines: _ArpaLines) -> None:
    while lines.peek() == b"":
        lines.take()


def _header(lines: _ArpaLines) -> list[int]:
    while (line := lines.take()) != b"\\data\\":
        if line is None or lines.line > PREAMBLE:
            lines.fail("not an ARPA file: no line \\data\\", 1)
    counts: list[int] = []
    while True:
        line = lines.peek()
        if line is None:
            lines.fail("the file ends inside \\data\\")
        assert line is not None
        if line.startswith(b"\\"):
            break
        found = re.fullmatch(rb"ngram\s+(\d{1,3})\s*=\s*(\d{1,18})", line)
        if line and not found:
            lines.fail(f"expected `ngram N=COUNT`, got {_shown(line)}")
        if found:
            if int(found[1]) != len(counts) + 1:
                lines.fail(f"ngram {int(found[1])} where ngram {len(counts) + 1} should be")
            counts.append(int(found[2]))
            if len(counts) > MAX_ORDER:
                lines.fail(f"order {len(counts)} is above the {MAX_ORDER} that can be read")
            if sum(counts) > MAX_NODES:
                lines.fail(f"{sum(counts):,} n-grams are more than the {MAX_NODES:,} that a model holds")
        lines.take()
    if not counts or not counts[0]:
        lines.fail("\\data\\ names no 1-grams")
    return counts


class _TrieBuilder:
    """The trie so far, level by level."""

    def __init__(self, vocabulary: NgramVocabulary) -> None:
        self.vocabulary = vocabulary
        self.starts = [0]
        self.words, self.first = np.zeros(0, np.int32), np.zeros(1, np.int32)
        self.logs: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.inner = 0

    def add(self, columns: list[np.ndarray], lines: _ArpaLines, first_line: int, length: int) -> None:
        """Add a level from its columns (owner, word, logs, weights), in the order of the file."""
        owner, word, logs, weights = columns
        base, below = self.starts[-1], self.starts[-2] if length > 1 else 0
        size = base - below if length > 1 else 1
        own = owner - below if length > 1 else np.zeros(len(word), np.int32)
        order, begins = ngram_count.sorted_order(own, word, size, len(self.vocabulary))
        twice = ngram_count.first_duplicate(order, own, word)
        if twice >= 0:
            lines.fail(f"this {length}-gram is in the file twice", first_line + int(twice))
        self.words = np.concatenate([self.words, word[order]])
        self.logs.append(logs[order])
        self.weights.append(weights[order])
        if length > 1:
            self.first = np.concatenate([self.first[:-1], (base + begins).astype(np.int32)])
            self.inner = base
        else:
            self.first = np.array([len(word)], np.int32)
        self.starts.append(base + len(word))


def _section(
    lines: _ArpaLines, built: _TrieBuilder, length: int, last: bool, wanted: int
) -> tuple[list[np.ndarray], int]:
    """The n-grams of a section as columns, and the line of the first."""
    vocabulary, first_line = built.vocabulary, lines.line
    room = min(wanted, 1 << 16)
    columns = [np.empty(room, dtype) for dtype in (np.int32, np.int32, np.float32, np.float32)]
    starts, stops = np.empty(length + 2, np.int64), np.empty(length + 2, np.int64)
    filled, inner = 0, built.starts[-1]
    first = built.first if length > 2 else np.zeros(inner + 1, np.int32)
    while True:
        text = np.frombuffer(lines.data[lines.at :] + bytes(PADDING), np.uint8)
        status, at, done, known = arpa.read_grams(
            text, 0, len(text) - PADDING, length, last, LARGEST_WEIGHT, vocabulary.table, vocabulary.blob,
            vocabulary.offsets, vocabulary.count, built.words, first, built.inner if length > 2 else 0, *columns,
            filled, wanted, starts, stops,
        )  # fmt: skip
        lines.at, lines.line = lines.at + int(at), lines.line + int(done) - filled
        filled, vocabulary.count = int(done), int(known)
        if status == ngram_text.ROOM:
            if filled >= len(columns[0]):
                columns = [np.concatenate([c, np.empty_like(c)]) for c in columns]
            vocabulary.make_room(lines.data, _second_field(lines))
        elif status == ngram_text.END or filled >= wanted:
            break
        elif status != ngram_text.DONE:
            _refuse(lines, int(status), length, last)
        elif not lines.more():
            lines.fail(f"the file ends inside \\{length}-grams:, after {filled:,} of {wanted:,}")
    return [c[:filled] for c in columns], first_line


def _check_sum(lines: _ArpaLines, vocabulary: NgramVocabulary, logs: np.ndarray, begins: int) -> None:
    """The words' probabilities must add up to about 1; `<s>` is never predicted, and some files give it 1."""
    sums = float(np.power(10.0, logs, dtype=np.float64).sum())
    start = vocabulary.get(MARKS[1])
    if start is not None:
        sums -= 10.0 ** float(logs[start])
    if sums > LARGEST_SUM:
        lines.fail(
            f"the probabilities of the 1-grams add up to {sums:.4g}, not 1; are they log10, as the format requires?",
            begins,
        )


def _second_field(lines: _ArpaLines) -> int:
    found = re.compile(rb"\s*\S+\s+").match(lines.data, lines.at)
    return found.end() if found else lines.at


def _refuse(lines: _ArpaLines, status: int, length: int, last: bool) -> None:
    line = lines.peek() or b""
    fields = line.split()
    wanted = f"{length + 1} fields" + ("" if last else f" or {length + 2}")
    reason = {
        ngram_text.FIELDS: f"{len(fields)} fields where a {length}-gram has {wanted}: {_shown(line)}",
        ngram_text.NUMBER: f"log10 p or the weight is not a finite number: {_shown(line)}",
        ngram_text.POSITIVE: f"log10 p is above 0: {_shown(line)}",
        ngram_text.WEIGHT: f"the weight is above {LARGEST_WEIGHT:g}, which makes probabilities above 1: {_shown(line)}",
        ngram_text.WORD: f"a word of this {length}-gram is not among the 1-grams: {_shown(line)}",
        ngram_text.AGAIN: f"this word is among the 1-grams twice: {_shown(line)}",
        ngram_text.CONTEXT: f"the context of this {length}-gram is not among the shorter n-grams: {_shown(line)}",
        ngram_text.LAST_WEIGHT: f"a weight at the highest order, which nothing backs off from: {_shown(line)}",
    }[status]
    lines.fail(reason)


def _shown(line: bytes) -> str:
    return repr(line[:60].decode("utf-8", "backslashreplace"))


def _model(built: _TrieBuilder, path: Path) -> WordModel:
    """The model, with the special words that the file omits."""
    vocabulary = built.vocabulary
    known = [vocabulary.get(mark) for mark in MARKS]
    if known[0] is None:
        known[0] = vocabulary.get(b"<UNK>")
    missing = [mark for mark, id in zip(MARKS, known, strict=True) if id is None]
    starts, words, first = built.starts, built.words, built.first
    inner = starts[-2] if len(starts) > 2 else 0
    logs, weights = np.concatenate(built.logs), np.concatenate(built.weights)[:inner]
    if missing:  # further unigrams at the end of their level; the nodes after them move
        size, extra = starts[1], len(missing)
        words = np.insert(words, size, np.arange(size, size + extra))
        logs = np.insert(logs, size, [MISSING_UNK if mark == MARKS[0] else ZERO for mark in missing])
        starts, first = [0, *(n + extra for n in starts[1:])], first + np.int32(extra)
        if inner:
            weights = np.insert(weights, size, np.zeros(extra))
            first = np.insert(first, size, np.full(extra, first[size]))
    ids = [vocabulary.add(mark) if id is None else id for mark, id in zip(MARKS, known, strict=True)]
    about: dict[str, Any] = {"kind": "words", "from": path.name}
    trie = Trie(tuple(starts), words, logs, weights, first, start=ids[1], about=about)
    return WordModel(trie, vocabulary, *ids)


def write_arpa(model: WordModel, path: str | Path) -> Path:
    """Write a model as ARPA, gzipped where the name ends in `.gz`; atomic. Returns the path."""
    path, trie = Path(path), model.trie
    with atomic_file(path) as file:
        packed = path.suffix.lower() == ".gz"
        handle = cast(
            BinaryIO, gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=3, mtime=0) if packed else file
        )
        header = "".join(f"ngram {k}={n}\n" for k, n in enumerate(trie.counts, start=1))
        handle.write(f"\\data\\\n{header}".encode())
        with progress(f"write {path.name}", len(trie.logs), "n-grams") as bar:
            for length in range(1, trie.order + 1):
                handle.write(b"\n\\%d-grams:\n" % length)
                for block, done in _written(model, length):
                    handle.write(block)
                    bar.advance(done)
        handle.write(b"\n\\end\\\n")
        if packed:
            handle.close()
    return path


def _written(model: WordModel, length: int) -> Iterator[tuple[bytes, int]]:
    trie, vocabulary = model.trie, model.vocabulary
    longest = vocabulary.longest
    out = np.empty(max(1 << 22, 2 * (80 + length * (longest + 1))), np.uint8)
    at, stop = trie.starts[length - 1], trie.starts[length]
    path = np.array(trie.starts[:length], np.int64)
    blob, offsets = vocabulary.blob, vocabulary.offsets[: vocabulary.count + 1]
    while at < stop:
        used, after = arpa.write_grams(
            trie.words, trie.first, trie.logs, trie.weights, path, at, stop, blob, offsets, longest, trie.order,
            trie.uniform, model.bos, out,
        )  # fmt: skip
        yield out[:used].tobytes(), int(after) - at
        at = int(after)


def is_arpa(path: Path) -> bool:
    """Whether a file's name says ARPA."""
    return path.name.lower().removesuffix(".gz").endswith(".arpa")


def load(path: str | Path, *, full: bool = False) -> WordModel:
    """A word model from an ARPA file or a binary one, detected by content.

    Args:
        full: check every value of a binary model, not a sample of them.

    Raises:
        DataError: a file that is neither, or a model of tokens.
        CheckpointError: a binary model that is damaged.
    """
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            begin = handle.read(9)
    except OSError as error:
        if path.is_dir():
            raise DataError(
                f"{path}: is a folder, and `llmanac ngram` takes files that count words; a model of tokens is scored "
                f"with `llmanac score {shlex.quote(str(path))} TEXT` and continued with `llmanac generate`"
            ) from None
        raise DataError(f"{path}: cannot read it ({error.strerror or error})") from None
    if is_arpa(path) or begin.startswith(GZIP) or begin[8:] != b"{":
        return read_arpa(path)
    found = read_binary(path, full=full)
    if not isinstance(found, WordModel):
        raise DataError(f"{path}: counts a tokenizer's tokens, not words; use llmanac score or generate on its folder")
    return found


def save(model: WordModel, path: Path) -> None:
    """Write a model in the format that its name says."""
    if is_arpa(path):
        write_arpa(model, path)
    else:
        write_binary(model.trie, path, model)
