"""Vectors of passages. An encoder needs hours for a million of them, so a run that is killed goes on where it was.

PLACE.vectors/      next to the index, until it has its vectors
    encoder.json    the encoder's Spec, and the size of a vector
    rows.bin        rows of 16 bytes, the BLAKE2b hash of a text, and its vector in the Spec's dtype
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import files
from llmanac.core.errors import DataError, LlmanacError
from llmanac.core.outputs import check_own_folder
from llmanac.core.progress import say_once
from llmanac.core.spec import dump
from llmanac.retrieve.dense import CHANGED, Dense, Encode, Spec, same

OWN = ("encoder.json", "rows.bin")
KEY = 16
MOST_NUMBERS = 1 << 16  # of a vector, as a damaged record may say


def place_of(index: Path) -> Path:
    """Where what is done of an index's vectors is kept."""
    return index.parent / f"{index.name}.vectors"


def check_place(place: Path) -> None:
    """Refuse a place with files of others, which would be removed. Raises SpecError."""
    check_own_folder(place, "--index", OWN, what="vectors of an index")


def text_of(heading: str, own: str) -> str:
    """A passage as an encoder reads it."""
    return f"{heading}\n{own}" if heading else own


def vectors_of(
    index: Path, text: bytearray, table: np.ndarray, kept: np.ndarray, held: np.ndarray | None, spec: Spec,
    encode: Encode | None = None,
) -> np.ndarray:  # fmt: skip
    """(P, D) vectors of an index's passages.

    Args:
        index: the place of the index. text: its `text.bin`. table: (P, 8), its `passages.npy`.
        kept: (P,) the number that each passage had in `held`, or -1; held: vectors of the same encoder, or None.

    Raises:
        DataError: the encoder does not give the vectors of before any more. LlmanacError: the place cannot be written.
    """
    fresh = np.flatnonzero(kept < 0) if held is not None else np.arange(len(table))

    def read(place: int) -> str:
        begin, middle, end = table[place, 1:4].tolist()
        return text_of(text[begin:middle].decode(), text[middle:end].decode())

    made, old = embedded(place_of(index), list(map(read, fresh.tolist())), spec, encode), np.flatnonzero(kept >= 0)
    if held is None:
        return made
    if len(made) and len(old) and not _knows(spec, encode, read(old[0]), held[kept[old[0]]]):
        forget(place_of(index))
        raise DataError(f"{spec.model}: {CHANGED} ({index})")
    vectors = np.empty((len(table), held.shape[1]), spec.dtype)
    if len(made):
        vectors[fresh] = made
    vectors[old] = held[kept[old]]
    return vectors


def _knows(spec: Spec, encode: Encode | None, text: str, kept: np.ndarray) -> bool:
    """Whether the encoder gives a text the vector that was kept."""
    return same(Dense((text,), spec, encode=encode).vectors[0], kept)


def embedded(place: Path, texts: Sequence[str], spec: Spec, encode: Encode | None = None) -> np.ndarray:
    """(N, D) the vectors of texts; equal texts are embedded once, and those that `place` holds not again.

    Args:
        place: folder that keeps what is done; the caller removes it with `forget`, and holds a lock.

    Raises:
        LlmanacError: the place cannot be written.
        KeyboardInterrupt: after Ctrl-C; what is kept is said on standard error.
    """
    keys = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY).digest() for text in texts]
    rows, most = _rows(place, spec), len(set(keys))
    held = {key: i for i, key in enumerate(_keys(rows))}
    new = {key: text for key, text in zip(keys, texts, strict=True) if key not in held}
    known = next((i for i, key in enumerate(keys) if key in held), None)
    if new and (known is None or not _knows(spec, encode, texts[known], rows["vector"][held[keys[known]]])):
        forget(place)  # of other texts, or of an encoder that has changed
        rows, held, new = rows[:0], {}, dict(zip(keys, texts, strict=True))
    if new and len(new) < most:
        say_once(f"note: {most - len(new):,} of {most:,} vectors were kept by a run that was stopped")
    try:
        parts = _made(place, rows, new, held, spec, encode)
    except KeyboardInterrupt:
        done = len(held.keys() & set(keys))
        say_once(f"stopped; {done:,} of {most:,} vectors are kept; the same command goes on")
        raise
    if not parts:
        return np.empty((0, 0), spec.dtype)
    joined = np.concatenate(parts)
    return joined if len(new) == len(texts) else joined[[held[key] for key in keys]]


def _made(
    place: Path, rows: np.ndarray, new: dict[bytes, str], held: dict[bytes, int], spec: Spec, encode: Encode | None
) -> list[np.ndarray]:
    """The kept vectors and those of `new`; each block is kept as soon as it is made, its keys are added to `held`."""
    parts = [rows["vector"]] if len(rows) else []
    count, left = len(rows), iter(list(new))
    for vectors in Dense((), spec, encode=encode).batches(list(new.values())):
        made = np.empty(len(vectors), _row(spec, vectors.shape[1]))
        made["vector"] = vectors
        made["key"] = np.frombuffer(b"".join(next(left) for _ in range(len(made))), f"V{KEY}")
        if not parts:
            place.mkdir(parents=True, exist_ok=True)
            files.write_json(place / "encoder.json", {"spec": dump(spec), "width": vectors.shape[1]})
        files.append(place / "rows.bin", made.tobytes())
        held |= {key: count + i for i, key in enumerate(_keys(made))}
        count += len(made)
        parts.append(vectors)
    return parts


def forget(place: Path) -> None:
    """Remove what was kept."""
    shutil.rmtree(place, ignore_errors=True)


def _row(spec: Spec, width: int) -> np.dtype[Any]:
    return np.dtype([("key", f"V{KEY}"), ("vector", spec.dtype, (width,))])


def _keys(rows: np.ndarray) -> list[bytes]:
    data = rows["key"].tobytes()
    return [data[i : i + KEY] for i in range(0, len(data), KEY)]


def _rows(place: Path, spec: Spec) -> np.ndarray:
    """What is done already, without a row that was not written to its end; a place of another encoder is emptied."""
    try:
        record = files.read_table(place / "encoder.json")
        width = record.get("width")
        if record.get("spec") == dump(spec) and isinstance(width, int) and 0 < width <= MOST_NUMBERS:
            kind, path = _row(spec, width), place / "rows.bin"
            os.truncate(path, path.stat().st_size // kind.itemsize * kind.itemsize)
            rows: np.ndarray = np.fromfile(path, kind)
            if np.isfinite(rows["vector"]).all():
                return rows
    except (LlmanacError, OSError):
        pass
    forget(place)
    return np.empty(0, _row(spec, 1))
