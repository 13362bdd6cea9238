"""A file's bytes: its format by its name, and what comes out of it unpacked, within the bounds.

Every reader takes its bytes from `blocks`, which stops where a compressed file has become more than the bounds allow.
`-` is standard input.
"""

import contextlib
import gzip
import io
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from llmanac.core.errors import DataError
from llmanac.data.quarantine import Problems, Unreadable

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PAGES = (".html", ".htm", ".xhtml")
BOOKS = (".pdf", ".docx", ".pptx", ".xlsx", ".epub")
CONTAINERS = (".warc", ".zip", *BOOKS)
_TEXTS = """.txt .text .md .markdown .rst .tex .log .py .pyi .ipynb .js .ts .jsx .tsx .java .c .h .cc .cpp .hpp .cs .go
.rs .rb .php .swift .kt .scala .sh .sql .r .jl .lua .pl .hs .ml .toml .yaml .yml .ini .cfg .css .xml"""
TEXTS = tuple(_TEXTS.split())
KNOWN = (*TEXTS, *TABLES, *PAGES, *CONTAINERS)
# files of these names have no suffix and hold text
_PLAIN = """authors changelog changes contributing contributors copying copyright history install licence license news
notice readme thanks todo"""
PLAIN = frozenset(_PLAIN.split())
BLOCK = 1 << 20
STDIN = Path("-")
# how files of other formats begin, whatever they are called
_MAGIC = {
    b"\x1f\x8b\x08": "gzip data", b"\x28\xb5\x2f\xfd": "zstd data", b"\xfd7zXZ\0": "xz data",
    b"PK\x03\x04": "a zip archive", b"PAR1\x15": "a Parquet file", b"%PDF-": "a PDF",
    b"SQLite format 3\0": "an SQLite database", b"ARROW1\0\0": "an Arrow file",
}  # fmt: skip
_BZIP2 = b"1AY&SY"  # from its fourth byte on


@dataclass(frozen=True)
class Span:
    """A part of a file: bytes from `start` to `stop` of plain JSON Lines (whole lines), or row groups of Parquet.

    `line` is the number of its first line or row, 1-based.
    """

    start: int
    stop: int
    line: int = 1


