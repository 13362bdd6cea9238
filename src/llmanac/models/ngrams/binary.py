"""An n-gram model in one file that is mapped, not read: a safetensors file with the trie's arrays.

    header length (8 bytes), JSON header, then  words  logs  weights  first  [blob  offsets]

Any safetensors reader opens it; the header's metadata say `llmanac-ngram` and the version. Opening a model takes the
header and the list of words; the trie's pages are loaded on access. A file that is cut off, has arrays that do not fit
each other, or has impossible values is refused (`checks.py` says how many values are checked); in any other damaged
file, no index is followed out of its array.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import CheckpointError, DataError
from llmanac.core.files import atomic_file, open_regular
from llmanac.models.ngrams.checks import check_levels, check_values
from llmanac.models.ngrams.trie import MAX_NODES, MAX_ORDER, Trie
from llmanac.models.ngrams.vocabulary import MARKS, NgramVocabulary
from llmanac.models.ngrams.words import WordModel

FORMAT, VERSION = "llmanac-ngram", 1
DTYPES: dict[str, np.dtype] = {
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "U8": np.dtype("u1"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ARRAYS = ("words", "logs", "weights", "first")  # of a trie
LONGEST_HEADER = 1 << 24
PIECE = 1 << 24
AGAIN = "convert or train it again"


def write_binary(trie: Trie, path: str | Path, words: WordModel | None = None) -> Path:
    """Write a trie, with its words where it has any; atomic and without a second copy in memory. Returns the path."""
    arrays: dict[str, np.ndarray] = {}
    record: dict[str, Any] = {
        "starts": list(trie.starts),
        "start": trie.start,
        "without_backoff": trie.without_backoff,
        "about": trie.about,
    }
    if words is not None:  # 8-byte items first: everything stays aligned
        blob, offsets = words.vocabulary.packed()
        arrays["offsets"] = offsets
        record["marks"] = [words.unk, words.bos, words.eos]
    arrays |= {name: getattr(trie, name) for name in ARRAYS}
    if words is not None:
        arrays["blob"] = blob
    header: dict[str, Any] = {
        "__metadata__": {"format": FORMAT, "format_version": str(VERSION), "model": json.dumps(record)}
    }
    at = 0
    for name, array in arrays.items():
        header[name] = {"dtype": NAMES[array.dtype], "shape": [len(array)], "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            for i in range(0, len(array), PIECE):
                handle.write(np.ascontiguousarray(array[i : i + PIECE]).tobytes())
    return Path(path)


def read_binary(path: str | Path, *, full: bool = False) -> Trie | WordModel:
    """Map a model that `write_binary` wrote: a WordModel where it has words, else its trie.

    Args:
        full: check every value, which reads the complete file, not a sample of them.

    Raises:
        CheckpointError: a file that is missing, cut off, of another format or version, or that contradicts itself.
    """
    path = Path(path)
    header, data_at, size = _header(path)
    try:
        meta = header.pop("__metadata__")
        if meta.get("format") != FORMAT:
            raise CheckpointError(f"{path}: is not an n-gram model of llmanac")
        if meta.get("format_version") != str(VERSION):
            raise CheckpointError(
                f"{path}: format_version is {meta.get('format_version')!r}, this llmanac reads {VERSION}; {AGAIN}"
            )
        record = json.loads(meta["model"])
        _check_apart(header)
        arrays = {name: _map(path, entry, data_at, size) for name, entry in header.items()}
        starts, start = tuple(map(_whole, record["starts"])), _whole(record["start"])
        words, logs, weights, first = (arrays[name] for name in ARRAYS)
        without_backoff, about = bool(record["without_backoff"]), dict(record["about"])
        trie = Trie(starts, words, logs, weights, first, without_backoff, start, about)
        _check(trie)
        check_levels(trie)
        check_values(trie, full)
        if "marks" not in record:
            return trie
        vocabulary = NgramVocabulary.of(np.array(arrays["blob"]), np.array(arrays["offsets"]))
        marks = [_whole(n) for n in record["marks"]]
        if len(vocabulary) != trie.vocab_size or len(marks) != 3 or not all(0 <= m < len(vocabulary) for m in marks):
            raise ValueError("its words do not fit its n-grams")
        known = [vocabulary.get(mark) for mark in MARKS]
        if len(set(marks)) < 3 or any(k not in (None, m) for k, m in zip(known, marks, strict=True)):
            raise ValueError("its marks are other words than <unk>, <s> and </s>")
        return WordModel(trie, vocabulary, *marks)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, DataError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}); {AGAIN}") from None


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    try:
        with open_regular(path, CheckpointError) as handle:
            size = os.fstat(handle.fileno()).st_size
            length = int.from_bytes(handle.read(8), "little")
            if not 2 <= length <= min(LONGEST_HEADER, size - 8):
                raise CheckpointError(f"{path}: is not an n-gram model of llmanac, or is cut off")
            header = json.loads(handle.read(length).decode("utf-8"))
            if not isinstance(header, dict):
                raise ValueError("not a table")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read it ({error.strerror or error})") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: is not an n-gram model of llmanac") from None
    return header, 8 + length, size


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{repr(value)[:40]} is not an integer")
    return value


def _check_apart(entries: dict[str, Any]) -> None:
    """Two arrays that share bytes cannot both be intact."""
    at = 0
    for start, stop in sorted(
        (_whole(start), _whole(stop)) for start, stop in (e["data_offsets"] for e in entries.values())
    ):
        if start < at:
            raise ValueError("its arrays overlap")
        at = max(at, stop)


def _map(path: Path, entry: dict[str, Any], data_at: int, size: int) -> np.ndarray:
    dtype: np.dtype = DTYPES[entry["dtype"]]
    (count,), (start, stop) = entry["shape"], entry["data_offsets"]
    if not (type(count) is int and 0 <= start <= stop and stop - start == count * dtype.itemsize):
        raise ValueError("an array's size contradicts itself")
    if data_at + stop > size:
        raise CheckpointError(f"{path}: is cut off: {size:,} bytes where {data_at + stop:,} should be")
    if not count:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, "r", data_at + start, (count,)).view(np.ndarray)


def _check(trie: Trie) -> None:
    starts, order = trie.starts, len(trie.starts) - 1
    if not 1 <= order <= MAX_ORDER or starts[0] != 0 or list(starts) != sorted(starts) or starts[-1] > MAX_NODES:
        raise ValueError("its levels contradict themselves")
    inner = starts[-2] if order > 1 else 0
    kinds = [(trie.words, "<i4"), (trie.logs, "<f4"), (trie.weights, "<f4"), (trie.first, "<i4")]
    sizes = [len(array) for array, _ in kinds]
    if sizes != [starts[-1], starts[-1], inner, inner + 1] or starts[1] < 1:
        raise ValueError("its arrays do not fit its levels")
    if any(array.dtype != np.dtype(kind) for array, kind in kinds):
        raise ValueError("its arrays have other types")
    if not -1 <= trie.start < starts[1]:
        raise ValueError("its start token is not in the vocabulary")
