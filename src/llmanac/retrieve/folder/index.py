"""The kept index of a folder: passages, BM25, and vectors where an encoder is named.

    index.json         settings, a record a file (size, time, SHA-256, documents), size and SHA-256 of the files below,
                       SHA-256 of all this
    passages.npy       (P, 8) int64: document; begin, end of heading, end in text.bin; bytes start, stop; lines
    text.bin           heading and text of every passage, UTF-8
    words.txt, ids.npy, lengths.npy      vocabulary, the word numbers of all passages, how many each has
    starts.npy, texts.npy, weights.npy, idf.npy      the inverted index (`bm25.py`)
    vectors.npy        (P, D), where there is an encoder

Only files that changed are read again: the rows of all others are copied, and BM25's weights, which depend on all
passages, are computed from the kept word numbers. The folder is replaced in one step. Arrays are memory-mapped; up to
`CHECKED` bytes a file its checksum is compared each time it is opened, beyond only its size.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError, RequestError, printable
from llmanac.core.lock import locked
from llmanac.core.progress import progress
from llmanac.core.spec import dump, make
from llmanac.data.command_problems import up_to_damage
from llmanac.data.quarantine import Problems
from llmanac.data.sources.files import Spec as Files
from llmanac.data.texts import documents_in
from llmanac.data.unpack import CONTAINERS, PAGES, TABLES, format_of
from llmanac.retrieve import bm25, dense
from llmanac.retrieve._words import WORDS
from llmanac.retrieve.folder._fits import digest_of, fits
from llmanac.retrieve.folder._vectors import embedded, forget
from llmanac.retrieve.folder.chunks import SIZE, pieces_of
from llmanac.retrieve.hybrid import Hybrid
from llmanac.retrieve.hybrid import Spec as HybridSpec

FORMAT, VERSION = "llmanac-folder-index", 2
WHERE = Path(".llmanac") / "index"  # below the folder; readers of folders pass over hidden ones
CHECKED = 64 << 20
AGAIN = "build it again with `llmanac index`"
METHODS = ("bm25", "dense", "hybrid")
ARRAYS = ("passages", "ids", "lengths", *bm25.ARRAYS)
PROSE = (".md", ".markdown", ".rst", ".txt", ".text", "", *PAGES, *TABLES, *CONTAINERS)  # `#` is a heading in these
WORDS_OF = WORDS[bm25.Spec().analyzer]


@dataclass(frozen=True)
class Passage:
    """A passage: its place (document, bytes start to stop, lines), the headings above it, its text."""

    number: int
    document: str
    start: int
    stop: int
    line: int
    last: int
    heading: str
    text: str

    @property
    def source(self) -> str:
        """`docs/serve.md:12-30`, as citations write it."""
        return f"{self.document}:{self.line}" + ("" if self.last <= self.line else f"-{self.last}")


@dataclass(frozen=True)
class Found:
    """A passage and how well it matches; scores of different methods cannot be compared."""

    passage: Passage
    score: float


@dataclass
class _Rows:
    """What an index is made of, while it is put together."""

    documents: list[str] = field(default_factory=list)
    passages: list[np.ndarray] = field(default_factory=list)
    text: bytearray = field(default_factory=bytearray)
    words: dict[str, int] = field(default_factory=dict)
    ids: list[np.ndarray] = field(default_factory=list)
    lengths: list[np.ndarray] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)  # the old number of each passage, -1 for a new one


class FolderIndex:
    """An opened index; `update` makes or renews one, `open` reads one.

    Attributes:
        place: the index's own folder. encoder: the Spec of its vectors, or None.
        changed: files that the last update read; removed: those that are gone.
    """

    def __init__(self, place: Path, data: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.place, self.data, self.arrays = place, data, arrays
        self.documents: list[str] = [d[0] for record in data["records"] for d in record["documents"]]
        self.text = np.memmap(place / "text.bin", np.uint8, "r")
        self.encoder = None if data["encoder"] is None else make(dense.Spec, data["encoder"], "encoder")
        self.changed: list[str] = []
        self.removed: list[str] = []
        self._made: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.arrays["passages"])

    def __getitem__(self, number: int) -> Passage:
        document, begin, middle, end, start, stop, line, last = self.arrays["passages"][number].tolist()
        try:
            heading, text = (bytes(self.text[a:b]).decode("utf-8") for a, b in ((begin, middle), (middle, end)))
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.place / 'text.bin'}: damaged; remove {self.place} and {AGAIN}") from None
        return Passage(int(number), self.documents[document], start, stop, line, last, heading, text)

    def passages(self) -> Iterator[Passage]:
        """Every passage, in the order of the files."""
        return map(self.__getitem__, range(len(self)))

    # retrieval

    def retriever(self, method: str) -> Any:
        """BM25, the dense index or both joined. Raises RequestError where there are no vectors."""
        if method not in METHODS:
            raise RequestError(f"--method: {method!r} is not one of {', '.join(METHODS)}")
        if method != "bm25" and self.encoder is None:
            raise RequestError(f"--method {method}: the index has no vectors; name an encoder with --encoder MODEL")
        if method not in self._made:
            if method == "bm25":
                made: Any = bm25.BM25.from_arrays(len(self), self.words, self.arrays, bm25.Spec())
            elif method == "dense":
                made = dense.Dense(spec=self.encoder, vectors=self.arrays["vectors"])
            else:
                made = Hybrid([self.retriever("bm25"), self.retriever("dense")], HybridSpec(fusion="scores"))
            self._made[method] = made
        return self._made[method]

    def retrieve(self, query: str, k: int = 5, method: str = "bm25") -> list[Found]:
        """The `k` best passages for a query, best first; of passages with the same text only the first."""
        if k < 1:
            raise RequestError(f"-k: {k} must be 1 or more")
        seen: set[str] = set()
        out: list[Found] = []
        for position, score in self.retriever(method).top(query, 2 * k + 8):
            passage = self[position]
            text = " ".join(passage.text.split())
            if text not in seen:
                seen.add(text)
                out.append(Found(passage, score))
        return out[:k]

    # files

    @classmethod
    def open(cls, place: str | Path) -> FolderIndex:
        """Read an index.

        Raises:
            CheckpointError: it is not there, damaged, or of a later version; the message names the file.
        """
        place = Path(place)
        data = files.read_table(place / "index.json", error=CheckpointError)
        if data.get("format") != FORMAT:
            raise CheckpointError(f"{place / 'index.json'}: not the index of a folder; name another place with --index")
        if data.get("format_version") != VERSION:
            raise CheckpointError(f"{place / 'index.json'}: of another version of llmanac; remove the folder {place}")
        if data.pop("sha256", None) != digest_of(data):
            raise CheckpointError(f"{place / 'index.json'}: damaged or edited; remove {place} and {AGAIN}")
        try:
            names = [*ARRAYS, *(["vectors"] if data["encoder"] is not None else [])]
            for name in ("text.bin", "words.txt", *(f"{name}.npy" for name in names)):
                path, (size, digest) = place / name, data["files"][name]
                if path.stat().st_size != size or (size <= CHECKED and files.file_sha256(path) != digest):
                    raise CheckpointError(f"{path}: damaged; remove {place} and {AGAIN}")
            arrays = {name: np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
            index = cls(place, data, arrays)
            if not fits(data, arrays, index.words, len(index.text)):
                raise ValueError("its records and arrays do not fit together")
        except CheckpointError:
            raise
        except Exception as error:  # what made-up records and headers of arrays raise has no common base
            raise CheckpointError(f"{place}: damaged ({printable(str(error))}); remove it and {AGAIN}") from None
        return index

    @classmethod
    def update(
        cls,
        folder: str | Path,
        place: str | Path | None = None,
        *,
        encoder: dense.Spec | None = None,
        include: Sequence[str] = (),
        size: int = SIZE,
        problems: Problems | None = None,
        encode: dense.Encode | None = None,
    ) -> FolderIndex:
        """The index of a folder, renewed where files changed; without any change nothing is written.

        Args:
            place: of the index, by default `.llmanac/index` below the folder.
            encoder: of the vectors; by default that of the index that is there, if it has one.
            include: patterns of file names, as in `data build`; size: characters of a passage.
            encode: stands in for the encoder's model.

        Raises:
            DataError: the folder is not there or holds no text. LlmanacError: the place cannot be written.
        """
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; name a folder of documents")
        place = folder / WHERE if place is None else Path(place)
        with locked(place.parent / f"{place.name}.lock", fix="name another place with --index"):
            settings = {"include": list(include), "size": size}
            old = cls._earlier(place, settings)
            if old is not None and encoder is None:
                encoder = old.encoder
            rows = _Rows(words={} if old is None else {word: i for i, word in enumerate(old.words)})
            changed = _read(folder, place, old, rows, include, size, problems or Problems("skip"))
            had = set() if old is None else {record["file"] for record in old.data["records"]}
            removed = sorted(had - {record["file"] for record in rows.records})
            same = old is not None and not changed and not removed
            index = old if same and old is not None else cls._write(place, rows, settings)
            if encoder is not None and index.encoder != encoder:
                index = cls._embed(index, old, rows, encoder, encode)
        index.changed, index.removed = changed, removed
        if encode is not None and index.encoder is not None:
            index._made["dense"] = dense.Dense(spec=index.encoder, vectors=index.arrays["vectors"], encode=encode)
        return index

    @cached_property
    def words(self) -> list[str]:
        """The vocabulary."""
        text = files.read_text(self.place / "words.txt")
        return text.split("\n") if text else []

    @classmethod
    def _earlier(cls, place: Path, settings: dict[str, Any]) -> FolderIndex | None:
        """The index that is there, if it is usable; a damaged or older one is made anew."""
        if not place.exists():
            return None
        if not (place / "index.json").is_file():
            raise DataError(f"{place}: is there and no index; name another place with --index")
        try:
            found = cls.open(place)
        except CheckpointError as error:
            if "not the index of a folder" in str(error):
                raise
            return None
        return found if found.data.get("settings") == settings else None

    @classmethod
    def _write(cls, place: Path, rows: _Rows, settings: dict[str, Any]) -> FolderIndex:
        """Everything but vectors; they follow, and what is there without them is complete."""
        if not rows.passages or not sum(map(len, rows.passages)):
            raise DataError(f"{place}: there is no text to index")
        arrays = {
            "passages": np.concatenate(rows.passages),
            "ids": np.concatenate(rows.ids),
            "lengths": np.concatenate(rows.lengths).astype(np.int32),
        }
        made = bm25.BM25.from_ids(arrays["ids"], arrays["lengths"], list(rows.words))
        arrays |= {name: getattr(made, name) for name in bm25.ARRAYS}
        data = {"settings": settings, "records": rows.records, "encoder": None}
        return cls._save(place, data, arrays, rows.text, "\n".join(rows.words).encode())

    @classmethod
    def _save(
        cls, place: Path, data: dict[str, Any], arrays: dict[str, np.ndarray], text: Any, words: bytes
    ) -> FolderIndex:
        recorded: dict[str, Any] = {}
        with files.atomic_folder(place) as temporary:
            (temporary / "text.bin").write_bytes(text)
            (temporary / "words.txt").write_bytes(words)
            for name, values in arrays.items():
                np.save(temporary / f"{name}.npy", np.ascontiguousarray(values), allow_pickle=False)
            for path in temporary.iterdir():
                recorded[path.name] = [path.stat().st_size, files.file_sha256(path)]
            head = {"format": FORMAT, "format_version": VERSION, **data, "files": recorded}
            files.write_json(temporary / "index.json", {**head, "sha256": digest_of(head)}, indent=None)
        return cls.open(place)

    @classmethod
    def _embed(
        cls, index: FolderIndex, old: FolderIndex | None, rows: _Rows, spec: dense.Spec, encode: dense.Encode | None
    ) -> FolderIndex:
        """Vectors of the passages, those of unchanged files copied."""
        kept = np.concatenate(rows.kept)
        usable = old is not None and old.encoder == spec
        fresh = np.flatnonzero(kept < 0) if usable else np.arange(len(index))
        texts = [f"{p.heading}\n{p.text}" if p.heading else p.text for p in map(index.__getitem__, fresh.tolist())]
        place = index.place.parent / f"{index.place.name}.vectors"
        made = embedded(place, texts, spec, encode)
        width = made.shape[1] if len(made) else 0 if old is None else old.arrays["vectors"].shape[1]
        vectors = np.empty((len(index), width), spec.dtype)
        if len(made):
            vectors[fresh] = made
        if usable and old is not None:
            copied = np.flatnonzero(kept >= 0)
            vectors[copied] = old.arrays["vectors"][kept[copied]]
        data = {**index.data, "encoder": dump(spec)}
        words = "\n".join(index.words).encode()
        made_anew = cls._save(index.place, data, {**index.arrays, "vectors": vectors}, index.text.data, words)
        forget(place)
        return made_anew


def _read(
    folder: Path, place: Path, old: FolderIndex | None, rows: _Rows, include: Sequence[str], size: int,
    problems: Problems,
) -> list[str]:  # fmt: skip
    """Fill the rows with all files of a folder, copying those of the earlier index that did not change."""
    source = Files(paths=(str(folder),), include=tuple(include), on_error=problems.on_error, piece=1 << 26)
    known: dict[str, tuple[dict[str, Any], int, int]] = {}
    first, document = 0, 0
    for record in [] if old is None else old.data["records"]:
        known[record["file"]] = (record, first, document)
        first += sum(count for _, count in record["documents"])
        document += len(record["documents"])
    ends = np.zeros(1, np.int64) if old is None else np.concatenate([[0], np.cumsum(old.arrays["lengths"])])
    inside = place.resolve()
    found = [(p, name) for p, name in source.files(problems) if inside not in p.resolve().parents]
    changed = []
    with progress("index", len(found), "files") as bar:
        for path, name in found:
            record, start, document = known.get(name, (None, 0, 0))
            try:
                before = os.stat(path)
                stamp = [before.st_size, before.st_mtime_ns]
                digest = record["sha256"] if record and record["stamp"] == stamp else files.file_sha256(path)
            except OSError as error:  # removed since it was found, or the disk fails
                problems.report(path, None, f"it cannot be read ({error.strerror or error})")
                continue
            if old is not None and record is not None and record["sha256"] == digest:
                _copy(old, record, start, document, ends, rows)
            else:
                changed.append(name)
                _add(path, name, source, problems, rows, size)
            rows.records[-1] |= {"file": name, "stamp": stamp, "sha256": digest}
            bar.advance(1, passages=sum(map(len, rows.passages)))
    return changed


def _copy(old: FolderIndex, record: dict[str, Any], start: int, document: int, ends: np.ndarray, rows: _Rows) -> None:
    """Copy the rows of a file, whose first passage and document were numbered `start` and `document`."""
    stop = start + sum(count for _, count in record["documents"])
    table = np.array(old.arrays["passages"][start:stop])
    if len(table):
        begin, end = int(table[0, 1]), int(table[-1, 3])
        table[:, 1:4] += len(rows.text) - begin
        table[:, 0] += len(rows.documents) - document
        rows.text += bytes(old.text[begin:end])
    rows.documents += [document for document, _ in record["documents"]]
    rows.passages.append(table)
    rows.ids.append(np.array(old.arrays["ids"][ends[start] : ends[stop]]))
    rows.lengths.append(np.array(old.arrays["lengths"][start:stop]))
    rows.kept.append(np.arange(start, stop))
    rows.records.append({"documents": record["documents"]})


def _add(path: Path, name: str, source: Files, problems: Problems, rows: _Rows, size: int) -> None:
    """Read one file. Where it cannot be read, the problem is taken note of, and it has no passage."""
    documents: list[list[Any]] = []
    table = array("q")
    ids = array("i")
    lengths: list[int] = []
    byte, line = 0, 0  # what earlier parts of a long text file had
    parts = format_of(path) not in (*TABLES, *PAGES, *CONTAINERS)
    for document in up_to_damage(documents_in(path, name, source, problems), path, problems):
        pieces = pieces_of(document.text, size=size, markup=format_of(path) in PROSE)
        for piece in pieces:
            begin = len(rows.text)
            heading = piece.heading.encode()
            rows.text += heading + piece.text.encode()
            table.extend([len(rows.documents), begin, begin + len(heading), len(rows.text)])
            table.extend([byte + piece.start, byte + piece.stop, line + piece.line, line + piece.last])
            words = WORDS_OF(f"{piece.heading}\n{piece.text}")
            lengths.append(len(words))
            ids.extend([rows.words.setdefault(word, len(rows.words)) for word in words])
        rows.documents.append(name if parts else document.id)
        documents.append([rows.documents[-1], len(pieces)])
        if parts:
            byte, line = byte + document.bytes, line + document.text.count("\n")
    rows.passages.append(np.frombuffer(table, np.int64).reshape(-1, 8))
    rows.ids.append(np.frombuffer(ids, np.int32))
    rows.lengths.append(np.array(lengths, np.int64))
    rows.kept.append(np.full(len(lengths), -1))
    rows.records.append({"documents": documents})