def format_of(path: Path) -> str:
    """The suffix that decides how a file is read, without compression: `a.jsonl.gz` -> `.jsonl`, `README` -> `.txt`."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ".txt" if path.name.partition(".")[0].lower() in PLAIN else ""


def open_binary(path: Path) -> BinaryIO:
    """A file's bytes, decompressed. Raises DataError that names the file."""
    try:
        suffix = path.suffix.lower()
        if suffix == ".zst":
            import pyarrow

            return cast(BinaryIO, io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd")))
        if suffix in (".bz2", ".xz"):
            import bz2
            import lzma

            new = bz2.BZ2Decompressor if suffix == ".bz2" else lzma.LZMADecompressor
            return cast(BinaryIO, io.BufferedReader(_Streams(open(path, "rb"), new, padded=suffix == ".xz")))
        return cast(BinaryIO, gzip.open(path)) if suffix == ".gz" else open(path, "rb")
    except FileNotFoundError:
        raise Unreadable(path, "no such file") from None
    except IsADirectoryError:
        raise Unreadable(path, "is a folder; give a file") from None
    except OSError as error:
        raise Unreadable(path, f"cannot read it ({error.strerror or error})") from None


class _Streams(io.RawIOBase):
    """What streams of bzip2 or xz hold, one after another. Python's own readers ignore all that follows a damaged one.

    Args:
        padded: zeros in fours may follow a stream, as xz's format says.
    """

    def __init__(self, file: BinaryIO, new: Callable[[], Any], *, padded: bool) -> None:
        self.file, self.new, self.padded, self.decoder = file, new, padded, new()

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while True:
            data, zeros = b"", 0
            if self.decoder.eof:
                data = self.decoder.unused_data or self.file.read(BLOCK)
                while self.padded and data.startswith(b"\0"):
                    rest = data.lstrip(b"\0")
                    zeros += len(data) - len(rest)
                    data = rest or self.file.read(BLOCK)
                if zeros % 4:
                    raise OSError(f"{zeros} zeros after a stream, no multiple of four")
                if not data:
                    return 0
                self.decoder = self.new()
            elif self.decoder.needs_input and not (data := self.file.read(BLOCK)):
                raise EOFError("it ends inside a stream")
            if found := self.decoder.decompress(data, len(buffer)):
                buffer[: len(found)] = found
                return len(found)


def blocks(path: Path, problems: Problems, span: Span | None = None) -> Iterator[bytes]:
    """A file's bytes, decompressed, `BLOCK` at a time.

    Raises:
        Unreadable: the file is truncated, damaged, or decompresses to too much; what came before was good.
    """
    size = path.stat().st_size if path.exists() else 0
    packed, out = path.suffix.lower() in COMPRESSED, 0
    stdin = contextlib.nullcontext(sys.stdin.buffer)
    with stdin if path == STDIN else open_binary(path) as handle:
        if span is not None:
            handle.seek(span.start)
        try:
            # read1 returns the data before the damage, where read would lose it
            while block := handle.read1(BLOCK if span is None else min(BLOCK, span.stop - span.start - out)):  # type: ignore[union-attr]
                if not out and format_of(path) not in (".parquet", *CONTAINERS):
                    check_text(path, block[:16])
                out += len(block)
                if packed:
                    check_expansion(path, out, size, problems)
                yield block
        except DataError:
            raise
        except EOFError as error:
            raise Unreadable(path, f"cannot read it to its end ({error}); is it truncated?", code="truncated") from None
        except (OSError, zlib.error, ValueError) as error:
            raise Unreadable(path, f"cannot read it to its end ({error}); is it truncated?", code="damaged") from None
        except Exception as error:  # lzma.LZMAError and pyarrow's errors have no common base
            raise Unreadable(path, f"cannot decompress it ({error})", code="damaged") from None


def check_expansion(path: Path, out: int, size: int, problems: Problems) -> None:
    """Raise Unreadable when a file of `size` bytes has become `out` bytes and the bounds say that this is too many."""
    bounds = problems.bounds
    if out > bounds.free and out > bounds.ratio * size:
        raise Unreadable(
            path,
            f"its {size:,} bytes have become {out:,}, more than {bounds.ratio:g} times as many; {bounds.ratio_advice}",
            code="bomb",
        )
    if out > bounds.expanded:
        raise Unreadable(
            path,
            f"more than {bounds.expanded:,.0f} bytes came out of it; {bounds.expanded_advice}",
            code="bomb",
        )


def check_text(path: Path, begin: bytes) -> None:
    """Raise Unreadable for a file whose first bytes are those of a format that its name does not say."""
    found = next((what for magic, what in _MAGIC.items() if begin.startswith(magic)), None)
    if begin.startswith(b"BZh") and begin[4:10] == _BZIP2:
        found = "bzip2 data"
    if found:
        what = "unpack it first" if path == STDIN else "give it the ending of its format"
        raise Unreadable(shown_name(path), f"holds {found}, not text; {what}", code="not-text")


def shown_name(path: Path) -> str:
    """What messages call a file."""
    return "standard input" if path == STDIN else str(path)


@contextlib.contextmanager
def unpacked(path: Path, problems: Problems, *leave: str) -> Iterator[Path]:
    """A file as its library opens it: the path itself, or that of a temporary file with what comes out of it.

    Args:
        leave: endings of compression that the library reads itself.

    Raises:
        Unreadable: damaged, or it decompresses to more than the bounds allow.
    """
    if path.suffix.lower() not in COMPRESSED or path.suffix.lower() in leave:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="llmanac-unpacked-") as folder:
        place = Path(folder) / f"file{format_of(path)}"
        with open(place, "wb") as out:
            for block in blocks(path, problems):
                out.write(block)
        yield place
