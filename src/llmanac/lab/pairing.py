"""Proof that arms were paired: equal initial tensors, equal rows of training text in equal order.

Two facts make arms comparable seed by seed: a parameter's initial values come from a hash of (seed, name, shape), and
rows come from one stream named by the seed. Neither is taken on trust. Every run hashes its own initial tensors and the
first rows it really trained on, and a study whose arms disagree is stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from llmanac.core.errors import LlmanacError
from llmanac.lab.cache import digest

RECORDED_ROWS = 256


def hash_parameters(model: nn.Module) -> dict[str, str]:
    """`{"name (shape)": sha256}` of every parameter's bytes; a tied tensor counts once."""
    out = {}
    for name, parameter in model.named_parameters():
        data = parameter.detach().cpu().contiguous().numpy().tobytes()
        out[f"{name} {tuple(parameter.shape)}"] = hashlib.sha256(data).hexdigest()[:16]
    return out


def hash_row(row: Any) -> str:
    """sha256 of a row's tokens, wherever they stand in it."""
    ids = np.ascontiguousarray(np.asarray(getattr(row, "ids", row), np.int64))
    return hashlib.sha256(ids.tobytes()).hexdigest()[:16]


class RecordingStream:
    """A source that hashes the first rows that pass through it; all else is the source's own.

    A run that is resumed past them has no rows to hash, so `seek` reads the first ones again from a fresh stream.
    """

    def __init__(self, source: Any, fresh: Any, rows: int = RECORDED_ROWS) -> None:
        self._source, self._fresh, self._rows = source, fresh, rows
        self.hashes: list[str] = []

    def __iter__(self) -> RecordingStream:
        return self

    def __next__(self) -> Any:
        return self._record(next(self._source))

    def take(self, count: int) -> Any:
        """The next `count` rows of the source."""
        return self._record(self._source.take(count))

    def _record(self, rows: Any) -> Any:
        left = self._rows - len(self.hashes)
        if left > 0:
            self.hashes += [hash_row(row) for row in rows[:left]]
        return rows

    def cursor(self) -> dict[str, Any]:
        """Where the source stands."""
        return self._source.cursor()

    def seek(self, cursor: dict[str, Any]) -> None:
        """Go on from a cursor: from the very start what passes is hashed, else the first rows of a fresh stream are."""
        self._source.seek(cursor)
        fresh = self._fresh()
        self.hashes = [] if cursor == fresh.cursor() else [hash_row(row) for row in fresh.take(self._rows)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def pairing_record(
    hashes: Mapping[int, Mapping[str, Mapping[str, Any]]], *, same_start: bool = True, same_rows: bool = True
) -> dict[str, Any]:
    """Check and record the pairing, seed by seed.

    Args:
        hashes: by seed and arm, `parameters` as `hash_parameters` gave them and `rows` in order.
        same_start, same_rows: what must agree; what need not is counted only.

    Raises:
        LlmanacError: two arms do not share what they must; the message names the first tensor or row that differs.
    """
    record: dict[str, Any] = {"checked": False, "seeds": {}}
    for seed, by_arm in hashes.items():
        if len(by_arm) < 2:
            continue
        first, *others = by_arm
        shared, tensors, rows = set[str](), [], []
        for arm in others:
            mine, theirs = by_arm[first]["parameters"], by_arm[arm]["parameters"]
            both = sorted(mine.keys() & theirs.keys())
            shared.update(both)
            tensors += [(arm, f"the initial tensor {name}") for name in both if mine[name] != theirs[name]]
            pairs = list(zip(by_arm[first]["rows"], by_arm[arm]["rows"], strict=False))
            rows += [(arm, f"training row {i}") for i, (a, b) in enumerate(pairs) if a != b][:1]
        wrong = (tensors if same_start else []) + (rows if same_rows else [])
        if wrong:
            arm, what = wrong[0]
            raise LlmanacError(
                f"pairing: {first} and {arm} differ in {what} under seed {seed}; arms that do not start equal cannot "
                "be compared, so the study stops here"
            )
        record["checked"] = True
        record["seeds"][str(seed)] = {
            "shared_tensors": len(shared) - len({what for _, what in tensors}),
            "tensors_that_differ": len(tensors),
            "rows": min(len(found["rows"]) for found in by_arm.values()),
            "rows_equal": not rows,
            "tensor_hash": digest({name: by_arm[first]["parameters"][name] for name in sorted(shared)})[:16],
            "row_hash": digest(list(by_arm[first]["rows"]))[:16],
        }
    return record
