"""An n-gram model in one file that is mapped, not read: a safetensors file with the trie's arrays.

    header length (8 bytes), JSON header, then  words  logs  weights  first  [blob  offsets]

Any safetensors reader opens it; the header's metadata say `llmanac-ngram` and the version. Opening a model takes the
header and the list of words; the trie's pages are loaded on access. A file that is cut off, has arrays that do not fit
each other, or has impossible values is refused (`checks.py` says how many values are checked); in any other damaged
file, no index is followed out of its array.

Checks of the values of a mapped trie, to detect a damaged file.

A model may be far larger than the memory and opens at once because its pages are not read, so opening makes
neither a pass over all values nor a checksum. It checks where each level's children begin and end, all tokens (the list
of words is read anyway), and `SAMPLES` evenly spaced ranges of each longer level, which is all of a level of up to
`SAMPLES * STRETCH` nodes. `llmanac ngram convert` checks every value. A model that is damaged between the ranges opens;
the kernels follow no index out of its array.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import CheckpointError, DataError
from llmanac.core.files import atomic_file, open_regular
from llmanac.models.ngrams.trie import MAX_NODES, MAX_ORDER, Trie
from llmanac.models.ngrams.vocabulary import MARKS, NgramVocabulary
from llmanac.models.ngrams.words import WordModel

SAMPLES, STRETCH = 16, 4096
WHOLE = 1 << 20  # nodes that are checked together in a full check
# A back-off weight divides by the probability that longer n-grams leave over. Files give probabilities to about seven
# digits, so the rest is at least 1e-7 or 0: no weight is above 10^7.
LARGEST_WEIGHT = 7.0
ROUNDED = 1e-3  # log10 p above 0 that rounding explains


def check_levels(trie: Trie) -> None:
    """Raises ValueError where the levels' children do not begin and end where the levels do."""
    for level in range(1, trie.order):
        if int(trie.first[trie.starts[level - 1]]) != trie.starts[level]:
            raise ValueError(f"the {level + 1}-grams do not begin where they should")
    if trie.order > 1 and int(trie.first[-1]) != trie.starts[-1]:
        raise ValueError("the longest n-grams do not end where they should")


def check_values(trie: Trie, full: bool) -> None:
    """Raises ValueError for an impossible value; `full` checks every one, else a sample of each level."""
    for level in range(1, trie.order + 1):
        for start, stop in _stretches(trie.starts[level - 1], trie.starts[level], full or level == 1):
            _check_nodes(trie, level, start, stop)


def _stretches(start: int, stop: int, full: bool) -> Iterator[tuple[int, int]]:
    if full or stop - start <= SAMPLES * STRETCH:
        for at in range(start, stop, WHOLE):
            yield at, min(at + WHOLE, stop)
        return
    for at in np.linspace(start, stop - STRETCH, SAMPLES).astype(np.int64).tolist():
        yield at, at + STRETCH


def _check_nodes(trie: Trie, level: int, start: int, stop: int) -> None:
    """The nodes from `start` to `stop`, all of one level."""
    logs = trie.logs[start:stop]
    if not (np.isfinite(logs).all() and logs.max() <= ROUNDED):
        raise ValueError(f"a {level}-gram's probability is not a number up to 1")
    if level < trie.order:
        weights, first = trie.weights[start:stop], trie.first[start : stop + 1]
        if not (np.isfinite(weights).all() and weights.max() <= LARGEST_WEIGHT):
            raise ValueError(f"a {level}-gram's weight is not finite or above 10^{LARGEST_WEIGHT:g}")
        inside = trie.starts[level] <= first.min() and first.max() <= trie.starts[level + 1]
        if not (inside and (first[1:] >= first[:-1]).all()):
            raise ValueError(f"what follows a {level}-gram is out of order")
    words = trie.words[start:stop]
    if level == 1:
        if not np.array_equal(words, np.arange(start, stop)):
            raise ValueError("its tokens are out of order")
        return
    if not (words.min() >= 0 and words.max() < trie.vocab_size):
        raise ValueError(f"a {level}-gram's last token is not in the vocabulary")
    begins = trie.first[trie.starts[level - 2] : trie.starts[level - 1] + 1]  # of each shorter one's children
    low, high = np.searchsorted(begins, np.int32(start), "right"), np.searchsorted(begins, np.int32(stop), "left")
    borders = begins[low:high].astype(np.int64)
    if len(borders) and not (borders.min() > start and borders.max() < stop):
        raise ValueError(f"what follows a {level - 1}-gram is out of order")
    rises = words[1:] > words[:-1]
    rises[borders - start - 1] = True  # another context begins there
    if not rises.all():
        raise ValueError(f"the {level}-grams are out of order")


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
