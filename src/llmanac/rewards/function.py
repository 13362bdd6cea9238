"""A user's own reward: a Python function in a file, of one sample or of TRL's form.

    def reward(text, row): ...                              one answer and its row -> a number
    def reward(prompts, completions, **columns): ...        TRL's: lists -> a list of numbers

In TRL's form prompts are those of the data. Where a prompt is a list of messages, so is its completion:
[{"role": "assistant", "content": text}]; an answer that the data has after the prompt is left out.

The file is run: it is the user's own code, as if imported. An exception in it stops the run with the row it was given;
nothing that was trained before is lost.
"""

import contextlib
import functools
import inspect
import math
import os
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, SpecError, described, shown, users_code
from llmanac.core.named import run_file
from llmanac.rewards import Reward, RewardScore, RewardSpec, Sample, checked

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
        if lists and not any(p.kind is p.VAR_KEYWORD for p in known):
            function = _of_its_names(function, {p.name for p in known})

        def reward(samples: Sequence[Sample]) -> list[RewardScore]:
            with users_code(f"{self.file}:"):
                found = (
                    _lists(function, samples, self.file) if lists else [_one(function, s, self.file) for s in samples]
                )
            if len(found) != len(samples):
                raise DataError(f"{self.file}: gave {len(found)} rewards for {len(samples)} answers")
            return [
                RewardScore(_number(value, sample, self.file)) for value, sample in zip(found, samples, strict=True)
            ]

        return reward


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """A function of a Python file. Raises SpecError where the file or the function is not there, or does not run."""
    if not path.is_file():
        raise SpecError(f"{path}: no such file")
    folder = os.fspath(path.parent.resolve())
    # a name of its own: two files of the same name in two folders are two modules
    own = f"reward_{path.stem}_{zlib.crc32(os.fsencode(folder)):08x}"
    sys.path.insert(0, folder)  # its helpers, as if it were run
    try:
        module = run_file(path, own)
    except (Exception, SystemExit) as error:
        raise SpecError(f"{path}: does not run ({described(error)})") from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for what its functions import later; behind what is installed
    function = getattr(module, name, None)
    if not callable(function):
        raise SpecError(f"{path}: has no function {name!r}")
    found: Callable[..., Any] = function
    return found


def _one(function: Callable[..., Any], sample: Sample, name: str) -> Any:
    try:
        return function(sample.text, sample.row)
    except (Exception, SystemExit) as error:
        raise DataError(f"{name}: raised {described(error)}; {_named(sample)}") from error


def _of_its_names(function: Callable[..., Any], names: set[str]) -> Callable[..., Any]:
    """A function without `**columns`, which gets only what it names."""

    @functools.wraps(function)
    def called(**given: Any) -> Any:
        return function(**{name: value for name, value in given.items() if name in names})

    return called


def _lists(function: Callable[..., Any], samples: Sequence[Sample], name: str) -> list[Any]:
    names = sorted({key for sample in samples for key in sample.row} - {"prompts", "completions"})
    columns = {key: [sample.row.get(key) for sample in samples] for key in names if key not in ("prompt", "completion")}
    prompts, completions = zip(*map(_turns, samples), strict=True)
    try:
        return list(function(prompts=list(prompts), completions=list(completions), **columns))
    except Exception as error:
        if len(samples) > 1:  # which row it is shows when each is given alone
            for sample in samples:
                _lists(function, [sample], name)
        several = f" (of {len(samples)} answers, none of which fails alone)" if len(samples) > 1 else ""
        raise DataError(f"{name}: raised {described(error)}; {_named(samples[0])}{several}") from error


def _turns(sample: Sample) -> tuple[Any, Any]:
    """The prompt of the data and the completion, both texts or both lists of messages."""
    given = sample.row.get("prompt", sample.row.get("messages", sample.row.get("question", sample.prompt)))
    if not isinstance(given, (list, tuple)) or not given or not isinstance(given[-1], Mapping):
        return given if isinstance(given, str) else sample.prompt, sample.text
    messages = list(given[:-1] if given[-1].get("role") == "assistant" else given)
    return messages, [{"role": "assistant", "content": sample.text}]


def _named(sample: Sample) -> str:
    return f"answer {sample.text[:80]!r}, row {shown(dict(sample.row))[:200]}"


def _number(value: Any, sample: Sample, name: str) -> float:
    try:
        number = float(value)
    except Exception:  # the value may be of a class of the user's
        number = math.nan
    if math.isnan(number):
        raise DataError(f"{name}: gave {shown(value)}; a finite number was expected; {_named(sample)}")
    return checked(number, sample, name)
