"""Finished runs as points (N, D, L), read from a table with a row a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import DataError, SpecError
from llmanac.data.command_problems import CommandProblems
from llmanac.data.readers import table_rows

Counted = Literal["total", "non-embedding"]
COLUMNS = {  # what a column may be called, in small letters and with spaces for `_` and `-`
    "total": ("parameters", "params", "n", "model size", "total parameters"),
    "non-embedding": ("non embedding parameters", "non embedding", "non embedding params"),
    "tokens": ("tokens", "d", "training tokens"),
    "flops": ("flops", "c", "compute", "training flop", "training flops"),
    "loss": ("loss", "l", "final loss", "held out loss"),
}
MOST_ROWS = 100_000


@dataclass(frozen=True)
class Points:
    """Runs of several sizes.

    Attributes:
        parameters, tokens, loss: (n,); losses are nats a token.
        counted: what `parameters` counts.
        skipped: rows without a finite loss.
    """

    parameters: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    counted: Counted = "total"
    skipped: int = 0

    @property
    def flops(self) -> np.ndarray:
        """6 N D."""
        return 6 * self.parameters * self.tokens

    def without_highest(self, count: int) -> Points:
        """Without the `count` highest losses. Raises SpecError where nothing would be left."""
        if not 0 <= count < len(self.loss):
            raise SpecError(f"--drop-highest: {count} of {len(self.loss)} runs; give a smaller number")
        keep = np.sort(np.argsort(self.loss, kind="stable")[: len(self.loss) - count])
        return Points(self.parameters[keep], self.tokens[keep], self.loss[keep], self.counted, self.skipped)


def read_points(path: Path, counted: Counted = "total") -> Points:
    """The runs of a table. Tokens may be missing where there is a compute: D = C / 6N.

    Raises:
        DataError: a file without the columns, or a value that is not a positive number; the message has its line.
    """
    rows, skipped = [], 0
    columns: dict[str, str] | None = None
    for line, row in ((one.line, one.values) for one in table_rows(path, CommandProblems())):
        if columns is None:
            columns = _columns(path, row, counted)
        loss = _number(path, line, row, columns["loss"], missing=True)
        if loss is None:
            skipped += 1
            continue
        size = _number(path, line, row, columns[counted])
        assert size is not None
        if "tokens" in columns:
            tokens = _number(path, line, row, columns["tokens"])
        else:
            tokens = (_number(path, line, row, columns["flops"]) or 0) / (6 * size)
        rows.append((size, tokens, loss))
        if len(rows) > MOST_ROWS:
            raise DataError(f"{path}: more than {MOST_ROWS:,} runs; give the last point of each run only")
    if not rows:
        raise DataError(f"{path}: has no run with a loss")
    sizes, tokens_of, losses = np.array(rows, float).T
    return Points(sizes, tokens_of, losses, counted, skipped)


def _columns(path: Path, row: Mapping[str, Any], counted: str) -> dict[str, str]:
    """The name of each column that is there."""
    names = {str(name).strip().lower().replace("_", " ").replace("-", " "): name for name in row}
    found = {what: names[alias] for what, aliases in COLUMNS.items() for alias in aliases if alias in names}
    wanted = [counted, "loss", *([] if "flops" in found else ["tokens"])]
    for what in wanted:
        if what not in found:
            other = " or flops" if what == "tokens" else ""
            raise DataError(
                f"{path}: has no column for {what}{other} ({', '.join(map(repr, COLUMNS[what]))}); its columns are "
                f"{', '.join(map(repr, row))}"
            )
    return found


def _number(path: Path, line: int, row: Mapping[str, Any], name: str, *, missing: bool = False) -> float | None:
    value = row.get(name)
    try:
        number = float("nan" if missing and value in (None, "") else value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise DataError(f"{path}:{line}: {name}: {value!r} is not a number") from None
    if missing and not math.isfinite(number):
        return None
    if not 0 < number < math.inf:
        raise DataError(f"{path}:{line}: {name}: {value!r} is not a positive number")
    return number


def groups(values: np.ndarray, tolerance: float) -> Sequence[np.ndarray]:
    """Indices of values that are equal within a relative tolerance of the first of their group."""
    order = np.argsort(values, kind="stable")
    out, start = [], 0
    for at in range(1, len(order) + 1):
        if at == len(order) or values[order[at]] > values[order[start]] * (1 + tolerance):
            out.append(order[start:at])
            start = at
    return out
