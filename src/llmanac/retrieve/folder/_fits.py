"""Whether what a kept index holds fits together: compiled code reads its arrays without bounds."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NUMBERS = ("ids", "lengths", "starts", "texts")


def digest_of(data: Mapping[str, Any]) -> str:
    """The SHA-256 of a record, in hexadecimal."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def fits(data: Mapping[str, Any], arrays: Mapping[str, np.ndarray], words: Sequence[str], text: int) -> bool:
    """Compare records, arrays, vocabulary and the bytes of text.

    Whatever error comes out of it says the same as False: records of untrusted files can be of any type.
    """
    table, starts, lengths = arrays["passages"], arrays["starts"], arrays["lengths"]
    size, posts = len(table), len(arrays["texts"])
    if any(arrays[name].ndim != 1 or arrays[name].dtype.kind != "i" for name in NUMBERS):
        return False
    if any(arrays[name].ndim != 1 or arrays[name].dtype.kind != "f" for name in ("weights", "idf")):
        return False
    if "vectors" in arrays and (arrays["vectors"].ndim != 2 or len(arrays["vectors"]) != size):
        return False
    if table.shape != (size, 8) or table.dtype.kind != "i" or len(lengths) != size or len(arrays["weights"]) != posts:
        return False
    places = table[:, 1:4]
    counts = [count for record in data["records"] for _, count in record["documents"]]
    return bool(
        starts[0] == 0
        and starts[-1] == posts
        and (np.diff(starts) >= 0).all()
        and len(set(words)) == len(words) == len(arrays["idf"]) == len(starts) - 1
        and _within(arrays["texts"], size)
        and _within(arrays["ids"], len(words))
        and lengths.min() >= 0
        and lengths.sum() == len(arrays["ids"])
        and (np.diff(places, axis=1) >= 0).all()
        and places.min() >= 0
        and places.max() <= text
        and all(type(count) is int and count >= 0 for count in counts)
        and sum(counts) == size
        and np.array_equal(table[:, 0], np.repeat(np.arange(len(counts)), counts))
        and all(isinstance(name, str) for record in data["records"] for name, _ in record["documents"])
        and all(isinstance(r["file"], str) and {"stamp", "sha256"} <= set(r) for r in data["records"])
        and all(isinstance(x, str) for r in data["records"] for a, _, b in r.get("problems", []) for x in (a, b))
        and all(type(more) is int for r in data["records"] for more in r.get("counts", {}).values())
    )


def _within(numbers: np.ndarray, stop: int) -> bool:
    return len(numbers) == 0 or (int(numbers.min()) >= 0 and int(numbers.max()) < stop)
