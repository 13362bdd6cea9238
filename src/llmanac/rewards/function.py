"""A user's own reward: a Python function in a file, of one sample or of TRL's form.

    def reward(text, row): ...                              one answer and its row -> a number
    def reward(prompts, completions, **columns): ...        TRL's: lists -> a list of numbers

The file is run: it is the user's own code, as if imported. An exception in it stops the run with the row it was given;
nothing that was trained before is lost.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, SpecError
from llmanac.rewards import Reward, RewardSpec, Sample, Score

CARD = {
    "title": "A function of one's own",
    "paper": "none",
    "reference": "the function called by hand, and TRL's calling convention",
    "test": "tests/references/test_rewards.py::test_function",
}


@dataclass(frozen=True, kw_only=True)
class Spec(RewardSpec):
    """Attributes: file: `FILE.py:function`."""

    file: str = "reward.py:reward"

    def build(self, **context: Any) -> Reward:
        path, _, name = self.file.rpartition(":")
        if not path or not name.isidentifier():
            raise SpecError(f"file: {self.file!r} is not FILE.py:function")
        function = load_function(Path(path), name)
        known = list(inspect.signature(function).parameters.values())
        lists = {"completions"} & {p.name for p in known}

        def reward(samples: Sequence[Sample]) -> list[Score]:
            found = _lists(function, samples) if lists else [_one(function, sample, self.file) for sample in samples]
            if len(found) != len(samples):
                raise DataError(f"{self.file}: gave {len(found)} rewards for {len(samples)} answers")
            return [Score(_number(value, sample, self.file)) for value, sample in zip(found, samples, strict=True)]

        return reward


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """A function of a Python file. Raises SpecError where the file or the function is not there, or does not run."""
    if not path.is_file():
        raise SpecError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"reward_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SpecError(f"{path}: does not run ({type(error).__name__}: {error})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise SpecError(f"{path}: has no function {name!r}")
    found: Callable[..., Any] = function
    return found


def _one(function: Callable[..., Any], sample: Sample, name: str) -> Any:
    try:
        return function(sample.text, sample.row)
    except Exception as error:
        raise DataError(
            f"{name}: raised {type(error).__name__}: {error}; answer {sample.text[:80]!r}, "
            f"row {str(dict(sample.row))[:200]}"
        ) from error


def _lists(function: Callable[..., Any], samples: Sequence[Sample]) -> list[Any]:
    names = sorted({key for sample in samples for key in sample.row} - {"prompts", "completions"})
    columns = {key: [sample.row.get(key) for sample in samples] for key in names if key not in ("prompt", "completion")}
    prompts, completions = [s.prompt for s in samples], [s.text for s in samples]
    try:
        return list(function(prompts=prompts, completions=completions, **columns))
    except Exception as error:
        raise DataError(
            f"reward {getattr(function, '__name__', 'function')}: raised {type(error).__name__}: {error}; first answer "
            f"{completions[0][:80]!r}"
        ) from error


def _number(value: Any, sample: Sample, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{name}: gave {value!r} for the answer {sample.text[:80]!r}; a finite number was expected")
    return number
