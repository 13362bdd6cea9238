"""The kept index of a folder: passages, BM25, and vectors where an encoder is named.

    index.json         settings, a record a file (size, times, SHA-256, documents), size and SHA-256 of the files below,
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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError, LlmanacError, RequestError, printable
from llmanac.core.lock import locked
from llmanac.core.outputs import check_own_folder
from llmanac.core.spec import dump, make
from llmanac.core.stores import STORE
from llmanac.data.quarantine import Problems
from llmanac.retrieve import bm25, dense
from llmanac.retrieve.folder._fits import digest_of, fits
from llmanac.retrieve.folder._rows import Rows, read_folder
from llmanac.retrieve.folder._vectors import check_place, forget, place_of, text_of, vectors_of
from llmanac.retrieve.folder.chunks import SIZE
from llmanac.retrieve.hybrid import Hybrid
from llmanac.retrieve.hybrid import Spec as HybridSpec

FORMAT, VERSION = "llmanac-folder-index", 6
# lines of version 2 began at blank ones, and those of pages were of their text; words of 3 were not in NFKC, those of 4
# no stems
READABLE = (2, 3, 4, 5, VERSION)
WHERE = Path(".llmanac") / "index"  # below the folder; readers of folders pass over hidden ones
CHECKED = 64 << 20
AGAIN = "build it again with `llmanac index`"
METHODS = ("bm25", "dense", "hybrid")
RERANKED = 50  # passages that a reranker reads
Relevance = Callable[[str, Sequence[str]], np.ndarray]
ARRAYS = ("passages", "ids", "lengths", *bm25.ARRAYS)
OWN = ("index.json", "text.bin", "words.txt", *(f"{name}.npy" for name in (*ARRAYS, "vectors")))


@dataclass(frozen=True)
class Passage:
    """A passage.

    Attributes:
        document: a file, or a row of a table, a page or a file of an archive.
        start, stop: bytes of the document; of a table, a page or a PDF those of its text.
        line, last: of the file, from 1; 0 where the document is no plain text.
        heading: the headings above it. part: its place among the document's passages, from 1; 0 where it is alone.
    """

    number: int
    document: str
    start: int
    stop: int
    line: int
    last: int
    heading: str
    text: str
    part: int = 0

    @property
    def source(self) -> str:
        """`docs/serve.md:12-30`, as citations write it; `page.html, passage 2` where there are no lines."""
        name = printable(self.document).replace("\n", "\\n")  # a name may hold what looks like another citation
        if not self.line:
            return f"{name}, passage {self.part}" if self.part else name
        return f"{name}:{self.line}" + ("" if self.last <= self.line else f"-{self.last}")


@dataclass(frozen=True)
class FoundPassage:
    """A passage and how well it matches; scores of different methods cannot be compared."""

    passage: Passage
    score: float


class FolderIndex:
    """An opened index; `update` makes or renews one, `open` reads one.

    Attributes:
        place: the index's own folder. encoder: the Spec of its vectors, or None.
        changed: files that the last update read; removed: those that are gone; unread: those with problems.
    """

    def __init__(self, place: Path, data: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.place, self.data, self.arrays = place, data, arrays
        named = [document for record in data["records"] for document in record["documents"]]
        self.documents: list[str] = [name for name, _ in named]
        self._firsts = np.cumsum([0, *(count for _, count in named)])  # passages before each document
        self.text = np.memmap(place / "text.bin", np.uint8, "r")
        self.encoder = None if data["encoder"] is None else make(dense.Spec, data["encoder"], "encoder")
        self.changed: list[str] = []
        self.removed: list[str] = []
        self.unread: list[str] = []
        self._made: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.arrays["passages"])

    def __getitem__(self, number: int) -> Passage:
        document, begin, middle, end, start, stop, line, last = self.arrays["passages"][number].tolist()
        try:
            heading, text = (bytes(self.text[a:b]).decode("utf-8") for a, b in ((begin, middle), (middle, end)))
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.place / 'text.bin'}: damaged; remove {self.place} and {AGAIN}") from None
        first, after = self._firsts[document : document + 2].tolist()
        part = int(number) - first + 1 if after - first > 1 else 0
        return Passage(int(number), self.documents[document], start, stop, line, last, heading, text, part)

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
                first = text_of(self[0].heading, self[0].text)
                made = dense.Dense(spec=self.encoder, vectors=self.arrays["vectors"], first=first)
            else:
                made = Hybrid([self.retriever("bm25"), self.retriever("dense")], HybridSpec(fusion="scores"))
            self._made[method] = made
        return self._made[method]

    def retrieve(
        self, query: str, k: int = 5, method: str = "bm25", rerank: Relevance | None = None
    ) -> list[FoundPassage]:
        """The `k` best passages for a query, best first; of passages with the same text only the first.

        Args:
            rerank: `(query, texts) -> a number each`, by which the first `RERANKED` are put into order.
        """
        if k < 1:
            raise RequestError(f"-k: {k} must be 1 or more")
        if rerank is not None:
            known = [one.passage for one in self.retrieve(query, max(k, RERANKED), method)]
            scores = rerank(query, [f"{one.heading}\n{one.text}".strip() for one in known])
            order = sorted(range(len(known)), key=lambda i: -float(scores[i]))
            return [FoundPassage(known[i], float(scores[i])) for i in order[:k]]
        retriever, depth = self.retriever(method), 2 * k + 8
        while True:
            hits = retriever.top(query, depth)
            found: dict[str, FoundPassage] = {}
            for position, score in hits:
                passage = self[position]
                found.setdefault(" ".join(passage.text.split()), FoundPassage(passage, score))
            if len(found) >= k or len(hits) < depth:
                return list(found.values())[:k]
            depth *= 4  # many copies: what else there is comes after them

    # files

    @classmethod
    def open(cls, place: str | Path) -> FolderIndex:
        """Read an index.

        Raises:
            CheckpointError: it is not there, damaged, or of a later version; the message names the file.
        """
        place = Path(place)
        data = _head(place)
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
        """The index of a folder, renewed where files changed; where only their times did, these alone are written.

        Args:
            place: of the index, by default `.llmanac/index` below the folder.
            encoder: of the vectors; by default that of the index that is there, if it has one.
            include: patterns of file names, as in `data build`; size: characters of a passage.
            encode: stands in for the encoder's model.

        Raises:
            DataError: the folder is not there or holds no text. SpecError: the place holds other files than an index.
            LlmanacError: it cannot be written.
        """
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            fix = "copy the objects into a folder first" if STORE.match(str(folder)) else "name a folder of documents"
            raise DataError(f"{folder}: no such folder; {fix}")
        place = folder / WHERE if place is None else Path(place)
        with locked(place.parent / f"{place.name}.lock", fix="name another place with --index"):
            settings = {"include": list(include), "size": size}
            old, remembered = cls._earlier(place, settings)
            encoder = encoder or remembered
            rows = Rows(words={} if old is None else {word: i for i, word in enumerate(old.words)})
            problems = problems or Problems("skip")
            changed = read_folder(folder, place, old, rows, include, size, problems)
            if not sum(map(len, rows.passages)):
                raise DataError(f"{folder}: there is no text to index{_why(problems)}")
            had = set() if old is None else {record["file"] for record in old.data["records"]}
            removed = sorted(had - {record["file"] for record in rows.records})
            same = old is not None and not changed and not removed
            if same and old is not None and old.encoder == encoder:
                index = old
                if rows.records != old.data["records"]:  # of equal files with other times: hashed once
                    old.data["records"] = rows.records
                    _write_head(place, old.data)
            else:
                index = cls._write(place, rows, settings, old, encoder, encode)
        index.changed, index.removed, index.unread = changed, removed, list(problems.counts)
        if encode is not None and index.encoder is not None:
            index._made["dense"] = dense.Dense(spec=index.encoder, vectors=index.arrays["vectors"], encode=encode)
        return index

    @cached_property
    def words(self) -> list[str]:
        """The vocabulary."""
        text = files.read_text(self.place / "words.txt")
        return text.split("\n") if text else []

    @classmethod
    def _earlier(cls, place: Path, settings: dict[str, Any]) -> tuple[FolderIndex | None, dense.Spec | None]:
        """The index that is there, if it is usable, and its encoder; one that is damaged or older is made anew."""
        encoder, data = None, None
        if not place.exists():
            return None, None
        if not (place / "index.json").is_file():
            raise DataError(f"{place}: is there and no index; name another place with --index")
        _check(place)
        try:
            data = _head(place)
            encoder = None if data["encoder"] is None else make(dense.Spec, data["encoder"], "encoder")
            found = cls.open(place)
        except CheckpointError as error:
            if "not the index of a folder" in str(error):
                raise
            if data is None and not (place / "text.bin").is_file():  # an index.json of something else
                raise DataError(f"{error}; move what is in {place}, or name another place with --index") from None
            return None, encoder
        except (LlmanacError, KeyError, TypeError):  # a made-up encoder
            return None, None
        usable = data.get("settings") == settings and data["format_version"] == VERSION
        return found if usable else None, encoder

    @classmethod
    def _write(
        cls, place: Path, rows: Rows, settings: dict[str, Any], old: FolderIndex | None, encoder: dense.Spec | None,
        encode: dense.Encode | None,
    ) -> FolderIndex:  # fmt: skip
        """The index of the rows.

        A first one is there without vectors while they are made; an earlier one stays until all is made.
        """
        arrays = {
            "passages": np.concatenate(rows.passages),
            "ids": np.concatenate(rows.ids),
            "lengths": np.concatenate(rows.lengths).astype(np.int32),
        }
        arrays["ids"], vocabulary = _in_use(arrays["ids"], list(rows.words))
        made = bm25.BM25.from_ids(arrays["ids"], arrays["lengths"], vocabulary)
        arrays |= {name: getattr(made, name) for name in bm25.ARRAYS}
        data, words = {"settings": settings, "records": rows.records}, "\n".join(vocabulary).encode()
        if encoder is not None:
            check_place(place_of(place))
        if encoder is None or not place.exists():
            index = cls._save(place, {**data, "encoder": None}, arrays, rows.text, words)
        if encoder is None:
            return index
        kept = np.concatenate(rows.kept)
        held = old.arrays["vectors"] if old is not None and old.encoder == encoder else None
        arrays["vectors"] = vectors_of(place, rows.text, arrays["passages"], kept, held, encoder, encode)
        made_anew = cls._save(place, {**data, "encoder": dump(encoder)}, arrays, rows.text, words)
        forget(place_of(place))
        return made_anew

    @classmethod
    def _save(
        cls, place: Path, data: dict[str, Any], arrays: dict[str, np.ndarray], text: Any, words: bytes
    ) -> FolderIndex:
        recorded: dict[str, Any] = {}
        _check(place)  # again: vectors may have needed hours
        with files.atomic_folder(place) as temporary:
            (temporary / "text.bin").write_bytes(text)
            (temporary / "words.txt").write_bytes(words)
            for name, values in arrays.items():
                np.save(temporary / f"{name}.npy", np.ascontiguousarray(values), allow_pickle=False)
            for path in temporary.iterdir():
                recorded[path.name] = [path.stat().st_size, files.file_sha256(path)]
            head = {"format": FORMAT, "format_version": VERSION, **data, "files": recorded}
            _write_head(temporary, head)
        return cls.open(place)


def _check(place: Path) -> None:
    """Refuse a folder with files that are not of an index: it would be replaced. Raises SpecError."""
    check_own_folder(place, "--index", OWN, what="an index")


def _in_use(ids: np.ndarray, words: list[str]) -> tuple[np.ndarray, list[str]]:
    """The words that passages have, and their new numbers: what only removed documents held is forgotten."""
    used = np.bincount(ids, minlength=len(words)) > 0
    if used.all():
        return ids, words
    return (np.cumsum(used) - 1)[ids].astype(ids.dtype), [
        word for word, there in zip(words, used, strict=True) if there
    ]


def _write_head(place: Path, head: dict[str, Any]) -> None:
    files.write_json(place / "index.json", {**head, "sha256": digest_of(head)}, indent=None)


def _why(problems: Problems) -> str:
    """The first problem of each of a few files."""
    first = {problem.file: str(problem) for problem in reversed(problems.kept)}
    few = [first[name] for name in problems.counts if name in first][:3]
    more = len(problems.counts) - len(few)
    return "".join(f"; {text}" for text in few) + (f"; and {more:,} more files" if more else "")


def _head(place: Path) -> dict[str, Any]:
    """The records of an index. Raises CheckpointError where it is none, damaged, or of another version."""
    path = place / "index.json"
    data = files.read_table(path, error=CheckpointError)
    if data.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not the index of a folder; name another place with --index")
    if data.get("format_version") not in READABLE:
        raise CheckpointError(f"{path}: of another version of llmanac; remove the folder {place}")
    if data.pop("sha256", None) != digest_of(data):
        raise CheckpointError(f"{path}: damaged or edited; remove {place} and {AGAIN}")
    return data
