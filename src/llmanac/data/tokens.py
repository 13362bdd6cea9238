"""Documents as token shards on disk: memory-mapped, hashed, written once, read at random.

A data set is a folder:

    manifest.json            format, dtype, counts, the tokenizer's fingerprint, a hash of every file and of all
    offsets.npy              (documents + 1,) int64: where each document starts in the run of all tokens
    tokens-00000.bin ...     the tokens, uint16 where the vocabulary fits, else uint32; a document never spans two files
    loss-00000.bin ...       only for examples with a loss mask: one byte a token, 1 where the token carries loss
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from llmanac.core.errors import DataError, shown
from llmanac.core.files import atomic_folder, field, file_sha256, read_table, write_json

FORMAT_VERSION = 1
DTYPES = ("<u2", "<u4")
NAME = re.compile(r"[\w-]+\.bin")
AGAIN = "write the data set again"
T = TypeVar("T")
SHARD_TOKENS = 1 << 26  # 128 MB of uint16: large enough to stream, small enough to copy and hash
BATCH_DOCUMENTS = 512  # how many texts go to the tokenizer at once
Encoded = tuple[Sequence[int] | np.ndarray, Sequence[bool] | np.ndarray | None]  # ids, loss mask


def _text_of(document: Any) -> str:
    return document if isinstance(document, str) else document.text


class _Writer:
    """Fills one shard after the other; a shard is closed at the first document boundary past its size."""

    def __init__(self, folder: Path, dtype: np.dtype, vocab_size: int, shard_tokens: int) -> None:
        self.folder, self.dtype, self.vocab_size, self.shard_tokens = folder, dtype, vocab_size, shard_tokens
        self.offsets = [0]
        self.shards: list[dict[str, Any]] = []
        self._ids: list[np.ndarray] = []
        self._loss: list[np.ndarray] = []
        self._held = 0
        self._masked: bool | None = None

    def add(self, ids: np.ndarray, loss: np.ndarray | None) -> None:
        if self._masked is None:
            self._masked = loss is not None
        if self._masked != (loss is not None):
            raise DataError(f"document {len(self.offsets)}: some documents have a loss mask and some have none")
        if int(ids.min()) < 0 or int(ids.max()) >= self.vocab_size:
            raise DataError(
                f"document {len(self.offsets)}: token ids from {int(ids.min())} to {int(ids.max())} do not fit a "
                f"vocabulary of {self.vocab_size}; encode it with the tokenizer of this data set"
            )
        self._ids.append(ids.astype(self.dtype))
        if loss is not None:
            if len(loss) != len(ids):
                raise DataError(f"document {len(self.offsets)}: {len(ids)} tokens but a loss mask of {len(loss)}")
            self._loss.append(np.asarray(loss, dtype=np.uint8))
        self.offsets.append(self.offsets[-1] + len(ids))
        self._held += len(ids)
        if self._held >= self.shard_tokens:
            self.flush()

    def flush(self) -> None:
        if not self._held:
            return
        number = len(self.shards)
        entry: dict[str, Any] = {"tokens": self._held}
        for kind, parts in (("tokens", self._ids), ("loss", self._loss)):
            if parts:
                path = self.folder / f"{kind}-{number:05d}.bin"
                np.concatenate(parts).tofile(path)
                entry[kind + "_file"], entry[kind + "_sha256"] = path.name, file_sha256(path)
        self.shards.append(entry)
        self._ids, self._loss, self._held = [], [], 0


class TokenDataset:
    """The tokens of a folder that `TokenDataset.write` made, memory-mapped.

    Attributes:
        manifest: what manifest.json holds.
        hash: of everything that decides what is read.
        offsets: (documents + 1,) int64, where each document starts.

    Raises:
        DataError: a file is missing, has the wrong size or an odd value, or was written by a newer version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_table(self.folder / "manifest.json")
        version = self.manifest.get("format_version")
        if version != FORMAT_VERSION:
            raise DataError(
                f"{self.folder / 'manifest.json'}: format {version!r} is not {FORMAT_VERSION}; write it again"
            )
        dtype = self._field("dtype", str)
        if dtype not in DTYPES:
            raise DataError(f"{self._path}: dtype: {shown(dtype)} is not one of {', '.join(DTYPES)}; {AGAIN}")
        self.dtype, self.vocab_size = np.dtype(dtype), self._field("vocab_size", int)
        self.hash = self._field("hash", str)
        shards = [self._shard(number, entry) for number, entry in enumerate(self._field("shards", list))]
        try:
            self.offsets: np.ndarray = np.load(self.folder / "offsets.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{self.folder / 'offsets.npy'}: cannot be read ({error}); write the data set again"
            ) from None
        odd = self.offsets.ndim != 1 or self.offsets.dtype != np.int64 or not len(self.offsets)
        if odd or self.offsets[0] or bool((np.diff(self.offsets) < 0).any()):
            raise DataError(f"{self.folder / 'offsets.npy'}: holds no rising whole numbers from 0 on; {AGAIN}")
        self._starts = np.cumsum([0, *(s["tokens"] for s in shards)])
        self._tokens = [self._map(s["tokens_file"], self.dtype, s["tokens"]) for s in shards]
        masked = bool(shards) and all("loss_file" in s for s in shards)
        self._loss = [self._map(s["loss_file"], np.dtype(np.uint8), s["tokens"]) for s in shards] if masked else None
        if int(self.offsets[-1]) != len(self):
            raise DataError(
                f"{self.folder}: offsets.npy ends at {self.offsets[-1]}, the shards hold {len(self)} tokens"
            )

    @property
    def _path(self) -> Path:
        return self.folder / "manifest.json"

    def _field(self, key: str, kind: type[T]) -> T:
        return field(self.manifest, key, kind, self._path, AGAIN)

    def _shard(self, number: int, entry: Any) -> dict[str, Any]:
        """A shard's entry, checked: how many tokens it has, and the names of its files."""
        table, where = {"shards": {str(number): entry}}, f"shards.{number}"
        field(table, f"{where}.tokens", int, self._path, AGAIN)
        for key in ("tokens_file", *(["loss_file"] if "loss_file" in entry else [])):
            name = field(table, f"{where}.{key}", str, self._path, AGAIN)
            if not NAME.fullmatch(name):
                raise DataError(f"{self._path}: {where}.{key}: {shown(name)} is no file of this folder; {AGAIN}")
        return dict(entry)

    def _map(self, name: str, dtype: np.dtype, count: int) -> np.ndarray:
        path = self.folder / name
        size = path.stat().st_size if path.is_file() else -1
        if size != count * dtype.itemsize:
            found = "is missing" if size < 0 else f"has {size} bytes, not {count * dtype.itemsize}"
            raise DataError(f"{path}: {found}; write the data set again")
        return np.memmap(path, dtype=dtype, mode="r")

    def __len__(self) -> int:
        """Tokens in all."""
        return int(self._starts[-1])

    @property
    def documents(self) -> int:
        """How many documents it holds."""
        return len(self.offsets) - 1

    @property
    def has_loss_mask(self) -> bool:
        """Whether its documents say which of their tokens carry loss."""
        return self._loss is not None

    def read(self, start: int, count: int) -> np.ndarray:
        """`count` tokens from `start` in the run of all tokens; stays within one document's shard."""
        return self._slice(self._tokens, start, count)

    def read_loss(self, start: int, count: int) -> np.ndarray:
        """The loss mask (uint8) of the same tokens; all ones where the data set has none."""
        return np.ones(count, np.uint8) if self._loss is None else self._slice(self._loss, start, count)

    def _slice(self, shards: list[np.ndarray], start: int, count: int) -> np.ndarray:
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        first = start - int(self._starts[number])
        return shards[number][first : first + count]

    def __getitem__(self, document: int) -> np.ndarray:
        """The tokens of one document."""
        start, stop = int(self.offsets[document]), int(self.offsets[document + 1])
        return self.read(start, stop - start)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(self.documents))

    def verify(self) -> None:
        """Read and hash every file. Raises DataError that names the first file that has changed."""
        entries = [
            (s[f"{k}_file"], s[f"{k}_sha256"])
            for s in self.manifest["shards"]
            for k in ("tokens", "loss")
            if f"{k}_file" in s
        ]
        for name, expected in [*entries, ("offsets.npy", self.manifest["offsets_sha256"])]:
            if file_sha256(self.folder / name) != expected:
                raise DataError(f"{self.folder / name}: has changed since it was written; write the data set again")

    @classmethod
    def write(
        cls,
        folder: str | Path,
        documents: Iterable[Any],
        tokenizer: Any,
        *,
        shard_tokens: int = SHARD_TOKENS,
    ) -> TokenDataset:
        """Encode documents (texts, or anything with `.text`) as `bos text eos`, with the marks the tokenizer has.

        Texts are never searched for special tokens. Empty documents are left out and counted in the manifest.
        Memory is bounded by a shard.

        Args:
            folder: where to write; replaced at once, or left as it was when anything fails.

        Raises:
            DataError: there is no text at all.
        """
        counts = {"empty": 0, "bytes": 0}
        before = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        after = [] if tokenizer.eos_id is None else [tokenizer.eos_id]

        def encoded() -> Iterator[Encoded]:
            stream = iter(documents)
            while batch := list(itertools.islice(stream, BATCH_DOCUMENTS)):
                texts = [_text_of(document) for document in batch]
                for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
                    counts["bytes"] += len(text.encode("utf-8"))
                    yield np.concatenate([before, ids, after]).astype(np.int64) if len(ids) else ids, None

        extra = {"tokenizer": tokenizer.fingerprint(), "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
        return cls._write(folder, encoded(), tokenizer.vocab_size, shard_tokens, extra, counts)

    @classmethod
    def write_examples(
        cls,
        folder: str | Path,
        examples: Iterable[Encoded],
        *,
        vocab_size: int,
        fingerprint: str = "",
        shard_tokens: int = SHARD_TOKENS,
    ) -> TokenDataset:
        """Write documents that are encoded already, each `(ids, loss mask or None)`.

        Raises:
            DataError: no examples, ids outside the vocabulary, or a mask of another length than its ids.
        """
        return cls._write(folder, examples, vocab_size, shard_tokens, {"tokenizer": fingerprint}, {"empty": 0})

    @classmethod
    def _write(
        cls,
        folder: str | Path,
        encoded: Iterable[Encoded],
        vocab_size: int,
        shard_tokens: int,
        extra: dict[str, Any],
        counts: dict[str, int],
    ) -> TokenDataset:
        dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
        with atomic_folder(folder) as target:
            writer = _Writer(target, dtype, vocab_size, shard_tokens)
            for ids, loss in encoded:
                if len(ids):
                    writer.add(np.asarray(ids, np.int64), None if loss is None else np.asarray(loss))
                else:
                    counts["empty"] += 1
            writer.flush()
            if not writer.shards:
                raise DataError(f"{folder}: there is no text to write: every document is empty, or there are none")
            np.save(target / "offsets.npy", np.asarray(writer.offsets, np.int64), allow_pickle=False)
            manifest = {
                "format_version": FORMAT_VERSION,
                "dtype": dtype.str,
                "vocab_size": vocab_size,
                "documents": len(writer.offsets) - 1,
                "tokens": writer.offsets[-1],
                **counts,
                **extra,
                "offsets_sha256": file_sha256(target / "offsets.npy"),
                "shards": writer.shards,
            }
            identity = {k: manifest[k] for k in ("dtype", "vocab_size", "tokenizer", "offsets_sha256", "shards")}
            manifest["hash"] = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
            write_json(target / "manifest.json", manifest)
        return cls(folder)
