"""What a tuning gives: the rows it read, what it trained, what was measured before and after."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core import spec
from llmanac.metrics import ItemSums
from llmanac.train.loop import TrainResult


@dataclass(frozen=True)
class Tuned:
    """A finished tuning.

    Attributes:
        rows: what became of the rows, for a table.
        trained, total: parameters.
        before, after: what is measured, by held-out row; None without held-out rows. measures: its name and unit.
        chats: whether the tokenizer has a chat template.
    """

    folder: Path
    rows: list[tuple[str, str]]
    trained: int
    total: int
    training: TrainResult
    before: ItemSums | None
    after: ItemSums | None
    measures: str = "loss, nats a token"
    chats: bool = True
    answers: tuple[float, float] | None = None  # their loss before and after, where a teacher's is measured

    def change(self) -> tuple[float, float, float] | None:
        """after - before, with its 95% interval over rows (normal, of a ratio of sums)."""
        return None if self.before is None or self.after is None else paired_change(self.before, self.after)


def paired_change(before: ItemSums, after: ItemSums) -> tuple[float, float, float] | None:
    """after - before on the same rows, with its 95% interval (normal, of a ratio of sums); None for a single row."""
    if len(before) < 2:
        return None
    units = before.units
    total, count = math.fsum(units), len(units)
    parts = [b - a for a, b in zip(before.sums, after.sums, strict=True)]
    mean = math.fsum(parts) / total
    spread = math.fsum((d - mean * u) ** 2 for d, u in zip(parts, units, strict=True))
    half = 1.959963984540054 * math.sqrt(spread * count / (count - 1)) / total
    return mean, mean - half, mean + half


def results(result: Tuned) -> dict[str, Any]:
    """The contents of results.json."""
    change = result.change()
    return {
        "rows": dict(result.rows),
        "parameters": {"trained": result.trained, "total": result.total},
        "steps": result.training.steps,
        "tokens": result.training.tokens,
        "seconds": round(result.training.seconds, 2),
        "tokens_per_second": result.training.tokens_per_second,
        "train": spec.dump(result.training.spec),
        "held_out": None
        if result.before is None or result.after is None
        else {
            "rows": len(result.before),
            "measures": result.measures,
            "before": result.before.mean,
            "after": result.after.mean,
            "change": None if change is None else {"mean": change[0], "low": change[1], "high": change[2]},
            **({} if result.answers is None else {"answer_loss": list(result.answers)}),
        },
        "next": [f"llmanac {'chat' if result.chats else 'generate'} {shlex.quote(str(result.folder))}"],
    }
