"""Proof that arms were paired: equal initial tensors, equal rows of training text in equal order.

Two facts make arms comparable seed by seed: a parameter's initial values come from a hash of (seed, name, shape), and
rows come from one stream that the seed determines. Both are verified: every run hashes its initial tensors and the
first rows it trained on, and a study whose arms disagree stops.

A method may ask for another scale of the same draw (sinusoidal positions for larger embeddings): all values are
std x z with z determined by (seed, name, shape). Hashes then differ, so both models are built again, verified by their
hashes to be the trained ones, and their tensors are compared number by number: tensors that are equal up to one factor
are recorded with that factor, anything else is refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llmanac.core.errors import LlmanacError
from llmanac.core.types import SourceState
from llmanac.lab.cache import digest

if TYPE_CHECKING:
    from torch import Tensor, nn

RECORDED_ROWS = 256
SCALE_TOLERANCE = 1e-6  # relative, each number: float32 rounds at 6e-8, another draw differs by about 1


def initial_tensors(model: nn.Module) -> dict[str, np.ndarray]:
    """`{"name (shape)": values}` of every parameter, a quantized one in its parts; a tied tensor counts once."""
    from llmanac.models.quantized import Quantized  # torch

    held = {
        f"{name} {tuple(parameter.shape)} {part}".rstrip(): values
        for name, parameter in model.named_parameters()
        for part, values in (parameter.parts if isinstance(parameter, Quantized) else {"": parameter}).items()
    }
    return {name: values.detach().cpu().contiguous().numpy() for name, values in held.items()}


def hash_tensor(values: np.ndarray) -> str:
    """sha256 of a tensor's bytes."""
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def hash_parameters(model: nn.Module) -> dict[str, str]:
    """`{"name (shape)": sha256}` of every parameter's bytes."""
    return {name: hash_tensor(values) for name, values in initial_tensors(model).items()}


def scale_between(first: np.ndarray, other: np.ndarray) -> float | None:
    """The one positive factor by which every number of `other` is the one of `first`, or None where there is none.

    Two constant tensors always have such a factor, which would prove nothing: None.
    """
    a, b = first.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    if a.shape != b.shape or not a.size or a.min() == a.max():
        return None
    factor = float(a @ b) / float(a @ a)
    if not (math.isfinite(factor) and factor > 0):
        return None
    return factor if bool((np.abs(b - factor * a) <= SCALE_TOLERANCE * np.abs(b)).all()) else None


def hash_row(row: Any) -> str:
    """sha256 of a row's tokens, or of what it is written as where it is not tokens (texts, pairs)."""
    try:
        data = np.ascontiguousarray(np.asarray(getattr(row, "ids", row), np.int64)).tobytes()
    except (TypeError, ValueError):
        data = repr(row).encode()
    return hashlib.sha256(data).hexdigest()[:16]


class RecordingStream:
    """A source that hashes the first rows that pass through it; everything else is delegated.

    A run that is resumed past them has no rows to hash, so `restore` reads the first ones again from a fresh stream.
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

    def state(self) -> SourceState:
        """The state of the source."""
        return self._source.state()

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue from a state. Beyond the start, the first rows of a fresh stream are hashed instead."""
        self._source.restore(state, tensors)
        fresh = self._fresh()
        self.hashes = [] if state == fresh.state()[0] else [hash_row(row) for row in fresh.take(self._rows)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


Initial = Callable[[str, int], Mapping[str, np.ndarray]]


def pairing_record(
    hashes: Mapping[int, Mapping[str, Mapping[str, Any]]], *, same_start: bool = True, same_rows: bool = True,
    initial: Initial | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Check and record the pairing, seed by seed.

    Args:
        hashes: by seed and arm, `parameters` as `hash_parameters` gave them and `rows` in order.
        same_start, same_rows: what must agree; else differences are only counted.
        initial: rebuilds the initial tensors of an arm under a seed, as `initial_tensors` returns them; called where
            hashes differ. Without it every difference is refused.

    Raises:
        LlmanacError: two arms differ in what must be equal; the message names the first tensor or row.
    """
    record: dict[str, Any] = {"checked": False, "seeds": {}}
    for seed, by_arm in hashes.items():
        if len(by_arm) < 2:
            continue
        first, *others = by_arm
        shared, tensors, rows = set[str](), [], []
        scaled: dict[str, dict[str, float]] = {}
        for arm in others:
            mine, theirs = by_arm[first]["parameters"], by_arm[arm]["parameters"]
            both = sorted(mine.keys() & theirs.keys())
            shared.update(both)
            unequal = [name for name in both if mine[name] != theirs[name]]
            if unequal and same_start and initial:
                scaled[arm] = _scales(unequal, (mine, initial(first, seed)), (theirs, initial(arm, seed)))
            tensors += [(arm, name) for name in unequal if name not in scaled.get(arm, {})]
            pairs = list(zip(by_arm[first]["rows"], by_arm[arm]["rows"], strict=False))
            rows += [(arm, f"training row {i}") for i, (a, b) in enumerate(pairs) if a != b][:1]
        named = [(arm, f"the initial tensor {name}") for arm, name in tensors]
        wrong = (named if same_start else []) + (rows if same_rows else [])
        if wrong:
            arm, what = wrong[0]
            raise LlmanacError(
                f"pairing: {first} and {arm} differ in {what} under seed {seed}; arms that do not start equal cannot "
                "be compared, so the study stops here"
            )
        unlike = {name for _, name in tensors}.union(*scaled.values())
        record["checked"] = True
        read = min(len(found["rows"]) for found in by_arm.values())  # one that was resumed has hashed more
        record["seeds"][str(seed)] = {
            "reference": first,
            "shared_tensors": len(shared - unlike),
            "scaled": {arm: factors for arm, factors in scaled.items() if factors},
            "tensors_that_differ": len(tensors),
            "rows": read,
            "rows_equal": not rows,
            "tensor_hash": digest({name: by_arm[first]["parameters"][name] for name in sorted(shared)})[:16],
            "row_hash": digest(list(by_arm[first]["rows"][:read]))[:16],
        }
    return record


Side = tuple[Mapping[str, str], Mapping[str, np.ndarray]]


def _scales(names: list[str], first: Side, other: Side) -> dict[str, float]:
    """The factor of every tensor that is the same draw at another scale.

    A side is the hashes of the trained tensors, and the rebuilt tensors: these count only if their hashes agree.
    """
    out = {}
    for name in names:
        if all(name in built and hash_tensor(built[name]) == known[name] for known, built in (first, other)):
            factor = scale_between(first[1][name], other[1][name])
            if factor is not None:
                out[name] = factor
    return out
