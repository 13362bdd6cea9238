"""Rewards: how good a sampled answer is. `build() -> Reward`, which scores many samples at once.

reward = make_method("reward", {"name": "exact-match", "convention": "gsm8k"}).build()
reward([Sample(row={"answer": "42"}, prompt="6 * 7 =", text=" 42", finished=True)])      # [Score(1.0)]
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from llmanac.core.errors import DataError, SpecError, shown
from llmanac.core.spec import Spec

LARGEST = 1e12  # of a reward: squares of advantages stay finite in float32


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sampled answer as a reward sees it.

    Attributes:
        row: the columns of the data set's row (`answer`, `entry`, ...).
        prompt, text: what the model read and wrote; finished: whether it ended by itself.
        tokens: how many it wrote.
    """

    row: Mapping[str, Any]
    prompt: str
    text: str
    finished: bool
    tokens: int = 0

    def column(self, name: str) -> Any:
        """A column of the row. Raises DataError where it has none of that name."""
        if name not in self.row:
            has = ", ".join(sorted(map(str, self.row))) or "none"
            raise DataError(f"reward: the rows have no column {name!r} (they have: {has})")
        return self.row[name]


@dataclass(frozen=True)
class RewardScore:
    """A reward, the parts that it is made of by name (for the log), and the tokens that a model read for it."""

    value: float
    parts: dict[str, float] = field(default_factory=dict)
    tokens: int = 0


class Reward(Protocol):
    """Scores samples, in their order."""

    def __call__(self, samples: Sequence[Sample]) -> list[RewardScore]: ...


@dataclass(frozen=True, kw_only=True)
class RewardSpec(Spec):
    """`build() -> Reward`."""

    kind = "reward"
    path = cast("str | None", None)  # a field of some

    def build(self, **context: Any) -> Reward:
        """Raises SpecError, DataError or CheckpointError for what it cannot read."""
        raise NotImplementedError


def checked(value: float, sample: Sample, name: str) -> float:
    """A reward that training can compute with. Raises DataError for one that is not finite, or above `LARGEST`."""
    if not abs(value) <= LARGEST:
        what = "at most 1e12" if math.isfinite(value) else "a finite number"
        row = shown(dict(sample.row))[:200]
        raise DataError(f"{name}: gave {value!r} for the answer {sample.text[:80]!r}, row {row}; {what} was expected")
    return value


def each(score: Any) -> Reward:
    """A Reward from a function of one sample."""

    def reward(samples: Sequence[Sample]) -> list[RewardScore]:
        return [RewardScore(float(score(sample))) for sample in samples]

    return reward


def read_rewards(names: list[str] | None) -> Any:
    """`--reward` as a reward's fields: one, or a sum of several with their weights.

    Raises:
        SpecError: a name that is no reward, no function and no folder, or a weight that is no number.
    """
    if not names:
        return None
    found, weights = [], []
    for name in names:
        text, _, weight = name.rpartition("=") if "=" in name and "==" not in name else (name, "", "")
        try:
            weights.append(float(weight) if text and weight else 1.0)
        except ValueError:
            raise SpecError(f"--reward {name}: {weight!r} is no weight; write NAME=0.5") from None
        found.append(_reward(text or name))
    if len(found) == 1 and weights == [1.0]:
        return found[0]
    return {"name": "mix", "parts": found, "weights": weights}


def _reward(name: str) -> Any:
    from llmanac.core import registry
    from llmanac.core.errors import nearest

    if ".py:" in name:
        return {"name": "function", "file": name}
    if Path(name).is_dir():
        return {"name": "model", "path": name}
    known = registry.methods("reward")
    if name not in known:
        hint = nearest(name, known)
        raise SpecError(
            f"--reward: {name!r} is not known{hint}; give FILE.py:function, a folder, or {', '.join(known)}"
        )
    return name
