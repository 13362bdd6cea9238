"""`--tune lr=3`: every arm gets the same small sweep of its learning rate, on a seed and on texts of their own.

The grid is the same factors for every arm, two apart, around the rate that the arm's recipe states. The sweep is judged
on tuning texts under a seed that the result does not use, so picking the best of it cannot flatter any arm.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from llmanac.core.errors import SpecError
from llmanac.core.spec import patch
from llmanac.lab.axis import Arm
from llmanac.lab.cache import StudyCache
from llmanac.lab.study import Advance, Trial, attempt

TUNING_SEED = 1_000_000
MOST = 9


def parse_tune(text: str | None) -> tuple[float, ...]:
    """`lr=3` -> the factors (0.5, 1, 2); None -> ().

    Raises:
        SpecError: another field than lr, or a number outside 2 to 9.
    """
    if text is None:
        return ()
    match = re.fullmatch(r"\s*lr\s*=\s*(\d+)\s*", text)
    if not match or not 2 <= int(match[1]) <= MOST:
        raise SpecError(f"--tune {text!r}: expected lr=N with N from 2 to {MOST}, for example --tune lr=3")
    count = int(match[1])
    return tuple(2.0 ** (i - (count - 1) / 2) for i in range(count))


def scaled(arm: Arm, factor: float) -> Arm:
    """The arm with every learning rate of its optimizer times a factor.

    Raises:
        SpecError: an optimizer without a learning rate.
    """
    optimizer = arm.spec.train.optimizer
    before = {
        f"train.optimizer.{f.name}": getattr(optimizer, f.name)
        for f in dataclasses.fields(optimizer)
        if (f.name == "lr" or f.name.endswith("_lr")) and isinstance(getattr(optimizer, f.name), float)
    }
    if not before:
        raise SpecError(f"--tune: arm {arm.label!r} uses {optimizer.name}, which has no learning rate to tune")
    if factor == 1.0:
        return arm
    after = {path: value * factor for path, value in before.items()}
    moved = {path: (arm.diff.get(path, (before[path], None))[0], value) for path, value in after.items()}
    return dataclasses.replace(arm, spec=patch(arm.spec, after), diff=arm.diff | moved, held=arm.held | moved)


def tune(
    trial: Trial, arms: Sequence[Arm], factors: Sequence[float], cache: StudyCache, advance: Advance | None = None,
) -> tuple[list[Arm], dict[str, Any]]:  # fmt: skip
    """Sweep every arm; returns the arms at their best factor, and the record of the sweep.

    A rate at which training diverges loses. An arm for which every rate diverges keeps the rate it has.
    """
    metric = trial.metrics[0]
    sign = 1 if metric.better == "lower" else -1
    values: dict[str, dict[str, float | None]] = {arm.label: {} for arm in arms}
    for factor in factors:
        for arm in arms:
            tried = scaled(arm, factor)
            found, cached = cache.run(
                trial.parts(tried, TUNING_SEED),
                lambda work, tried=tried: attempt(trial, tried, TUNING_SEED, work),  # type: ignore[misc]
            )
            numbers = found["values"].get(metric.name)
            values[arm.label][f"{factor:g}"] = numbers[0] if numbers else None
            if advance:
                advance(arm.label, TUNING_SEED, cached, found["failed"])
    chosen: dict[str, float] = {}
    for arm in arms:
        done = {f: v for f in factors if (v := values[arm.label][f"{f:g}"]) is not None}
        chosen[arm.label] = min(done, key=lambda f: sign * done[f]) if done else 1.0
    edges = [label for label, factor in chosen.items() if factor in (factors[0], factors[-1])]
    record = {
        "field": "lr", "factors": list(factors), "seed": TUNING_SEED, "values": values, "chosen": chosen,
        "at_the_edge": edges,
    }  # fmt: skip
    return [scaled(arm, chosen[arm.label]) for arm in arms], record
