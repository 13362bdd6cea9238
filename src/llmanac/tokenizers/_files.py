"""Texts and files that something is learned from."""

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from llmanac.core.errors import DataError
from llmanac.kernels.text import PADDING, is_utf8
from llmanac.tokenizers.patterns.splitter import CUT, SPACED, cuts

BLOCK = 1 << 22  # bytes of a file read at a time
TAIL = 1 << 12  # bytes before the end of a block in which a place to cut is looked for
STRETCH = 1 << 12  # characters of a file that count as one document of a mixture
BOM = b"\xef\xbb\xbf"
NOT_TEXT = {  # formats whose syntax is not to be learned
    ".gz", ".bz2", ".xz", ".zst", ".zip", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".html", ".htm",
    ".xhtml", ".warc", ".pdf",
}  # fmt: skip
NAME = re.compile(r"\S{1,255}\.(?:txt|md|rst|json|jsonl|ndjson|csv|tsv|gz|parquet|zip)")  # no text looks like that
BLANK = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])")
LINE = re.compile(r"(?<=\n)(?=\S)")  # the next best, in scripts that write no blanks


@dataclass(frozen=True)
class ByteRange:
    """A range of bytes of a file, which ends where a piece ends."""

    path: Path
    start: int
    stop: int

    def read_into(self, buffer: np.ndarray) -> tuple[np.ndarray, int]:
        """`(buffer, bytes in use)` as `kernels.text.pack` makes it; a new buffer where this one is too small.

        Raises:
            DataError: the file cannot be read or is not UTF-8.
        """
        size = self.stop - self.start
        if len(buffer) < size + 1 + PADDING:
            buffer = np.empty(size + 1 + PADDING, np.uint8)
        view = memoryview(buffer)[:size]  # type: ignore[arg-type]
        try:
            with open(self.path, "rb", buffering=0) as handle:
                handle.seek(self.start)
                done = 0
                while done < size and (read := handle.readinto(view[done:])):
                    done += read
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror})") from None
        if done < size:
            raise DataError(f"{self.path}: became shorter while it was read; try again when nothing writes to it")
        buffer[done], buffer[done + 1 : done + 1 + PADDING] = 0xFF, 0
        try:
            if not is_utf8(buffer, done):
                str(view[:done], "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: not UTF-8 at byte {self.start + error.start}") from None
        return buffer, done + 1

    def text(self) -> str:
        """The text of the range. Raises DataError as `read_into`."""
        buffer, used = self.read_into(np.empty(0, np.uint8))
        return buffer[: used - 1].tobytes().decode("utf-8")


class Files:
    """The text of files, in blocks that end where a piece ends; none is held in memory as a whole."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = list(paths)

    def __iter__(self) -> Iterator[str]:
        for part in self.ranges():
            if text := part.text():
                yield text

    def ranges(self) -> Iterator[ByteRange]:
        """The files' bytes without a byte order mark. Raises DataError for a file that cannot be read."""
        for path in self._paths:
            try:
                size = path.stat().st_size
                with open(path, "rb") as handle:
                    start = len(BOM) if handle.read(len(BOM)) == BOM else 0
                    while start < size:
                        stop = start + BLOCK
                        while stop < size:
                            if cut := _last_cut(_read(handle, max(start, stop - TAIL), stop)):
                                stop = max(start, stop - TAIL) + cut
                                break
                            stop += BLOCK
                        stop = min(stop, size)
                        yield ByteRange(path, start, stop)
                        start = stop
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _read(handle: BinaryIO, start: int, stop: int) -> bytes:
    handle.seek(start)
    return handle.read(stop - start)


def _last_cut(data: bytes) -> int:
    """The last place in the bytes where text may be cut, at white space if there is any, or 0."""
    first = next((i for i, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)
    # half a character at the end may be white space, which is cut in other places than what it looks like
    text = data[first : len(data) - _unfinished(data)].decode("utf-8", "surrogateescape")
    for pattern in (SPACED, CUT):
        places = list(cuts(text, 0, pattern))
        if places:
            return first + len(text[: places[-1]].encode("utf-8", "surrogateescape"))
    return 0


def _unfinished(data: bytes) -> int:
    """Bytes at the end that begin a character of which more follow."""
    for back, byte in enumerate(reversed(data[-3:]), 1):
        if byte & 0xC0 != 0x80:
            return back if back < (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0) + 1 else 0
    return 0


def corpus(files_or_texts: str | Path | Iterable[str | Path]) -> Files | Iterator[str]:
    """`texts_of`, with files as they are where there is nothing else."""
    if isinstance(files_or_texts, (str, Path)):
        return Files(_files(Path(files_or_texts)))
    items = _named(files_or_texts)
    if isinstance(items, (list, tuple)) and items and all(isinstance(item, Path) for item in items):
        return Files(path for item in items for path in _files(item))
    return texts_of(items)


def texts_of(files_or_texts: str | Path | Iterable[str | Path], stretch: int | None = None) -> Iterator[str]:
    """The texts, files read in blocks so that none is held in memory, or in stretches of about so many characters."""
    if isinstance(files_or_texts, (str, Path)):
        files_or_texts = [Path(files_or_texts)]
    for item in _named(files_or_texts):
        if isinstance(item, Path):
            blocks = Files(_files(item))
            yield from (
                blocks if stretch is None else itertools.chain.from_iterable(stretches(b, stretch) for b in blocks)
            )
        else:
            yield item


def _named(files_or_texts: Iterable[str | Path]) -> Iterable[str | Path]:
    """The items, where strings that are all names of files are paths. Raises DataError for a name without its file."""
    if isinstance(files_or_texts, (list, tuple)) and files_or_texts:
        names = [item for item in files_or_texts if isinstance(item, str)]
        if len(names) == len(files_or_texts) and all(_is_file(name) for name in names):
            return [Path(name) for name in names]
        if names and len(names) == len(files_or_texts) and all(NAME.fullmatch(name) for name in names):
            missing = next(name for name in names if not _is_file(name))
            raise DataError(f"{missing}: no such file (a list of names of files is not taken for text)")
    return files_or_texts


def stretches(text: str, stretch: int = STRETCH) -> Iterator[str]:
    """A text in stretches that end where a piece ends, where there is such a place."""
    start = 0
    while start < len(text):
        window = (start + stretch, min(len(text), start + 2 * stretch))
        found = BLANK.search(text, *window) or LINE.search(text, *window)
        stop = found.start() if found else start + stretch
        yield text[start:stop]
        start = stop


def _is_file(name: str) -> bool:
    return 0 < len(name) < 4096 and "\n" not in name and "\0" not in name and os.path.isfile(name)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(p for p in path.rglob("*.txt") if p.is_file())
        if not found:
            raise DataError(f"{path}: holds no .txt file")
        return found
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix.lower() in NOT_TEXT:
        raise DataError(f"{path}: is no plain text; read it with a source (llmanac list source) and pass its texts")
    return [path]
